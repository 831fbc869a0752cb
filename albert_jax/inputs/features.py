"""The arrays of a pretraining batch, and the kernel that fills them: [CLS] A [SEP] B [SEP], masked, with its labels."""

from typing import NamedTuple

import numpy as np
from numba import njit

from albert_jax.inputs.masking import MaskRules, mask_sequence
from albert_jax.inputs.random import derive, stream
from albert_jax.inputs.segments import SPECIAL_TOKENS, Rules, Text, make_pair

MASKING_STREAM = 1
"""What names a sequence's masking stream beside its segments' stream."""


class Features(NamedTuple):
    """A batch of B sequences of L tokens with at most P predictions. Unused places hold 0 and weight 0."""

    input_ids: np.ndarray
    """int32 [B, L]"""
    token_type_ids: np.ndarray
    """int32 [B, L]: 0 up to the first [SEP], then 1; 0 for padding."""
    attention_mask: np.ndarray
    """bool [B, L]: True on tokens."""
    masked_lm_positions: np.ndarray
    """int32 [B, P], ascending"""
    masked_lm_labels: np.ndarray
    """int32 [B, P]: the original pieces."""
    masked_lm_weights: np.ndarray
    """float32 [B, P]: 1 for a prediction."""
    sentence_order_labels: np.ndarray
    """int32 [B]: 0 in order, 1 swapped (for next-sentence prediction: 0 next, 1 from elsewhere)."""
    sentence_order_weights: np.ndarray
    """float32 [B]: 1 for a pair that the sentence loss counts."""
    ngram_counts: np.ndarray
    """int32 [B, max_ngram]: masked n-grams by length, for the log."""
    replacement_counts: np.ndarray
    """int32 [B, 3]: masked tokens that became [MASK], a random piece, or stayed, for the log."""
    origin: np.ndarray
    """int64 [B, 3]: shard, document in the shard, token at which the chunk starts; -1 for an empty row."""


HOST_FIELDS = ("origin",)
"""Fields for people and tests, which never go to a device."""


class Layout(NamedTuple):
    """Special pieces of a sequence, and whether its sentence label counts."""

    cls_id: int
    sep_id: int
    pad_id: int
    sentence_weight: float


def max_predictions(sequence_length: int, probability: float, cap: int | None) -> int:
    """Places for predictions, P: the cap if there is one; else 15 % of the tokens and room for the last n-gram to end,
    rounded up to a multiple of 8, which is what matrix units like (80 for 512 tokens)."""
    return cap or -(-round(probability * sequence_length + 2) // 8) * 8


def empty_features(rows: int, sequence_length: int, predictions: int, max_ngram: int, pad_id: int) -> Features:
    """`rows` sequences of padding, which no loss counts."""
    return Features(
        input_ids=np.full((rows, sequence_length), pad_id, np.int32),
        token_type_ids=np.zeros((rows, sequence_length), np.int32),
        attention_mask=np.zeros((rows, sequence_length), np.bool_),
        masked_lm_positions=np.zeros((rows, predictions), np.int32),
        masked_lm_labels=np.zeros((rows, predictions), np.int32),
        masked_lm_weights=np.zeros((rows, predictions), np.float32),
        sentence_order_labels=np.zeros(rows, np.int32),
        sentence_order_weights=np.zeros(rows, np.float32),
        ngram_counts=np.zeros((rows, max_ngram), np.int32),
        replacement_counts=np.zeros((rows, 3), np.int32),
        origin=np.full((rows, 3), -1, np.int64),
    )


@njit(nogil=True)
def fill_rows(
    features: Features, rows: np.ndarray, starts: np.ndarray, shard: int, text: Text, rules: Rules,
    mask_rules: MaskRules, layout: Layout, key: np.uint64,
) -> None:  # fmt: skip
    """Fills `rows` of the features from one shard; `starts` int64 [rows, 3] holds document, sentence and token of
    each."""
    for index in range(len(rows)):
        row = rows[index]
        document, sentence, token = starts[index]
        pair = make_pair(text, rules, document, sentence, token, key)
        first, second = pair.a_end - pair.a, pair.b_end - pair.b
        length = first + second + SPECIAL_TOKENS
        ids = features.input_ids[row]
        ids[0] = layout.cls_id
        ids[1 : 1 + first] = text.tokens[pair.a : pair.a_end]
        ids[1 + first] = layout.sep_id
        ids[2 + first : 2 + first + second] = text.tokens[pair.b : pair.b_end]
        ids[length - 1] = layout.sep_id
        features.token_type_ids[row, 2 + first : length] = 1
        features.attention_mask[row, :length] = True
        features.sentence_order_labels[row] = pair.label
        features.sentence_order_weights[row] = layout.sentence_weight
        features.origin[row] = (shard, document, token)
        count = mask_sequence(
            ids, length, mask_rules, stream(derive(derive(key, token), MASKING_STREAM)),
            features.masked_lm_positions[row], features.masked_lm_labels[row],
            features.ngram_counts[row], features.replacement_counts[row],
        )  # fmt: skip
        features.masked_lm_weights[row, :count] = 1.0
