"""Which corpus each row of a mix is from: shares without drift, in a random order, found for any row alone.

Rows come in blocks. How many of a block are from each corpus follows from exact fractions, and where they stand in it
from a keyed permutation; so a host, a restart or another batch size finds the same rows.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from math import floor

import numpy as np

from albert_jax.errors import UserError
from albert_jax.inputs.random import key_of, permutation

LEAST_BLOCK, LARGEST_BLOCK = 2**8, 2**20
"""Rows of a block: few, so that every batch is mixed well, or as many as it takes for one row of each corpus."""


class Mix:
    """Rows 0, 1, ... of a mix and the rows of its corpora, each read in order and without gaps. Thread-safe."""

    def __init__(self, weights: Sequence[float], names: Sequence[str], key: np.uint64):
        """`weights` of the corpora relative to each other, all above 0; `names` for the error message."""
        self.shares = shares_of(weights)
        self.block = LEAST_BLOCK
        while self.block * min(self.shares) < 1:
            self.block *= 2
        if self.block > LARGEST_BLOCK:
            name = names[self.shares.index(min(self.shares))]
            raise UserError(
                f"{name}: fewer than one in {LARGEST_BLOCK:,} rows would be from it; leave it out of data.corpus, or "
                "set data.corpus_weights"
            )
        self._key = key
        self._arranged = lru_cache(maxsize=8)(self._arrange)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each row of the mix, int64 [rows], its corpus, and its row among those of the corpus."""
        blocks, places = np.divmod(rows, self.block)
        corpora, numbers = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for block in np.unique(blocks):
            chosen = blocks == block
            corpus, number = self._arranged(int(block))
            corpora[chosen], numbers[chosen] = corpus[places[chosen]], number[places[chosen]]
        return corpora, numbers

    def rows_before(self, row: int) -> list[int]:
        """How many of the first `row` rows of the mix are from each corpus."""
        block, places = divmod(row, self.block)
        corpus, _ = self._arranged(block)
        within = np.bincount(corpus[:places], minlength=len(self.shares))
        return [first + int(more) for first, more in zip(self._first(block), within, strict=True)]

    def _first(self, block: int) -> list[int]:
        return apportion(block * self.block, self.shares)

    def _arrange(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Corpus, and row of the corpus, of each row of a block."""
        first = self._first(block)
        counts = np.subtract(self._first(block + 1), first)
        order = permutation(self.block, key_of(block, within=self._key))
        corpus = np.repeat(np.arange(len(counts)), counts)[order]
        number = np.empty(self.block, np.int64)
        for index, begin in enumerate(first):
            number[corpus == index] = begin + np.arange(counts[index])
        return corpus, number


def shares_of(weights: Sequence[float]) -> list[Fraction]:
    """Shares that add up to exactly 1; 0.1 means a tenth, not the nearest binary fraction."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def apportion(count: int, shares: Sequence[Fraction]) -> list[int]:
    """`count` in whole parts, each less than 1 from its share: the parts between cumulative shares, rounded.

    No part shrinks when `count` grows by so much that every share of the growth is at least 1.
    """
    ends = [0] + [floor(count * end + Fraction(1, 2)) for end in accumulate(shares)]
    return [end - begin for begin, end in pairwise(ends)]
