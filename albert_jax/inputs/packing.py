"""Many sequences in few rows, so that a model computes next to no padding: texts of mixed lengths are laid behind one
another, and the attention mask keeps them apart (see `albert_jax.model.attention.attention_bias`)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHORT_ROW, LONG_ROW = 128, 512
"""Rows of at most `SHORT_ROW` tokens for sequences that fit, and up to `LONG_ROW`, or the longest sequence, for the
others and for short ones in their gaps. Attention costs grow with the square of a row; at 128 they are small beside the
matrix products."""
STEP = 64
"""Lengths of long rows are multiples of this, so that few shapes occur."""
FIXED_COST = 4096
"""A token of a row of R costs as much as FIXED_COST + R: the matrix products of ALBERT base take 24 H^2 operations for
each token, attention 4 R H."""
LEAST_LENGTH = 8
"""A row has places for one sequence in so many tokens: shorter ones take up a place for longer."""


class Place(NamedTuple):
    """Where a sequence lies in a batch: tokens `start` to `stop` of a row, of which it is sequence number `slot`."""

    index: int
    row: int
    slot: int
    start: int
    stop: int


class PackedBatch(NamedTuple):
    """Rows [B, R] of sequences, for `AlbertModel` and the heads above it, and where each sequence lies."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    attention_mask: np.ndarray
    """int32 [B, R]: number of the sequence in its row from 1 on, 0 for none"""
    position_ids: np.ndarray
    first_positions: np.ndarray
    """int32 [B, S]: where each sequence of a row begins; S is the most that a row may hold"""
    places: list[Place]


def pack(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], tokens_per_batch: int, pad_id: int
) -> Iterator[PackedBatch]:
    """Batches of about `tokens_per_batch` tokens that hold each of `sequences` (ids, segments) once, longer ones first.

    Few shapes occur, four at most: rows are of 16, 32, 64, 128 or a multiple of 64 tokens, and the last batch of each
    kind is padded to an eighth of a full one.
    """
    lengths = [len(ids) for ids, _ in sequences]
    left = sorted(range(len(sequences)), key=lambda index: -lengths[index])
    # Rows for the long sequences, whose gaps take short ones, and then rows for the other short ones.
    for opening in (SHORT_ROW + 1, 0):
        if not left or lengths[left[0]] < opening:
            continue
        sizes = row_lengths(lengths[left[0]], sum(lengths[index] for index in left))
        filled = [(size, *fill_rows(left, lengths, size, opening)) for size in sizes]
        size, rows, left = min(filled, key=lambda fill: cost(fill[0], fill[1], lengths))
        at_once = max(1, tokens_per_batch // size)
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            yield lay_out(part, sequences, (padded_count(len(part), at_once), size), pad_id)


def tokens_per_batch(platform: str) -> int:
    """Tokens that a device of JAX's `platform` is given at once when nothing is trained."""
    return 2048 if platform == "cpu" else 16_384


def row_lengths(longest: int, total: int) -> list[int]:
    """Tokens that a row may have for sequences up to `longest`; few where there is little text in all."""
    if longest > SHORT_ROW:
        least = -(-longest // STEP) * STEP
        return list(range(least, max(least, LONG_ROW) + 1, STEP))
    return [power_of_two(max(longest, min(total, SHORT_ROW), 2 * LEAST_LENGTH))]


def cost(size: int, rows: list[list[int]], lengths: Sequence[int]) -> float:
    """What a token costs in these rows, padding shared out over the tokens."""
    tokens = sum(lengths[index] for row in rows for index in row)
    return len(rows) * size * (FIXED_COST + size) / tokens


def padded_count(rows: int, at_once: int) -> int:
    """Rows of a batch that holds `rows`: a multiple of an eighth of `at_once`, below that a power of two."""
    unit = max(1, at_once // 8)
    return power_of_two(rows) if rows < unit else min(at_once, -(-rows // unit) * unit)


def fill_rows(
    order: list[int], lengths: Sequence[int], size: int, opening: int = 0, most: int | None = None
) -> tuple[list[list[int]], list[int]]:
    """Rows of indices, and the indices that are left: each sequence, longest first, goes where it leaves the least room
    (best fit); only those of at least `opening` tokens may begin a row. A row holds at most `most` sequences, by
    default one in `LEAST_LENGTH` tokens."""
    most = size // LEAST_LENGTH if most is None else most
    rows: list[list[int]] = []
    left: list[int] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]
    rooms = 0  # bit r: there is a row with room r
    for index in order:
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        elif length >= opening:
            room, row = size, len(rows)
            rows.append([])
        else:
            left.append(index)
            continue
        rows[row].append(index)
        if len(rows[row]) < most:
            by_room[room - length].append(row)
            rooms |= 1 << (room - length)
    return rows, left


def lay_out(
    rows: list[list[int]],
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    shape: tuple[int, int],
    pad_id: int,
    most: int | None = None,
) -> PackedBatch:
    """The arrays [B, R] of some rows, at most B, each of at most `most` sequences (see `fill_rows`)."""
    input_ids = np.full(shape, pad_id, np.int32)
    token_type_ids, attention_mask, position_ids = (np.zeros(shape, np.int32) for _ in range(3))
    first_positions = np.zeros((shape[0], shape[1] // LEAST_LENGTH if most is None else most), np.int32)
    places = []
    for row, indices in enumerate(rows):
        start = 0
        for slot, index in enumerate(indices):
            ids, types = sequences[index]
            stop = start + len(ids)
            input_ids[row, start:stop] = ids
            token_type_ids[row, start:stop] = types
            attention_mask[row, start:stop] = slot + 1
            position_ids[row, start:stop] = np.arange(len(ids))
            first_positions[row, slot] = start
            places.append(Place(index, row, slot, start, stop))
            start = stop
    return PackedBatch(input_ids, token_type_ids, attention_mask, position_ids, first_positions, places)


def power_of_two(number: int) -> int:
    """The next power of two from `number` on."""
    return 1 << (number - 1).bit_length()
