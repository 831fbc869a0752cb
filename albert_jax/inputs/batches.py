"""Batches of fine-tuning: which examples make up a step, and how their sequences are laid into rows without padding.

A batch is a plain random draw, as the published recipes have it: nothing is grouped by length. Its sequences are then
packed (`albert_jax.inputs.packing`) into rows of few shapes, chosen once from the lengths of the data, so that short
sentences cost what they are long and little is compiled. Everything is a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from albert_jax.inputs.packing import LEAST_LENGTH, PackedBatch, fill_rows, lay_out, pack

LENGTHS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Tokens of a row; longer ones are multiples of the last step."""
SPACINGS = (4, 8, 16, 32)
"""A row has places for one sequence in so many tokens, whichever the plan finds cheapest. With few places short
sequences take up those of long ones; with many the last block is computed where no one reads it."""
PLACE_COST = 0.075
"""What a place costs in a network of twelve layers, in tokens: most of the last block."""
SHAPES = 12
"""Most shapes that are planned for, each a compilation; a batch that fits none of them gets one of its own."""
SAMPLE = 256
"""Batches that the plan looks at."""
PLAN_SEED = 20190926

Pair = tuple[np.ndarray, np.ndarray]
"""Ids and segments of one sequence."""


class Shape(NamedTuple):
    """Rows of a part of a batch, tokens of a row, and the sequences that it has places for."""

    rows: int
    length: int
    places: int


