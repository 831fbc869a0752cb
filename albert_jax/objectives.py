"""The pretraining losses, as sums and counts and never as means: whoever adds up all parts of a batch divides once, so
accumulation, data parallelism and padding change nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Sums = dict[str, Float[Array, ""]]


def masked_lm_sums(
    logits: Float[Array, "B P V"], labels: Int[Array, "B P"], weights: Float[Array, "B P"]
) -> Sums:
    """Cross-entropy in nats, hits and weight of the masked positions; weight 0 marks an unused place."""
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return dict(
        mlm_loss=jnp.sum(weights * (log_normalizer - label_logits)),
        mlm_hits=jnp.sum(weights * hits),
        mlm_weight=jnp.sum(weights),
    )


def sentence_order_sums(
    logits: Float[Array, "B 2"], labels: Int[Array, " B"], weights: Float[Array, " B"]
) -> Sums:
    """Cross-entropy in nats, hits and weight of the pairs; label 0 is "in order", 1 "swapped" (paper, section 3.1)."""
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return dict(
        sop_loss=jnp.sum(weights * losses), sop_hits=jnp.sum(weights * hits), sop_weight=jnp.sum(weights)
    )


def total_loss(sums: Sums, mlm_weight: Array, sop_weight: Array) -> Float[Array, ""]:
    """Masked-LM plus sentence-order loss, 1 : 1, each divided by the weight of the whole batch, of which `sums` may be a
    part. The 1e-5 is Google's (run_pretraining.py). A batch without pairs to judge contributes 0 for them."""
    return sums["mlm_loss"] / (mlm_weight + 1e-5) + sums["sop_loss"] / jnp.maximum(sop_weight, 1.0)
