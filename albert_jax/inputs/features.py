"""The arrays of a pretraining batch, and the kernel that fills them: [CLS] A [SEP] B [SEP], masked, with its labels."""

import math
from typing import NamedTuple

import numpy as np

from albert_jax.inputs.kernels import kernel
from albert_jax.inputs.masking import MaskRules, mask_sequence
from albert_jax.inputs.random import derive, stream
from albert_jax.inputs.segments import SPECIAL_TOKENS, BrokenOffsets, Rules, Text, make_pair

MASKING_STREAM = 1
"""What names a sequence's masking stream beside its segments' stream."""


class Features(NamedTuple):
    """A batch of B rows of L tokens with at most P predictions. Unused places hold 0 and weight 0.

    A row holds one sequence, or is packed with up to S of them, one behind the other.
    """

    input_ids: np.ndarray
    """int32 [B, L]"""
    token_type_ids: np.ndarray
    """int32 [B, L]: 0 up to the first [SEP] of a sequence, then 1; 0 for padding."""
    attention_mask: np.ndarray
    """bool [B, L]: True on tokens; of packed rows int32: the number of a token's sequence from 1 on, 0 for padding."""
    position_ids: np.ndarray
    """int32 [B, L]: the place of each token in its sequence; [B, 0] where rows are not packed."""
    first_positions: np.ndarray
    """int32 [B, S]: where each sequence begins; [B, 0] where rows are not packed."""
    masked_lm_positions: np.ndarray
    """int32 [B, P]: places in the row, ascending"""
    masked_lm_labels: np.ndarray
    """int32 [B, P]: the original pieces."""
    masked_lm_weights: np.ndarray
    """float32 [B, P]: 1 for a prediction."""
    sentence_order_labels: np.ndarray
    """int32 [B], packed [B, S]: 0 in order, 1 swapped (for next-sentence prediction: 0 next, 1 from elsewhere)."""
    sentence_order_weights: np.ndarray
    """float32 [B], packed [B, S]: 1 for a pair that the sentence loss counts."""
    ngram_counts: np.ndarray
    """int32 [B, max_ngram]: masked n-grams by length, for the log."""
    replacement_counts: np.ndarray
    """int32 [B, 3]: masked tokens that became [MASK], a random piece, or stayed, for the log."""
    origin: np.ndarray
    """int64 [B, 3], packed [B, S, 3]: shard (of a mix, counted over its corpora), document in the shard, token at which
    the chunk starts; -1 for none."""


HOST_FIELDS = ("origin",)
"""Fields for people and tests, which never go to a device."""
PACKED_FIELDS = ("position_ids", "first_positions")
"""Fields that are empty where rows are not packed."""

DEVIATIONS = 6
"""Tokens by which the predictions of a packed row may exceed their mean, for the square root of its sequences: that is
three to five standard deviations of real text (docs/pretraining.md)."""


class Layout(NamedTuple):
    """Special pieces of a sequence, most of its predictions, and whether its sentence label counts."""

    cls_id: int
    sep_id: int
    pad_id: int
    predictions: int
    sentence_weight: float


def max_predictions(sequence_length: int, probability: float, cap: int | None, sequences: int | None = None) -> int:
    """Places for the predictions of a row, P.

    Of one sequence: the cap if there is one; else 15 % of the tokens and room for the last n-gram to end, rounded up to
    a multiple of 8, which is what matrix units like (80 for 512 tokens).

    Of up to `sequences` in a packed row, also a multiple of 8: 15 % of the tokens and room for as many n-grams to end,
    or the cap of each. Each sequence has its own mean of 15 %, and their sum strays from it by the square root of their
    number.
    """
    if sequences is None:
        return cap or _multiple_of_8(round(probability * sequence_length + 2))
    expected = probability * sequence_length + 2 + DEVIATIONS * sequences**0.5
    most = min(math.ceil(expected), sequence_length)
    return _multiple_of_8(min(most, cap * sequences) if cap else most)