@dataclass(frozen=True)
class Units:
    """What batches are drawn from: unit u is the sequences `offsets[u]` to `offsets[u + 1]`, which stay together (the
    choices of a question)."""

    lengths: np.ndarray
    """int64 [sequences]: ids of each"""
    offsets: np.ndarray
    """int64 [units + 1]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sequences(self, units: np.ndarray) -> list[int]:
        """Indices of the sequences of some units, in their order."""
        return [index for unit in units for index in range(self.offsets[unit], self.offsets[unit + 1])]


class Part(NamedTuple):
    """One part of a batch, all of it if nothing is accumulated: its units, and its rows."""

    units: np.ndarray
    packed: PackedBatch


class TrainingBatches:
    """The batches of one seed; `batches(step)` are the parts of a step, all of one shape.

    Every epoch takes all units in a new random order; a batch may reach over the end of one.
    """

    def __init__(
        self,
        sequences: Sequence[Pair],
        units: Units,
        *,
        batch_size: int,
        accumulation: int,
        shards: int,
        seed: int,
        pad_id: int,
        shapes: Sequence[Shape],
    ):
        """`batch_size` units a step, in `accumulation` parts, whose rows are a multiple of `shards`; `shapes` are those
        of `plan_shapes`."""
        self._sequences, self._units, self._lengths = sequences, units, units.lengths.tolist()
        self._batch_size, self._accumulation, self._shards = batch_size, accumulation, shards
        self._seed, self._pad_id = seed, pad_id
        self._orders: dict[int, np.ndarray] = {}
        self._shapes = shapes

    def units(self, step: int) -> np.ndarray:
        """int64 [batch_size]: the units of a step."""
        places = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs, within = np.divmod(places, len(self._units))
        return np.concatenate([self._order(int(epoch))[within[epochs == epoch]] for epoch in np.unique(epochs)])

    def __call__(self, step: int) -> list[Part]:
        parts = self.units(step).reshape(self._accumulation, -1)
        chosen = [self._units.sequences(part) for part in parts]
        shape, rows = self._fitted(chosen)
        return [
            Part(part, lay_out(rows_of_part, self._sequences, shape[:2], self._pad_id, shape.places))
            for part, rows_of_part in zip(parts, rows, strict=True)
        ]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key >= epoch - 1}
            self._orders[epoch] = np.random.default_rng([self._seed, epoch]).permutation(len(self._units))
        return self._orders[epoch]

    def _fitted(self, parts: list[list[int]]) -> tuple[Shape, list[list[list[int]]]]:
        """The cheapest planned shape that holds every part, or else one made for them, and the rows of each part."""
        lengths = self._lengths
        longest = max(lengths[index] for part in parts for index in part)
        total = max(sum(lengths[index] for index in part) for part in parts)
        orders = [sorted(part, key=lambda index: -lengths[index]) for part in parts]
        filled: dict[tuple[int, int], list[list[list[int]]]] = {}

        def rows_of(length: int, places: int) -> list[list[list[int]]]:
            if (length, places) not in filled:
                filled[length, places] = [fill_rows(order, lengths, length, most=places)[0] for order in orders]
            return filled[length, places]

        for shape in self._shapes:
            if shape.length < longest or shape.rows * shape.length < total:
                continue
            rows = rows_of(shape.length, shape.places)
            if max(map(len, rows)) <= shape.rows:
                return shape, rows
        # A shape of its own, and so a compilation: in rows as long as others are, where that costs less.
        size = row_length(longest)
        sizes = {
            (size, max(1, size // LEAST_LENGTH)),
            *(shape[1:] for shape in self._shapes if shape.length >= longest),
        }
        length, places = min(sizes, key=lambda size: (size[0] * max(map(len, rows_of(*size))), size))
        rows = rows_of(length, places)
        return Shape(multiple(max(map(len, rows)), self._shards), length, places), rows


def plan_shapes(units: Units, batch_size: int, shards: int, hidden_size: int, least_saving: float = 0.0) -> list[Shape]:
    """At most `SHAPES` shapes for batches of random units, cheapest first, the last of which holds every batch that was
    looked at. Each of the others lowers the average cost of a batch by more than `least_saving`, a share of it. The
    plan is the same for every seed.

    `hidden_size` is the network's: it decides what a long row costs."""
    generator = np.random.default_rng(PLAN_SEED)
    lengths = units.lengths.tolist()
    orders = [
        sorted(
            units.sequences(generator.choice(len(units), batch_size, replace=batch_size > len(units))),
            key=lambda index: -lengths[index],
        )
        for _ in range(min(SAMPLE, max(16, 20_000 // batch_size)))
    ]
    longest = np.array([lengths[order[0]] for order in orders])
    # Rows longer than any sequence waste less of their ends.
    least = row_length(int(longest.max()))
    top = max(least, min(2 * least, LENGTHS[-1]))
    sizes = [*(size for size in LENGTHS if size < top), top]

    def plan(spacing: int) -> tuple[float, list[Shape]]:
        """The average cost of a batch, and the shapes, of which each takes over from those before what it holds for
        less."""
        costs: dict[Shape, np.ndarray] = {}
        for size in sizes:
            places = max(1, size // spacing)
            rows = np.full(len(orders), np.inf)
            for batch in np.flatnonzero(longest <= size):
                rows[batch] = multiple(len(fill_rows(orders[batch], lengths, size, most=places)[0]), shards)
            for count in np.unique(rows[np.isfinite(rows)]):
                shape = Shape(int(count), size, places)
                costs[shape] = np.where(rows <= count, cost(shape, hidden_size), np.inf)

        def average(shape: Shape) -> float:
            return float(np.minimum(cheapest, costs[shape]).mean())

        cheapest = np.full(len(orders), np.inf)
        chosen = [min(costs, key=average)]
        cheapest = costs[chosen[0]]
        while len(chosen) < SHAPES:
            shape = min(costs, key=average)
            if average(shape) >= (1 - least_saving) * cheapest.mean() - 1e-9:
                break
            chosen.append(shape)
            cheapest = np.minimum(cheapest, costs[shape])
        return float(cheapest.mean()), chosen

    _, best = min(map(plan, SPACINGS), key=lambda plan: plan[0])
    return sorted(best, key=lambda shape: (cost(shape, hidden_size), shape))


def cost(shape: Shape, hidden_size: int) -> float:
    """What a part of this shape costs, in units of the matrix products of a token: these take 24 H^2 operations in a
    layer, attention 4 H for each token of the row."""
    return shape.rows * (shape.length * (1 + shape.length / (6 * hidden_size)) + shape.places * PLACE_COST)


def row_length(longest: int) -> int:
    """The shortest row for a sequence."""
    step = LENGTHS[-1] - LENGTHS[-2]
    return next((size for size in LENGTHS if size >= longest), multiple(longest, step))


def multiple(number: int, unit: int) -> int:
    """The next multiple of `unit` from `number` on."""
    return -(-number // unit) * unit


def whole_batches(sequences: Sequence[Pair], tokens_per_batch: int, shards: int, pad_id: int) -> Iterator[PackedBatch]:
    """Every sequence once, packed regardless of order, in rows that are a multiple of `shards`: for evaluation."""
    for packed in pack(sequences, tokens_per_batch, pad_id):
        rows = len(packed.input_ids)
        missing = multiple(rows, shards) - rows
        yield packed._replace(
            **{
                name: np.pad(array, ((0, missing), (0, 0)), constant_values=pad_id if name == "input_ids" else 0)
                for name, array in packed._asdict().items()
                if name != "places"
            }
        )


def packed_arrays(packed: PackedBatch) -> dict[str, np.ndarray]:
    """What the network reads, by the names of its arguments."""
    return {name: array for name, array in packed._asdict().items() if name != "places"}


def stacked(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """[accumulation, ...] of every array."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
