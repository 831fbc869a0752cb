"""The eight models: `AlbertModel` under each of its heads, with Hugging Face's names, and the two functions through
which the rest of the code sees any of them: `initialize` and `apply`.

Every model is called with `input_ids`, `token_type_ids` and `attention_mask` (True on tokens) of [B, L] and the
settings of `AlbertModel`, and gives logits in float32 beside what lies below them. Logits for each sequence are [B, S,
...] where S sequences are packed into a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from albert_jax.config import AlbertConfig
from albert_jax.model.encoder import AlbertModel
from albert_jax.model.layers import (
    ACTIVATIONS,
    Keys,
    LayerNorm,
    Linear,
    at_positions,
    dropout,
    fold_in,
    truncated_normal,
)
from albert_jax.packed import members, of_own_sequence, sequence_log_softmax

Params = dict[str, Any]
"""Nested dict of float32 arrays."""

CLASSIFIER_KEYS = 2**30 + 1
"""What the dropout below a classifier folds into the keys; layers fold in their number."""

BEAM_STARTS, BEAM_ENDS = 5, 5
"""Starts that Google's SQuAD 2.0 code keeps of a window (start_n_top), and ends for each (end_n_top)."""


class PreTrainingOutput(NamedTuple):
    """Logits in float32, and what lies below them (see `AlbertModel`)."""

    mlm_logits: Float[Array, "B P V"]
    sop_logits: Float[Array, "B *S labels"]
    hidden: dict[str, Array | None]


class Output(NamedTuple):
    """Logits in float32 (None without a head), and what lies below them (see `AlbertModel`)."""

    logits: Float[Array, "..."] | None
    hidden: dict[str, Array | None]


class BeamTrainingOutput(NamedTuple):
    """What `AlbertForBeamQuestionAnswering` says where the starts are known, in float32. Logarithms of probabilities
    are about -1e30 where no answer may start or end."""

    start_log_probs: Float[Array, "B L"]
    end_log_probs: Float[Array, "B L"]
    """of ends, given the known start of the token's sequence"""
    answer_class: Float[Array, "B S"]
    """logits: the higher, the less is there an answer"""
    hidden: dict[str, Array | None]


class BeamOutput(NamedTuple):
    """What `AlbertForBeamQuestionAnswering` says where the starts are to be found, in float32: of each sequence the
    likeliest starts, and for each of them the likeliest ends. Where a sequence has fewer, the rest have the logarithm
    -inf and place 0. Places are those of the row."""

    start_top_log_probs: Float[Array, "B S starts"]
    start_top_index: Int[Array, "B S starts"]
    end_top_log_probs: Float[Array, "B S starts ends"]
    end_top_index: Int[Array, "B S starts ends"]
    answer_class: Float[Array, "B S"]
    """logits: the higher, the less is there an answer"""
    hidden: dict[str, Array | None]


class MaskedLMHead(nnx.Module):
    """H -> E, activation, LayerNorm, then the word-embedding table transposed, plus a free bias (Google's
    run_pretraining.py, get_masked_lm_output). The table is an argument: it belongs to the embeddings, unless the
    configuration gives the head one of its own."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        dense, decoder = jax.random.split(key)
        stddev = config.initializer_range
        self.dense = Linear(config.hidden_size, config.embedding_size, stddev=stddev, key=dense)
        self.layer_norm = LayerNorm(config.embedding_size, epsilon=config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))
        own_table = config.vocab_size, config.embedding_size
        self.decoder = None if config.tie_word_embeddings else nnx.Param(truncated_normal(decoder, own_table, stddev))
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Float[Array, "B P H"], word_embeddings: Float[Array, "V E"]) -> Float[Array, "B P V"]:
        x = self.layer_norm(self.activation(self.dense(x)))
        table = (word_embeddings if self.decoder is None else self.decoder[...]).astype(x.dtype)
        return jnp.einsum("BPE,VE->BPV", x, table, preferred_element_type=jnp.float32) + self.bias[...]


class AlbertForPreTraining(nnx.Module):
    """ALBERT with its two pretraining heads. Sentence-order label 0 is "in order", 1 "swapped"."""

    def __init__(self, config: AlbertConfig, *, num_labels: int = 2, key: Array):
        """`num_labels` of the sentence-order head is 2 but in odd checkpoints of Hugging Face's."""
        albert, predictions, sop = jax.random.split(key, 3)
        self.albert = AlbertModel(config, key=albert)
        self.predictions = MaskedLMHead(config, key=predictions)
        self.sop_classifier = Linear(config.hidden_size, num_labels, stddev=config.initializer_range, key=sop)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        masked_lm_positions: Int[Array, "B P"] | None = None,
        **settings: Any,
    ) -> PreTrainingOutput:
        """The masked-LM head runs on the P masked positions only, and so does the last block: at 15 % the head would
        cost seven times as much on all. Both run on all L positions if none are given."""
        hidden = self.albert(input_ids, token_type_ids, attention_mask, read_positions=masked_lm_positions, **settings)
        return PreTrainingOutput(
            mlm_logits=self.predictions(hidden["sequence_output"], self.albert.embeddings.word[...]),
            sop_logits=self.sop_classifier(hidden["pooled_output"]).astype(jnp.float32),
            hidden=hidden,
        )


