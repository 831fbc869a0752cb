"""Arithmetic on rows that hold several sequences each: `numbers` [B, L] says which sequence of its row a token belongs
to, from 1 on, 0 for none (the int attention mask of a packed batch, `albert_jax.inputs.packing`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LEAST_LOGIT = -1e30
"""What stands for "impossible" in float32; Google's value."""


def sequence_log_softmax(
    logits: Float[Array, "B L"], numbers: Int[Array, "B L"], allowed: Bool[Array, "B L"], sequences: int
) -> Float[Array, "B L"]:
    """The logarithm of the softmax over the allowed tokens of each sequence by itself; about -1e30 on all others.

    `sequences` is the most that a row has places for.
    """
    logits = jnp.where(allowed & (numbers > 0), logits.astype(jnp.float32), LEAST_LOGIT)
    normalizers = jax.nn.logsumexp(jnp.where(members(numbers, sequences), logits[:, None], LEAST_LOGIT), axis=-1)
    return logits - of_own_sequence(normalizers, numbers)


def members(numbers: Int[Array, "B L"], sequences: int) -> Bool[Array, "B S L"]:
    """Which tokens belong to each sequence of a row."""
    return numbers[:, None, :] == 1 + jnp.arange(sequences)[:, None]


def of_own_sequence(values: Float[Array, "B S *rest"], numbers: Int[Array, "B L"]) -> Float[Array, "B L *rest"]:
    """For each token the value of its own sequence; for a token of none that of the first."""
    rows = jnp.arange(numbers.shape[0])[:, None]
    return values[rows, jnp.maximum(numbers - 1, 0)]
