"""Self-attention and the feed-forward network: the two sub-blocks of a layer, each with its residual and LayerNorm
(post-LN; Google's modeling.py, attention_ffn_block)."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from albert_jax.config import AlbertConfig
from albert_jax.model.attention_kernels import (
    choose_attention,
    cudnn_attention,
    platform,
    same_sequence,
    scaled,
    splash_attention,
)
from albert_jax.model.layers import ACTIVATIONS, Keys, LayerNorm, Linear, at_positions, dropout, fold_in
from albert_jax.sharding import constrain

MASKED_SCORE = -10_000.0
"""Added to the scores of padding, in float32. Google's value: exp(-10000) is exactly 0, and a row that is all padding
still gives finite numbers."""

SAVED_NAMES = ("query", "key", "value", "context", "attention_output", "intermediate", "ffn_output")
"""Results of matrix products, which the "matmuls" rematerialisation policy keeps for the backward pass."""

LONG_ROW = 256
"""From so many tokens on a CPU attends row by row. That saves 8 % of a layer of base at 4 x 512 in float32, 3 % in
bfloat16, 1 % at 8 x 256; at 8 x 128 it would cost 14 %."""

Attend = Callable[[Array, Array, Array, Keys | None], Float[Array, "B L H"]]
"""(query, key and value [B, L, A, D], keys for dropout) -> context, named for `SAVED_NAMES`."""


def attention_bias(
    mask: Bool[Array, "B L"] | Int[Array, "B L"], read: Int[Array, "B R"] | None = None
) -> Float[Array, "B 1 queries L"]:
    """What is added to the scores, 0 or `MASKED_SCORE`, from the attention mask.

    A mask of bool is True on tokens and hides padding from all: one row of queries for all. A mask of int tells which
    sequence of a packed row each token belongs to, 0 for none: tokens see the tokens of their own sequence. Queries are
    all tokens, or those at the positions `read`.
    """
    if mask.dtype == jnp.bool_:
        return jnp.where(mask, 0.0, MASKED_SCORE)[:, None, None, :]
    of_queries = mask if read is None else jnp.take_along_axis(mask, read, axis=1)
    return jnp.where(same_sequence(of_queries, mask), 0.0, MASKED_SCORE)[:, None]


def make_attention(
    attention: str,
    config: AlbertConfig,
    mask: Bool[Array, "B L"] | Int[Array, "B L"],
    dtype: str,
    read: Int[Array, "B R"] | None = None,
) -> Attend:
    """What all layers attend with in a batch of this mask (see `attention_bias`), under `ComputeConfig.attention`."""
    batch, length = mask.shape
    # Programs for any length have no number here, and are plain.
    match attention if attention == "plain" else choose_attention(attention, config, dtype, length, batch):
        case "cudnn":
            return lambda query, key, value, keys: cudnn_attention(query, key, value, mask)
        case "splash":
            return lambda query, key, value, keys: splash_attention(query, key, value, mask)
        case _:
            mesh = jax.sharding.get_abstract_mesh()
            alone = platform() == "cpu" and (mesh.empty or mesh.size == 1)
            long = isinstance(length, int) and length >= LONG_ROW
            plain = attention_by_row if alone and long and read is None else plain_attention
            return partial(plain, attention_bias(mask, read), config.attention_probs_dropout_prob)


def plain_attention(
    bias: Float[Array, "B 1 queries L"],
    dropout_rate: float,
    query: Float[Array, "B R A D"],
    key: Float[Array, "B L A D"],
    value: Float[Array, "B L A D"],
    keys: Keys | None,
) -> Float[Array, "B R {query.shape[2]*query.shape[3]}"]:
    """Softmax in float32, products in the type of the arguments; `bias` is added to the scores."""
    scores = jnp.einsum("BLAD,BMAD->BALM", scaled(query), key, preferred_element_type=jnp.float32)
    probabilities = jax.nn.softmax(scores + bias, axis=-1).astype(query.dtype)
    probabilities = dropout(probabilities, dropout_rate, keys)
    context = jnp.einsum("BALM,BMAD->BLAD", probabilities, value)
    return checkpoint_name(context.reshape(*context.shape[:2], -1), "context")


def attention_by_row(
    bias: Float[Array, "B 1 queries L"],
    dropout_rate: float,
    query: Float[Array, "B L A D"],
    key: Float[Array, "B L A D"],
    value: Float[Array, "B L A D"],
    keys: Keys | None,
) -> Float[Array, "B L {query.shape[2]*query.shape[3]}"]:
    """`plain_attention` of one row after the other, forwards and backwards: the scores stay in a CPU's cache."""

    # Without this the backward pass would find the scores of all rows stored.
    @jax.checkpoint
    def attend(row: tuple[Array | None, ...]) -> Array:
        bias, query, key, value, keys = jax.tree.map(lambda array: array[None], row)
        return plain_attention(bias, dropout_rate, query, key, value, keys)[0]

    return checkpoint_name(jax.lax.map(attend, (bias, query, key, value, keys)), "context")


class SelfAttention(nnx.Module):
    """`LayerNorm(x + attention(x))`. Query, key and value are three tensors, as stored, so that each has its own LAMB
    trust ratio."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        size, stddev = config.hidden_size, config.initializer_range
        keys = jax.random.split(key, 4)
        self.query = Linear(size, size, stddev=stddev, key=keys[0])
        self.key = Linear(size, size, stddev=stddev, key=keys[1])
        self.value = Linear(size, size, stddev=stddev, key=keys[2])
        self.output = Linear(size, size, stddev=stddev, key=keys[3])
        self.layer_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.num_heads = config.num_attention_heads
        self.hidden_dropout = config.hidden_dropout_prob

    def __call__(
        self, x: Float[Array, "B L H"], attend: Attend, keys: Keys | None, read: Int[Array, "B R"] | None = None
    ) -> Float[Array, "B R H"]:
        """Of all tokens, or of those at `read`, from which `attend` must then be made too."""
        asking = x if read is None else at_positions(x, read)
        query, key, value = (
            self._heads(checkpoint_name(layer(tokens), name))
            for name, layer, tokens in (
                ("query", self.query, asking),
                ("key", self.key, x),
                ("value", self.value, x),
            )
        )
        context = attend(query, key, value, fold_in(keys, 0))
        output = checkpoint_name(self.output(context), "attention_output")
        output = constrain(output, ("data", "fsdp"), None, None)
        return self.layer_norm(asking + dropout(output, self.hidden_dropout, fold_in(keys, 1)))

    def _heads(self, x: Float[Array, "B L H"]) -> Float[Array, "B L A D"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


class FeedForward(nnx.Module):
    """`LayerNorm(x + output(activation(intermediate(x))))`."""

    def __init__(self, config: AlbertConfig, *, key: Array):
        size, wide, stddev = config.hidden_size, config.intermediate_size, config.initializer_range
        keys = jax.random.split(key)
        self.intermediate = Linear(size, wide, stddev=stddev, key=keys[0])
        self.output = Linear(wide, size, stddev=stddev, key=keys[1])
        self.layer_norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.hidden_dropout = config.hidden_dropout_prob

    def __call__(self, x: Float[Array, "B L H"], keys: Keys | None) -> Float[Array, "B L H"]:
        wide: Float[Array, "B L F"] = self.activation(checkpoint_name(self.intermediate(x), "intermediate"))
        output = constrain(checkpoint_name(self.output(wide), "ffn_output"), ("data", "fsdp"), None, None)
        return self.layer_norm(x + dropout(output, self.hidden_dropout, fold_in(keys, 2)))