class AlbertForMaskedLM(nnx.Module):
    """ALBERT with the masked-LM head alone: logits [B, P, V] at the given positions, [B, L, V] without."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        albert, predictions = jax.random.split(key)
        self.albert = AlbertModel(config, pooler=False, key=albert)
        self.predictions = MaskedLMHead(config, key=predictions)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        masked_lm_positions: Int[Array, "B P"] | None = None,
        **settings: Any,
    ) -> Output:
        hidden = self.albert(input_ids, token_type_ids, attention_mask, read_positions=masked_lm_positions, **settings)
        return Output(self.predictions(hidden["sequence_output"], self.albert.embeddings.word[...]), hidden)


class AlbertWithoutHead(nnx.Module):
    """ALBERT alone, its parameters under the same names as below a head."""

    def __init__(self, config: AlbertConfig, *, pooler: bool = True, key: Array):
        self.albert = AlbertModel(config, pooler=pooler, key=key)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        **settings: Any,
    ) -> Output:
        return Output(None, self.albert(input_ids, token_type_ids, attention_mask, **settings))


class AlbertForSequenceClassification(nnx.Module):
    """One set of logits [B, labels] for each text or pair, from the pooled output under dropout."""

    def __init__(self, config: AlbertConfig, *, num_labels: int = 2, key: Array):
        albert, classifier = jax.random.split(key)
        self.albert = AlbertModel(config, key=albert)
        self.classifier = Linear(config.hidden_size, num_labels, stddev=config.initializer_range, key=classifier)
        self.dropout = config.classifier_dropout_prob

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        *,
        keys: Keys | None = None,
        **settings: Any,
    ) -> Output:
        hidden = self.albert(input_ids, token_type_ids, attention_mask, keys=keys, **settings)
        pooled = dropout(hidden["pooled_output"], self.dropout, fold_in(keys, CLASSIFIER_KEYS))
        return Output(self.classifier(pooled).astype(jnp.float32), hidden)


class AlbertForTokenClassification(nnx.Module):
    """One set of logits for each token, [B, L, labels]."""

    def __init__(self, config: AlbertConfig, *, num_labels: int = 2, key: Array):
        albert, classifier = jax.random.split(key)
        self.albert = AlbertModel(config, pooler=False, key=albert)
        self.classifier = Linear(config.hidden_size, num_labels, stddev=config.initializer_range, key=classifier)
        self.dropout = config.classifier_dropout_prob

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        *,
        keys: Keys | None = None,
        **settings: Any,
    ) -> Output:
        hidden = self.albert(input_ids, token_type_ids, attention_mask, keys=keys, **settings)
        output = dropout(hidden["sequence_output"], self.dropout, fold_in(keys, CLASSIFIER_KEYS))
        return Output(self.classifier(output).astype(jnp.float32), hidden)


class AlbertForQuestionAnswering(nnx.Module):
    """How likely an answer starts and ends at each token: logits [B, L, 2], start before end (Google's SQuAD 1.1 head,
    run_squad_v1.py, and Hugging Face's). No dropout of its own."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        albert, outputs = jax.random.split(key)
        self.albert = AlbertModel(config, pooler=False, key=albert)
        self.qa_outputs = Linear(config.hidden_size, 2, stddev=config.initializer_range, key=outputs)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        **settings: Any,
    ) -> Output:
        hidden = self.albert(input_ids, token_type_ids, attention_mask, **settings)
        return Output(self.qa_outputs(hidden["sequence_output"]).astype(jnp.float32), hidden)


