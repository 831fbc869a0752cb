"""The random streams: SplitMix64 as published, uniform, and independent under neighbouring names."""

import numpy as np
import pytest
from numba import njit

from albert_jax.inputs.random import derive, draw, draw_below, key_of, stream

# First outputs for seed 1234567, as the authors' reference in C prints them.
PUBLISHED = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)


@njit
def _draws(key, count):
    state = stream(key)
    return np.array([draw(state) for _ in range(count)])


@njit
def _draws_below(key, bound, count):
    state = stream(key)
    return np.array([draw_below(state, bound) for _ in range(count)])


def _chi_square_deviation(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_a_stream_is_splitmix64_as_published():
    draws = _draws(np.uint64(1234567), len(PUBLISHED))
    assert [int(x * 2**53) for x in draws] == [number >> 11 for number in PUBLISHED]


def test_draws_are_uniform():
    draws = _draws(key_of(3), 1_000_000)
    assert 0 <= draws.min() and draws.max() < 1
    assert abs(_chi_square_deviation(np.bincount((draws * 1000).astype(int), minlength=1000))) < 4


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 1000])
def test_integers_below_a_bound_are_uniform(bound):
    counts = np.bincount(_draws_below(key_of(4, bound), bound, 200_000), minlength=bound)
    assert len(counts) == bound
    assert bound == 1 or abs(_chi_square_deviation(counts)) < 4


@pytest.mark.parametrize("bound", [3, 5, 2**31 + 1, 2**40 - 1])
def test_the_largest_draw_stays_below_the_bound(bound):
    assert int((1 - 2.0**-53) * bound) == bound - 1


def test_streams_of_neighbouring_names_are_independent():
    keys = [key_of(0, name) for name in range(20_000)]
    firsts = np.array([_draws(key, 2) for key in keys])
    for values in firsts.T:
        assert abs(_chi_square_deviation(np.bincount((values * 100).astype(int), minlength=100))) < 4
    later = np.corrcoef(firsts[:-1, 0], firsts[1:, 0])[0, 1]
    across = np.corrcoef(firsts[:, 0], firsts[:, 1])[0, 1]
    assert max(abs(later), abs(across)) < 4 / np.sqrt(len(firsts))


def test_a_key_depends_on_every_name_and_on_their_order():
    names = [(1,), (0, 1), (1, 0), (1, 1), (0, 0, 1), (2**32, 1), (2**32 + 1, 0), (2**62,)]
    assert len({int(key_of(*name)) for name in names}) == len(names)


def test_a_key_continues_a_shorter_one():
    assert key_of(4, 5, 6) == key_of(5, 6, within=key_of(4)) == np.uint64(derive(key_of(4, 5), 6))