def _multiple_of_8(number: int) -> int:
    return -(-number // 8) * 8


def empty_features(
    rows: int, sequence_length: int, predictions: int, max_ngram: int, pad_id: int, sequences: int | None
) -> Features:
    """`rows` rows of padding, which no loss counts, with places for `sequences` in each; None if they are not to be
    packed."""
    slots = () if sequences is None else (sequences,)
    return Features(
        input_ids=np.full((rows, sequence_length), pad_id, np.int32),
        token_type_ids=np.zeros((rows, sequence_length), np.int32),
        attention_mask=np.zeros((rows, sequence_length), np.bool_ if sequences is None else np.int32),
        position_ids=np.zeros((rows, sequence_length if sequences else 0), np.int32),
        first_positions=np.zeros((rows, sequences or 0), np.int32),
        masked_lm_positions=np.zeros((rows, predictions), np.int32),
        masked_lm_labels=np.zeros((rows, predictions), np.int32),
        masked_lm_weights=np.zeros((rows, predictions), np.float32),
        sentence_order_labels=np.zeros((rows, *slots), np.int32),
        sentence_order_weights=np.zeros((rows, *slots), np.float32),
        ngram_counts=np.zeros((rows, max_ngram), np.int32),
        replacement_counts=np.zeros((rows, 3), np.int32),
        origin=np.full((rows, *slots, 3), -1, np.int64),
    )


def with_slots(features: Features) -> Features:
    """A view of the same arrays, in which rows that are not packed have one place for a sequence each."""
    rows = len(features.input_ids)
    slots = features.first_positions.shape[1] or 1
    return features._replace(
        sentence_order_labels=features.sentence_order_labels.reshape(rows, slots),
        sentence_order_weights=features.sentence_order_weights.reshape(rows, slots),
        origin=features.origin.reshape(rows, slots, 3),
    )


@kernel
def fill_rows(
    features: Features, filled: np.ndarray, rows: np.ndarray, starts: np.ndarray, shard: int, text: Text, rules: Rules,
    mask_rules: MaskRules, layout: Layout, key: np.uint64,
) -> None:  # fmt: skip
    """Adds examples of one shard to the features (see `with_slots`), each behind what its row holds already.

    `rows` int64 [examples] are theirs, and `starts` int64 [examples, 3] holds document, sentence and token of each.
    `filled` int64 [B, 3] counts the sequences, tokens and predictions of every row, and is brought up to date. Raises
    `BrokenOffsets` for examples that are not what was planned.
    """
    packed = features.position_ids.shape[1] > 0
    slots, places = features.sentence_order_labels.shape[1], features.input_ids.shape[1]
    for index in range(len(rows)):
        row = rows[index]
        slot, begin, predicted = filled[row]
        document, sentence, token = starts[index]
        pair = make_pair(text, rules, document, sentence, token, key)
        first, second = pair.a_end - pair.a, pair.b_end - pair.b
        length = first + second + SPECIAL_TOKENS
        end = begin + length
        if slot >= slots or end > places:
            raise BrokenOffsets
        ids = features.input_ids[row, begin:end]
        ids[0] = layout.cls_id
        ids[1 : 1 + first] = text.tokens[pair.a : pair.a_end]
        ids[1 + first] = layout.sep_id
        ids[2 + first : 2 + first + second] = text.tokens[pair.b : pair.b_end]
        ids[length - 1] = layout.sep_id
        features.token_type_ids[row, begin + 2 + first : end] = 1
        features.attention_mask[row, begin:end] = slot + 1
        if packed:
            features.position_ids[row, begin:end] = np.arange(length)
            features.first_positions[row, slot] = begin
        features.sentence_order_labels[row, slot] = pair.label
        features.sentence_order_weights[row, slot] = layout.sentence_weight
        features.origin[row, slot] = (shard, document, token)
        positions = features.masked_lm_positions[row, predicted : predicted + layout.predictions]
        count = mask_sequence(
            ids, length, mask_rules, stream(derive(derive(key, token), MASKING_STREAM)),
            positions, features.masked_lm_labels[row, predicted : predicted + layout.predictions],
            features.ngram_counts[row], features.replacement_counts[row],
        )  # fmt: skip
        positions[:count] += begin
        features.masked_lm_weights[row, predicted : predicted + count] = 1.0
        filled[row] = (slot + 1, end, predicted + count)