class EndLogits(nnx.Module):
    """How likely an answer that starts at a given token ends at each: tanh of a linear map of both tokens' vectors side
    by side, LayerNorm, and a linear map to one number (Google's squad_utils.py, scope end_logits)."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        size, stddev = config.hidden_size, config.initializer_range
        keys = jax.random.split(key)
        self.dense_0 = Linear(2 * size, size, stddev=stddev, key=keys[0])
        self.layer_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.dense_1 = Linear(size, 1, stddev=stddev, key=keys[1])

    def of_tokens(self, x: Float[Array, "B L H"]) -> Float[Array, "B L H"]:
        """The part of the first map that is the same for every start: vectors side by side times a matrix are a sum of
        two products, so nothing of size 2 H exists for each pair of start and token."""
        kernel, bias = self.dense_0.kernel[: x.shape[-1]], self.dense_0.bias[...]
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)

    def __call__(
        self, of_tokens: Float[Array, "B L H"], starts: Float[Array, "B S H"], numbers: Int[Array, "B L"]
    ) -> Float[Array, "B L"]:
        """Logits from `of_tokens` and the vector at each sequence's start; `numbers` are the tokens' sequences."""
        of_starts = starts @ self.dense_0.kernel[starts.shape[-1] :].astype(starts.dtype)
        x = self.layer_norm(jnp.tanh(of_tokens + of_own_sequence(of_starts, numbers)))
        return self.dense_1(x)[..., 0].astype(jnp.float32)


class BiaslessLinear(nnx.Module):
    """`x @ kernel`."""

    def __init__(self, features_in: int, features_out: int, *, stddev: float, key: Array):
        self.kernel = nnx.Param(truncated_normal(key, (features_in, features_out), stddev))

    def __call__(self, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
        return x @ self.kernel[...].astype(x.dtype)


class AnswerClass(nnx.Module):
    """How much speaks against an answer: from the mean vector of the starts, weighted by their probabilities, beside
    that of [CLS] (Google's squad_utils.py, scope answer_class)."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        size, stddev = config.hidden_size, config.initializer_range
        keys = jax.random.split(key)
        self.dense_0 = Linear(2 * size, size, stddev=stddev, key=keys[0])
        self.dense_1 = BiaslessLinear(size, 1, stddev=stddev, key=keys[1])
        self.dropout = config.classifier_dropout_prob

    def __call__(
        self, starts: Float[Array, "B S H"], first: Float[Array, "B S H"], keys: Keys | None
    ) -> Float[Array, "B S"]:
        x = jnp.tanh(self.dense_0(jnp.concatenate([starts, first], axis=-1)))
        return self.dense_1(dropout(x, self.dropout, keys))[..., 0].astype(jnp.float32)


class AlbertForBeamQuestionAnswering(nnx.Module):
    """Where an answer starts, where it ends if it starts there, and whether there is one (Google's SQuAD 2.0 head,
    squad_utils.py, which is XLNet's): `BeamTrainingOutput` for known starts, else the `BeamOutput` of a search."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        albert, start, end, answer = jax.random.split(key, 4)
        self.albert = AlbertModel(config, pooler=False, key=albert)
        self.start_logits = Linear(config.hidden_size, 1, stddev=config.initializer_range, key=start)
        self.end_logits = EndLogits(config, key=end)
        self.answer_class = AnswerClass(config, key=answer)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"] | Int[Array, "B L"],
        answerable: Bool[Array, "B L"] | None = None,
        start_positions: Int[Array, "B S"] | None = None,
        *,
        first_positions: Int[Array, "B S"] | None = None,
        keys: Keys | None = None,
        **settings: Any,
    ) -> BeamTrainingOutput | BeamOutput:
        """`answerable` is where an answer may start and end: [CLS], which stands for none, and the pieces of the
        context (Google's p_mask is the rest). By default it is [CLS] and the second segment without its last token,
        the [SEP]. `start_positions` are places in the row; so are those of the output."""
        hidden = self.albert(
            input_ids, token_type_ids, attention_mask, first_positions=first_positions, keys=keys, **settings
        )
        x = hidden["sequence_output"]
        numbers = attention_mask.astype(jnp.int32)
        first = jnp.zeros((x.shape[0], 1), jnp.int32) if first_positions is None else first_positions
        sequences = first.shape[1]
        if answerable is None:
            answerable = context_tokens(token_type_ids, numbers, first)
        of_sequence = members(numbers, sequences) & answerable[:, None]

        start_logits = self.start_logits(x)[..., 0].astype(jnp.float32)
        start_log_probs = sequence_log_softmax(start_logits, numbers, answerable, sequences)
        shares = jnp.where(of_sequence, jnp.exp(start_log_probs)[:, None], 0.0).astype(x.dtype)
        answer_class = self.answer_class(
            jnp.einsum("BSL,BLH->BSH", shares, x), at_positions(x, first), fold_in(keys, CLASSIFIER_KEYS)
        )

        of_tokens = self.end_logits.of_tokens(x)

        def end_log_probs(starts: Int[Array, "B S"]) -> Float[Array, "B L"]:
            logits = self.end_logits(of_tokens, at_positions(x, starts), numbers)
            return sequence_log_softmax(logits, numbers, answerable, sequences)

        if start_positions is not None:
            return BeamTrainingOutput(start_log_probs, end_log_probs(start_positions), answer_class, hidden)
        start_top_log_probs, start_top_index = likeliest(start_log_probs, of_sequence, BEAM_STARTS)
        # One start of every sequence at a time: [B, L, H] each, however many sequences a row has.
        ends = jax.lax.map(
            lambda starts: likeliest(end_log_probs(starts), of_sequence, BEAM_ENDS), jnp.moveaxis(start_top_index, 2, 0)
        )
        end_top_log_probs, end_top_index = (jnp.moveaxis(side, 0, 2) for side in ends)
        return BeamOutput(start_top_log_probs, start_top_index, end_top_log_probs, end_top_index, answer_class, hidden)


def context_tokens(
    token_type_ids: Int[Array, "B L"], numbers: Int[Array, "B L"], first_positions: Int[Array, "B S"]
) -> Bool[Array, "B L"]:
    """[CLS] and the second segment of each sequence but its last token."""
    is_last = jnp.pad(numbers[:, 1:] != numbers[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    context = (token_type_ids == 1) & (numbers > 0) & ~is_last
    return context.at[jnp.arange(numbers.shape[0])[:, None], first_positions].set(True)


def likeliest(
    log_probs: Float[Array, "B L"], of_sequence: Bool[Array, "B S L"], count: int
) -> tuple[Float[Array, "B S {count}"], Int[Array, "B S {count}"]]:
    """The `count` highest of each sequence, highest first, and their places in the row; -inf and 0 beyond its last."""
    candidates = jnp.where(of_sequence, log_probs[:, None], -jnp.inf)
    # A row may be shorter than `count`.
    candidates = jnp.pad(candidates, ((0, 0), (0, 0), (0, count)), constant_values=-jnp.inf)
    highest, places = jax.lax.top_k(candidates, count)
    return highest, jnp.where(highest == -jnp.inf, 0, places)


class AlbertForMultipleChoice(nnx.Module):
    """One logit for each choice, [B, choices], from inputs [B, choices, L]: every choice is a sequence of its own."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        albert, classifier = jax.random.split(key)
        self.albert = AlbertModel(config, key=albert)
        self.classifier = Linear(config.hidden_size, 1, stddev=config.initializer_range, key=classifier)
        self.dropout = config.classifier_dropout_prob

    def __call__(
        self,
        input_ids: Int[Array, "B choices L"],
        token_type_ids: Int[Array, "B choices L"],
        attention_mask: Bool[Array, "B choices L"],
        *,
        keys: Keys | None = None,
        **settings: Any,
    ) -> Output:
        """`keys` are one for each of the B examples; `hidden` is of B * choices sequences."""
        examples, choices, length = input_ids.shape
        if keys is not None:
            keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(choices)))(keys)
            keys = keys.reshape(-1)
        flat = (x.reshape(-1, length) for x in (input_ids, token_type_ids, attention_mask))
        hidden = self.albert(*flat, keys=keys, **settings)
        pooled = dropout(hidden["pooled_output"], self.dropout, fold_in(keys, CLASSIFIER_KEYS))
        return Output(self.classifier(pooled).reshape(examples, choices).astype(jnp.float32), hidden)


def initialize(
    config: AlbertConfig, key: Array, network: Callable[..., nnx.Module] = AlbertForPreTraining, **sizes: int
) -> Params:
    """Fresh parameters: matrices and embeddings truncated normal with `initializer_range`, biases 0, LayerNorm scales 1
    (Google's modeling.py). `sizes` is `num_labels` for the networks that have it."""
    return nnx.to_pure_dict(nnx.state(network(config, **sizes, key=key)))


def apply(
    config: AlbertConfig,
    params: Params,
    *inputs: Array,
    network: Callable[..., nnx.Module] = AlbertForPreTraining,
    **settings: Any,
) -> Any:
    """`network` with these parameters on `inputs`; see its `__call__`."""
    abstract = nnx.eval_shape(lambda: network(config, key=jax.random.key(0)))
    graph, state = nnx.split(abstract)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    return nnx.merge(graph, state)(*inputs, **settings)
