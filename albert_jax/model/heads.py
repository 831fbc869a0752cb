"""The seven models: `AlbertModel` under each of its heads, with Hugging Face's names, and the two functions through
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
from albert_jax.model.encoder import AlbertModel, at_positions
from albert_jax.model.layers import ACTIVATIONS, Keys, LayerNorm, Linear, dropout, fold_in, truncated_normal

Params = dict[str, Any]
"""Nested dict of float32 arrays."""

CLASSIFIER_KEYS = 2**30 + 1
"""What the dropout below a classifier folds into the keys; layers fold in their number."""


class PreTrainingOutput(NamedTuple):
    """Logits in float32, and what lies below them (see `AlbertModel`)."""

    mlm_logits: Float[Array, "B P V"]
    sop_logits: Float[Array, "B *S labels"]
    hidden: dict[str, Array | None]


class Output(NamedTuple):
    """Logits in float32 (None without a head), and what lies below them (see `AlbertModel`)."""

    logits: Float[Array, "..."] | None
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
        """The masked-LM head runs on the P masked positions only: at 15 % it would cost seven times as much on all. It
        runs on all L positions if none are given."""
        hidden = self.albert(input_ids, token_type_ids, attention_mask, **settings)
        masked = at_positions(hidden["sequence_output"], masked_lm_positions)
        return PreTrainingOutput(
            mlm_logits=self.predictions(masked, self.albert.embeddings.word[...]),
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
        hidden = self.albert(input_ids, token_type_ids, attention_mask, **settings)
        masked = at_positions(hidden["sequence_output"], masked_lm_positions)
        return Output(self.predictions(masked, self.albert.embeddings.word[...]), hidden)


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
