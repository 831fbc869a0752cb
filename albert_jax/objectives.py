"""The losses of pretraining and fine-tuning, as sums and counts and never as means: whoever adds up all parts of a
batch divides once, so accumulation, data parallelism and padding change nothing."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from albert_jax.packed import LEAST_LOGIT, sequence_log_softmax

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


def sentence_order_sums(
    logits: Float[Array, "*places 2"], labels: Int[Array, "*places"], weights: Float[Array, "*places"]
) -> Sums:
    """Cross-entropy in nats, hits and weight of the pairs, [B] or of packed rows [B, S]; label 0 is "in order", 1
    "swapped" (paper, section 3.1)."""
    sums = classification_sums(logits, labels, weights)
    return {f"sop_{name}": value for name, value in sums.items()}


def total_loss(sums: Sums, mlm_weight: Array, sop_weight: Array) -> Float[Array, ""]:
    """Masked-LM plus sentence-order loss, 1 : 1, each divided by the weight of the whole batch, of which `sums` may
    be a part. The 1e-5 is Google's (run_pretraining.py). A batch without pairs to judge contributes 0 for them."""
    return sums["mlm_loss"] / (mlm_weight + 1e-5) + sums["sop_loss"] / jnp.maximum(sop_weight, 1.0)


def classification_sums(
    logits: Float[Array, "*places labels"], labels: Int[Array, "*places"], weights: Float[Array, "*places"]
) -> Sums:
    """Cross-entropy in nats, hits and weight; what is under a weight of 0 may have any label in range."""
    losses = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return dict(loss=jnp.sum(weights * losses), hits=jnp.sum(weights * hits), weight=jnp.sum(weights))


def regression_sums(
    values: Float[Array, "*places"], labels: Float[Array, "*places"], weights: Float[Array, "*places"]
) -> Sums:
    """Squared errors and weight (Google's run_classifier.py for STS-B, on the raw scale of 0 to 5)."""
    return dict(loss=jnp.sum(weights * jnp.square(values - labels)), weight=jnp.sum(weights))


def multi_label_sums(
    logits: Float[Array, "*places labels"], labels: Float[Array, "*places labels"], weights: Float[Array, "*places"]
) -> Sums:
    """Binary cross-entropy in nats, its mean over the labels summed over the places, and weight."""
    losses = jnp.logaddexp(0.0, logits) - labels * logits
    return dict(loss=jnp.sum(weights * losses.mean(-1)), weight=jnp.sum(weights))


def choice_sums(
    logits: Float[Array, "*places"],
    places: Int[Array, "examples choices"],
    labels: Int[Array, " examples"],
    weights: Float[Array, " examples"],
) -> Sums:
    """Cross-entropy over the choices of each example; `places` says where in `logits`, flattened, the logit of each
    choice is, -1 for a choice that an example does not have."""
    of_choices = jnp.where(places < 0, LEAST_LOGIT, logits.reshape(-1)[jnp.maximum(places, 0)])
    return classification_sums(of_choices, labels, weights)


def span_sums(
    logits: Float[Array, "B L 2"],
    numbers: Int[Array, "B L"],
    starts: Int[Array, "B S"],
    ends: Int[Array, "B S"],
    weights: Float[Array, "B S"],
) -> Sums:
    """Mean of the cross-entropies in nats of where each sequence's answer starts and ends, and weight. Each is over all
    tokens of the sequence, question and separators too (Google's run_squad_v1.py, which has padding compete as well).

    `numbers` are the tokens' sequences, from 1 on; `starts` and `ends` are places in the row, and what is under a
    weight of 0 may be any.
    """
    start_log_probs, end_log_probs = (
        sequence_log_softmax(logits[..., side], numbers, numbers > 0, starts.shape[1]) for side in (0, 1)
    )
    losses = _span_losses(start_log_probs, end_log_probs, starts, ends)
    return dict(loss=jnp.sum(weights * losses), weight=jnp.sum(weights))


def span_beam_sums(
    output: Any,
    starts: Int[Array, "B S"],
    ends: Int[Array, "B S"],
    impossible: Float[Array, "B S"],
    weights: Float[Array, "B S"],
) -> Sums:
    """Loss in nats and weight of the sequences (Google's squad_utils.py): the mean cross-entropy of start and end plus
    half the binary cross-entropy of "there is no answer".

    `output` is the `BeamTrainingOutput` of a model that was given `starts`; where `impossible` is 1 both places are
    that of [CLS]. What is under a weight of 0 may be any.
    """
    spans = _span_losses(output.start_log_probs, output.end_log_probs, starts, ends)
    classes = jnp.logaddexp(0.0, output.answer_class) - impossible * output.answer_class
    return dict(loss=jnp.sum(weights * (spans + 0.5 * classes)), weight=jnp.sum(weights))


def _span_losses(
    start_log_probs: Float[Array, "B L"],
    end_log_probs: Float[Array, "B L"],
    starts: Int[Array, "B S"],
    ends: Int[Array, "B S"],
) -> Float[Array, "B S"]:
    of_starts = jnp.take_along_axis(start_log_probs, starts, axis=1)
    return -0.5 * (of_starts + jnp.take_along_axis(end_log_probs, ends, axis=1))


def batch_statistics(
    attention_mask: Array, masked_lm_weights: Array, sentence_order_labels: Array, sentence_order_weights: Array,
    ngram_counts: Array, replacement_counts: Array,
) -> Sums:  # fmt: skip
    """Counts that show whether the data is what was asked for; see `summarize`."""
    ngrams = {f"ngrams_{n + 1}": ngram_counts[:, n].sum() for n in range(ngram_counts.shape[1])}
    replaced = {name: replacement_counts[:, i].sum() for i, name in enumerate(("masked", "random", "kept"))}
    counts = dict(
        tokens=jnp.sum(attention_mask > 0),
        places=attention_mask.size,
        # The number of a row's last sequence; True counts as 1.
        sequences=attention_mask.max(axis=1).sum(),
        rows=attention_mask.shape[0],
        predictions=masked_lm_weights.sum(),
        swapped=jnp.sum(sentence_order_labels * sentence_order_weights),
        **ngrams,
        **replaced,
    )
    return {name: jnp.asarray(count, jnp.float32) for name, count in counts.items()}


def summarize(sums: dict[str, float]) -> dict[str, float]:
    """Means from sums: `loss`, `mlm_loss`, `mlm_accuracy`, `sop_loss`, `sop_accuracy`, and of the data `mask_rate`
    (predictions per token), `ngram_n` (share of masked n-grams with n words), `mask_replaced`, `random_replaced`,
    `kept` (shares of the predictions), `swapped` (share of label 1), `padding` (share of places without a token) and
    `sequences_per_row`."""

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
            sequences_per_row=ratio("sequences", "rows"),
            swapped=ratio("swapped", "sop_weight"),
            mask_replaced=ratio("masked", "predictions"),
            random_replaced=ratio("random", "predictions"),
            kept=ratio("kept", "predictions"),
            **{name.replace("ngrams", "ngram"): ratio(name, all_ngrams) for name in ngrams},
        )
    return summary
