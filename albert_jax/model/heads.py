"""The pretraining model: masked-LM and sentence-order heads over `AlbertModel`, and the two functions through which the
rest of the code sees any model: `initialize` and `apply`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from albert_jax.config import AlbertConfig
from albert_jax.model.encoder import AlbertModel, Remat
from albert_jax.model.layers import ACTIVATIONS, Keys, LayerNorm, Linear

Params = dict[str, Any]
"""Nested dict of float32 arrays."""


class PreTrainingOutput(NamedTuple):
    """Logits in float32, and what lies below them (see `AlbertModel`)."""

    mlm_logits: Float[Array, "B P V"]
    sop_logits: Float[Array, "B 2"]
    hidden: dict[str, Array | None]


class MaskedLMHead(nnx.Module):
    """H -> E, activation, LayerNorm, then the word-embedding table transposed, plus a free bias (Google's
    run_pretraining.py, get_masked_lm_output). The table is an argument: it belongs to the embeddings."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        self.dense = Linear(config.hidden_size, config.embedding_size, stddev=config.initializer_range, key=key)
        self.layer_norm = LayerNorm(config.embedding_size, epsilon=config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: Float[Array, "B P H"], word_embeddings: Float[Array, "V E"]) -> Float[Array, "B P V"]:
        x = self.layer_norm(self.activation(self.dense(x)))
        table = word_embeddings.astype(x.dtype)
        return jnp.einsum("BPE,VE->BPV", x, table, preferred_element_type=jnp.float32) + self.bias[...]


class AlbertForPreTraining(nnx.Module):
    """ALBERT with its two pretraining heads. Sentence-order label 0 is "in order", 1 "swapped"."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        albert, predictions, sop = jax.random.split(key, 3)
        self.albert = AlbertModel(config, key=albert)
        self.predictions = MaskedLMHead(config, key=predictions)
        self.sop_classifier = Linear(config.hidden_size, 2, stddev=config.initializer_range, key=sop)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        token_type_ids: Int[Array, "B L"],
        attention_mask: Bool[Array, "B L"],
        masked_lm_positions: Int[Array, "B P"],
        *,
        keys: Keys | None = None,
        dtype: str = "float32",
        remat: Remat = "none",
        every_block: bool = False,
    ) -> PreTrainingOutput:
        """The masked-LM head runs on the P masked positions only: at 15 % it would cost seven times as much on all."""
        hidden = self.albert(
            input_ids,
            token_type_ids,
            attention_mask,
            keys=keys,
            dtype=dtype,
            remat=remat,
            every_block=every_block,
        )
        masked = jnp.take_along_axis(hidden["sequence_output"], masked_lm_positions[:, :, None], axis=1)
        return PreTrainingOutput(
            mlm_logits=self.predictions(masked, self.albert.embeddings.word[...]),
            sop_logits=self.sop_classifier(hidden["pooled_output"]).astype(jnp.float32),
            hidden=hidden,
        )


def initialize(config: AlbertConfig, key: Array) -> Params:
    """Fresh parameters of `AlbertForPreTraining`: matrices and embeddings truncated normal with `initializer_range`,
    biases 0, LayerNorm scales 1 (Google's modeling.py)."""
    return nnx.to_pure_dict(nnx.state(AlbertForPreTraining(config, key=key)))


def apply(config: AlbertConfig, params: Params, *inputs: Array, **settings: Any) -> PreTrainingOutput:
    """`AlbertForPreTraining` with these parameters on `inputs`; see its `__call__`."""
    abstract = nnx.eval_shape(lambda: AlbertForPreTraining(config, key=jax.random.key(0)))
    graph, state = nnx.split(abstract)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    return nnx.merge(graph, state)(*inputs, **settings)
