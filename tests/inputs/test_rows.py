"""Examples in rows: whatever their lengths are, each has its place and no row is overfull."""

from itertools import pairwise

import numpy as np
import pytest

from albert_jax.inputs.random import key_of, permutation
from albert_jax.inputs.rows import arrange, max_sequences, row_patterns


def _lengths(seed: int, row_length: int) -> np.ndarray:
    """Lengths of 5 to `row_length` tokens, distributed in one of several ways."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 400))
    kind = seed % 4
    if kind == 0:
        lengths = generator.integers(5, row_length + 1, count)
    elif kind == 1:
        lengths = generator.lognormal(np.log(row_length / 3), 1.0, count)
    elif kind == 2:
        lengths = generator.choice(generator.integers(5, row_length + 1, 3), count)
    else:
        lengths = np.full(count, 5)
    return np.clip(lengths, 5, row_length).astype(np.uint32)


def _rows(lengths: np.ndarray, row_length: int, sequences: int, seed: int) -> list[list[int]]:
    order = permutation(len(lengths), key_of(seed))
    starts = arrange(order, lengths, row_length, sequences, key_of(seed, 1))
    assert starts[0] == 0 and starts[-1] == len(lengths)
    return [order[begin:end].tolist() for begin, end in pairwise(starts.tolist())]


@pytest.mark.parametrize("seed", range(40))
def test_every_example_has_one_place_and_no_row_is_overfull(seed):
    row_length = (8, 16, 64, 128, 512)[seed % 5]
    lengths, sequences = _lengths(seed, row_length), 1 + seed % 7
    rows = _rows(lengths, row_length, sequences, seed)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    for row in rows:
        assert 1 <= len(row) <= sequences and row == sorted(row)
        assert sum(int(lengths[example]) for example in row) <= row_length


@pytest.mark.parametrize("seed", range(40))
def test_the_number_of_rows_follows_from_the_counts_of_the_lengths(seed):
    row_length, sequences = (8, 16, 64, 128, 512)[seed % 5], 1 + seed % 7
    lengths = _lengths(seed, row_length)
    kinds, rows = row_patterns(np.bincount(lengths, minlength=row_length + 1), sequences)
    assert rows.sum() == len(_rows(lengths, row_length, sequences, seed))
    used = np.bincount(np.repeat(kinds, rows, axis=0).ravel(), minlength=row_length + 1)
    assert used[1:].tolist() == np.bincount(lengths, minlength=row_length + 1)[1:].tolist()


def _best_fit(lengths: list[int], row_length: int, sequences: int) -> int:
    """Rows that best fit, longest first, takes example by example."""
    rooms, held = [], []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rooms)) if rooms[row] >= length and held[row] < sequences]
        if fitting:
            row = min(fitting, key=lambda row: rooms[row])
        else:
            row = len(rooms)
            rooms.append(row_length)
            held.append(0)
        rooms[row] -= length
        held[row] += 1
    return len(rooms)


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_of_best_fit_example_by_example(seed):
    row_length, sequences = (8, 16, 64, 128, 512)[seed % 5], 1 + seed % 7
    lengths = _lengths(seed, row_length)
    assert len(_rows(lengths, row_length, sequences, seed)) == pytest.approx(
        _best_fit(lengths.tolist(), row_length, sequences), rel=0.01, abs=1
    )


def test_rows_lie_in_random_order_and_mix_examples_at_random():
    lengths = np.full(8000, 5, np.uint32)
    lengths[:2000] = 50
    rows = _rows(lengths, 64, max_sequences(64), seed=3)
    kinds = np.array([len(row) for row in rows])
    assert sorted(np.unique(kinds)) == [3, 4]
    assert abs(np.corrcoef(kinds[:-1], kinds[1:])[0, 1]) < 4 / np.sqrt(len(kinds))
    together = [row for row in rows if lengths[row[0]] == 50]
    partners = [(row[0], row[1]) for row in together]
    assert abs(np.corrcoef(np.array(partners).T)[0, 1]) < 0.1


def test_no_examples_make_no_rows():
    assert _rows(np.empty(0, np.uint32), 64, 4, seed=1) == []
    assert len(row_patterns(np.zeros(65, np.int64), 4)[1]) == 0
