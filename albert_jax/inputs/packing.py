"""Many sequences in few rows, so that a model computes next to no padding: texts of mixed lengths are laid behind one
another, and the attention mask keeps them apart (see `albert_jax.model.attention.attention_bias`)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHORT_ROW = 128
"""Rows for sequences up to this length; longer ones go into rows for the longest of them. Attention costs grow with the
square of a row, and at 128 they are small beside the matrix products."""
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
    """int32 [B, R / 8]: where each sequence of a row begins"""
    places: list[Place]


def pack(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], tokens_per_batch: int, pad_id: int
) -> Iterator[PackedBatch]:
    """Batches of about `tokens_per_batch` tokens that hold each of `sequences` (ids, segments) once, longest first.

    Few shapes occur: rows of 16, 32, 64, 128 or a multiple of 128 tokens, and numbers of rows that are powers of two.
    """
    lengths = [len(ids) for ids, _ in sequences]
    order = sorted(range(len(sequences)), key=lambda index: -lengths[index])
    for group in (
        [index for index in order if lengths[index] > SHORT_ROW],
        [index for index in order if lengths[index] <= SHORT_ROW],
    ):
        if group:
            longest, total = lengths[group[0]], sum(lengths[index] for index in group)
            size = row_length(longest, total)
            rows = fill_rows(group, lengths, size)
            at_once = power_of_two(max(1, tokens_per_batch // size), up=False)
            for start in range(0, len(rows), at_once):
                yield lay_out(rows[start : start + at_once], sequences, size, pad_id)


def row_length(longest: int, total: int) -> int:
    """Tokens of a row for sequences up to `longest`; short where there is little text in all."""
    if longest > SHORT_ROW:
        return -(-longest // SHORT_ROW) * SHORT_ROW
    return power_of_two(max(longest, min(total, SHORT_ROW), 2 * LEAST_LENGTH))


def fill_rows(group: list[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows of indices: each sequence, longest first, goes where it leaves the least room (best fit)."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]
    for index in group:
        room = next((room for room in range(lengths[index], size + 1) if by_room[room]), None)
        if room is None:
            rows.append([])
            room, row = size, len(rows) - 1
        else:
            row = by_room[room].pop()
        rows[row].append(index)
        if len(rows[row]) < size // LEAST_LENGTH:
            by_room[room - lengths[index]].append(row)
    return rows


def lay_out(
    rows: list[list[int]], sequences: Sequence[tuple[Sequence[int], Sequence[int]]], size: int, pad_id: int
) -> PackedBatch:
    """The arrays of some rows."""
    shape = power_of_two(len(rows)), size
    input_ids = np.full(shape, pad_id, np.int32)
    token_type_ids, attention_mask, position_ids = (np.zeros(shape, np.int32) for _ in range(3))
    first_positions = np.zeros((shape[0], size // LEAST_LENGTH), np.int32)
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


def power_of_two(number: int, up: bool = True) -> int:
    """The next power of two from `number`, itself included."""
    return 1 << ((number - 1).bit_length() if up else number.bit_length() - 1)
