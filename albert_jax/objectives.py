"""The pretraining losses, as sums and counts and never as means: whoever adds up all parts of a batch divides once, so
accumulation, data parallelism and padding change nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Sums = dict[str, Float[Array, ""]]


def masked_lm_sums(logits: Float[Array, "B P V"], labels: Int[Array, "B P"], weights: Float[Array, "B P"]) -> Sums:
    """Cross-entropy in nats, hits and weight of the masked positions; weight 0 marks an unused place."""
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return dict(
        mlm_loss=jnp.sum(weights * (log_normalizer - label_logits)),
        mlm_hits=jnp.sum(weights * hits),
        mlm_weight=jnp.sum(weights),
    )


def sentence_order_sums(logits: Float[Array, "B 2"], labels: Int[Array, " B"], weights: Float[Array, " B"]) -> Sums:
    """Cross-entropy in nats, hits and weight of the pairs; label 0 is "in order", 1 "swapped" (paper, section 3.1)."""
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return dict(sop_loss=jnp.sum(weights * losses), sop_hits=jnp.sum(weights * hits), sop_weight=jnp.sum(weights))


def total_loss(sums: Sums, mlm_weight: Array, sop_weight: Array) -> Float[Array, ""]:
    """Masked-LM plus sentence-order loss, 1 : 1, each divided by the weight of the whole batch, of which `sums` may
    be a part. The 1e-5 is Google's (run_pretraining.py). A batch without pairs to judge contributes 0 for them."""
    return sums["mlm_loss"] / (mlm_weight + 1e-5) + sums["sop_loss"] / jnp.maximum(sop_weight, 1.0)


def batch_statistics(
    attention_mask: Array, masked_lm_weights: Array, sentence_order_labels: Array, sentence_order_weights: Array,
    ngram_counts: Array, replacement_counts: Array,
) -> Sums:  # fmt: skip
    """Counts that show whether the data is what was asked for; see `summarize`."""
    ngrams = {f"ngrams_{n + 1}": ngram_counts[:, n].sum() for n in range(ngram_counts.shape[1])}
    replaced = {name: replacement_counts[:, i].sum() for i, name in enumerate(("masked", "random", "kept"))}
    counts = dict(
        tokens=attention_mask.sum(),
        places=attention_mask.size,
        predictions=masked_lm_weights.sum(),
        swapped=jnp.sum(sentence_order_labels * sentence_order_weights),
        **ngrams,
        **replaced,
    )
    return {name: jnp.asarray(count, jnp.float32) for name, count in counts.items()}


def summarize(sums: dict[str, float]) -> dict[str, float]:
    """Means from sums: `loss`, `mlm_loss`, `mlm_accuracy`, `sop_loss`, `sop_accuracy`, and of the data `mask_rate`
    (predictions per token), `ngram_n` (share of masked n-grams with n words), `mask_replaced`, `random_replaced`,
    `kept` (shares of the predictions), `swapped` (share of label 1) and `padding` (share of places without a token)."""

    def ratio(name: str, total: str | float) -> float:
        total = sums[total] if isinstance(total, str) else total
        return sums[name] / total if total else 0.0

    summary = dict(
        mlm_loss=ratio("mlm_loss", "mlm_weight"),
        mlm_accuracy=ratio("mlm_hits", "mlm_weight"),
        sop_loss=ratio("sop_loss", "sop_weight"),
        sop_accuracy=ratio("sop_hits", "sop_weight"),
    )
    summary["loss"] = summary["mlm_loss"] + summary["sop_loss"]
    if "tokens" in sums:
        ngrams = [name for name in sums if name.startswith("ngrams_")]
        all_ngrams = sum(sums[name] for name in ngrams)
        summary |= dict(
            mask_rate=ratio("predictions", "tokens"),
            padding=1.0 - ratio("tokens", "places"),
            swapped=ratio("swapped", "sop_weight"),
            mask_replaced=ratio("masked", "predictions"),
            random_replaced=ratio("random", "predictions"),
            kept=ratio("kept", "predictions"),
            **{name.replace("ngrams", "ngram"): ratio(name, all_ngrams) for name in ngrams},
        )
    return summary
