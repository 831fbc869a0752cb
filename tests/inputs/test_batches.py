"""Batches of fine-tuning: plain random draws, laid whole into rows of few shapes, the same from (seed, step) always."""

import itertools

import numpy as np
import pytest

from albert_jax.inputs.batches import (
    LENGTHS,
    SHAPES,
    Shape,
    TrainingBatches,
    Units,
    cost,
    multiple,
    plan_shapes,
    row_length,
    whole_batches,
)

PAD = 0
HIDDEN = 768
RNG = np.random.default_rng(0)
MIXTURES = {
    # Lengths by the quantiles of SST-2's phrases in ALBERT's pieces, and about those of MNLI's pairs and SQuAD's
    # windows; and batch sizes.
    "SST-2": (
        np.interp(RNG.random(4000), [0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1], [3, 3, 4, 6, 11, 19, 30, 50, 66]),
        32,
    ),
    "MNLI": (np.clip(RNG.lognormal(3.6, 0.4, 4000), 6, 256), 128),
    "SQuAD": (np.clip(RNG.normal(170, 60, 4000), 30, 384), 48),
}
LENGTHS_OF = {name: (lengths.astype(int), batch_size) for name, (lengths, batch_size) in MIXTURES.items()}
SETS = {
    "one example": ([9], 8),
    "a batch larger than the data": ([5, 40, 12], 16),
    "equal": ([20] * 30, 8),
    "of three tokens": ([3] * 40, 16),
    "of three tokens and a page": ([3] * 39 + [500], 16),
    "mixed": (RNG.integers(3, 130, 50).tolist(), 16),
    "beyond the longest row": ([700, 30, 513, 512], 8),
}


def sequences(lengths):
    """Ids that tell whose they are and where in it; segments 0, then 1."""
    return [(1 + 1000 * i + np.arange(n), (np.arange(n) >= n // 2).astype(int)) for i, n in enumerate(lengths)]


def units_of(lengths, each=1) -> Units:
    """Every `each` sequences are a unit."""
    return Units(np.array(lengths, np.int64), np.arange(0, len(lengths) + 1, each))


def make(lengths, batch_size, *, seed=3, accumulation=1, shards=1, shapes=None, each=1) -> TrainingBatches:
    units = units_of(lengths, each)
    shapes = plan_shapes(units, batch_size // accumulation, shards, HIDDEN) if shapes is None else shapes
    return TrainingBatches(
        sequences(lengths),
        units,
        batch_size=batch_size,
        accumulation=accumulation,
        shards=shards,
        seed=seed,
        pad_id=PAD,
        shapes=shapes,
    )


def indices(packed) -> list[int]:
    return sorted(place.index for place in packed.places)


def assert_laid_whole(packed, given):
    """All that the arrays say follows from the places and the sequences."""
    expected = {name: np.zeros_like(packed.input_ids) for name in ("types", "numbers", "positions")}
    ids = np.full_like(packed.input_ids, PAD)
    firsts = np.zeros_like(packed.first_positions)
    assert len(firsts) == len(ids)
    for index, row, slot, start, stop in packed.places:
        here = row, slice(start, stop)
        assert (expected["numbers"][here] == 0).all(), "two sequences overlap"
        ids[here], expected["types"][here] = given[index]
        expected["numbers"][here], expected["positions"][here] = slot + 1, np.arange(stop - start)
        firsts[row, slot] = start
    np.testing.assert_array_equal(packed.input_ids, ids)
    np.testing.assert_array_equal(packed.token_type_ids, expected["types"])
    np.testing.assert_array_equal(packed.attention_mask, expected["numbers"])
    np.testing.assert_array_equal(packed.position_ids, expected["positions"])
    np.testing.assert_array_equal(packed.first_positions, firsts)


# ---- which units


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (10, 4), (7, 7), (3, 8), (1, 5)])
def test_every_epoch_takes_every_unit_exactly_once(count, batch_size):
    batches = make([10] * count, batch_size)
    drawn = np.concatenate([batches.units(step) for step in range(count)])
    for epoch in drawn.reshape(batch_size, count):
        assert sorted(epoch) == list(range(count))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    orders = [make([10] * 40, 40, seed=seed).units(epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(orders, 2))


def test_a_step_is_the_same_whoever_asks_and_in_whatever_order():
    one, other = (make(SETS["mixed"][0], 16, accumulation=2) for _ in range(2))
    forwards = [one(step) for step in range(30)]
    for step in (29, 3, 4, 0, 17, 29):
        for part, again in zip(forwards[step], other(step), strict=True):
            np.testing.assert_array_equal(part.units, again.units)
            assert part.packed.places == again.packed.places
            for array, repeated in zip(part.packed[:-1], again.packed[:-1], strict=True):
                np.testing.assert_array_equal(array, repeated)


def test_a_batch_reaches_over_the_end_of_an_epoch():
    batches = make([10] * 10, 6)
    drawn = np.concatenate([batches.units(step) for step in (0, 1, 2)])
    (part,) = batches(1)
    assert sorted(drawn[:10]) == list(range(10))
    assert set(part.units[4:]) <= set(range(10))
    assert indices(part.packed) == sorted(part.units)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_parts_together_are_the_units_of_the_whole_batch(accumulation):
    whole, parted = (make(SETS["mixed"][0], 16, accumulation=parts) for parts in (1, accumulation))
    for step in range(8):
        parts = parted(step)
        assert len(parts) == accumulation
        np.testing.assert_array_equal(np.concatenate([part.units for part in parts]), whole.units(step))
        assert all(indices(part.packed) == sorted(part.units) for part in parts)


# ---- how they lie


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("accumulation", "shards"), [(1, 1), (2, 4), (1, 8)])
def test_every_sequence_of_a_step_is_laid_once_and_whole(name, accumulation, shards):
    lengths, batch_size = SETS[name]
    batches = make(lengths, batch_size, accumulation=accumulation, shards=shards)
    for step in range(12):
        for part in batches(step):
            assert indices(part.packed) == sorted(part.units)
            assert_laid_whole(part.packed, sequences(lengths))


def test_the_sequences_of_a_unit_stay_in_one_part():
    lengths = np.random.default_rng(1).integers(3, 60, 120).tolist()
    batches = make(lengths, 8, accumulation=4, each=4)
    for step in range(10):
        for part in batches(step):
            assert indices(part.packed) == sorted(4 * unit + i for unit in part.units for i in range(4))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("accumulation", "shards"), [(2, 1), (4, 2), (1, 8)])
def test_the_parts_of_a_step_have_one_shape_whose_rows_the_shards_divide(name, accumulation, shards):
    lengths, batch_size = SETS[name]
    batches = make(lengths, batch_size, accumulation=accumulation, shards=shards)
    for step in range(12):
        ((rows, _),) = {part.packed.input_ids.shape for part in batches(step)}
        assert rows % shards == 0


def test_a_row_takes_no_more_sequences_than_it_has_places_for():
    batches = make([3] * 40, 40, shapes=[Shape(10, 32, 4)])
    (part,) = batches(0)
    assert part.packed.input_ids.shape == (10, 32)  # 10 rows of 4, though 10 would fit into each
    assert part.packed.first_positions.shape == (10, 4)
    assert_laid_whole(part.packed, sequences([3] * 40))


def test_what_no_planned_shape_can_hold_gets_a_shape_of_its_own():
    batches = make([20] * 30 + [700], 31, shapes=[Shape(20, 64, 8)])
    (part,) = batches(0)
    rows, length = part.packed.input_ids.shape
    assert length == row_length(700) == 704
    assert rows == 2  # 700 tokens fill one, 30 times 20 the other
    assert_laid_whole(part.packed, sequences([20] * 30 + [700]))


def test_a_shape_of_its_own_has_rows_that_the_shards_divide():
    batches = make([20] * 30 + [700], 31, shards=8, shapes=[Shape(16, 64, 8)])
    assert batches(0)[0].packed.input_ids.shape == (8, 704)


# ---- the plan


@pytest.mark.parametrize("name", LENGTHS_OF)
@pytest.mark.parametrize("shards", [1, 8])
def test_shapes_are_few(name, shards):
    lengths, batch_size = LENGTHS_OF[name]
    batches = make(lengths, batch_size, shards=shards)
    planned = plan_shapes(units_of(lengths), batch_size, shards, HIDDEN)
    assert 1 <= len(planned) <= SHAPES
    known = {shape[:2] for shape in planned}
    found = [batches(step)[0].packed.input_ids.shape for step in range(200)]
    assert sum(shape not in known for shape in found) <= 4  # in 2 % of the batches


@pytest.mark.parametrize(("name", "most"), [("SST-2", 0.06), ("MNLI", 0.04), ("SQuAD", 0.06)])
def test_there_is_little_padding(name, most):
    lengths, batch_size = LENGTHS_OF[name]
    batches = make(lengths, batch_size)
    masks = [part.packed.attention_mask > 0 for step in range(200) for part in batches(step)]
    assert 1 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks) < most


def test_several_shapes_are_cheaper_than_one():
    lengths, batch_size = LENGTHS_OF["SST-2"]
    planned = plan_shapes(units_of(lengths), batch_size, 1, HIDDEN)
    several = make(lengths, batch_size, shapes=planned)
    one = make(lengths, batch_size, shapes=planned[-1:])

    def places(batches):
        return sum(batches(step)[0].packed.input_ids.size for step in range(100))

    assert places(several) < 0.95 * places(one)


def test_a_shape_that_saves_too_little_is_not_planned():
    lengths, batch_size = LENGTHS_OF["SST-2"]
    plans = [plan_shapes(units_of(lengths), batch_size, 1, HIDDEN, least_saving) for least_saving in (0, 0.01, 0.05, 1)]
    counts = [len(plan) for plan in plans]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 1


def test_places_for_sequences_are_as_dense_as_the_sequences_are_short():
    def spacing(lengths):
        return max(shape.length / shape.places for shape in plan_shapes(units_of(lengths), 16, 1, HIDDEN))

    assert spacing([4] * 100) == 4
    assert spacing([200] * 100) == 32


@pytest.mark.parametrize("name", SETS)
def test_the_plan_is_ascending_in_cost_and_its_rows_the_shards_divide(name):
    lengths, batch_size = SETS[name]
    planned = plan_shapes(units_of(lengths), batch_size, 4, HIDDEN)
    costs = [cost(shape, HIDDEN) for shape in planned]
    assert costs == sorted(costs)
    assert all(shape.rows % 4 == 0 for shape in planned)
    assert all(shape.length in (*LENGTHS, row_length(max(lengths))) for shape in planned)


def test_the_plan_depends_on_the_data_alone():
    lengths, batch_size = LENGTHS_OF["SST-2"]
    plans = []
    for seed in (0, 1):
        np.random.seed(seed)
        plans.append(plan_shapes(units_of(lengths), batch_size, 1, HIDDEN))
    assert plans[0] == plans[1]


@pytest.mark.parametrize("shards", [1, 8])
def test_the_plan_holds_every_batch_it_has_seen(shards):
    lengths = LENGTHS_OF["MNLI"][0][:64].tolist()
    planned = plan_shapes(units_of(lengths), 64, shards, HIDDEN)  # every batch is all of the data
    batches = make(lengths, 64, shards=shards, shapes=planned)
    assert {batches(step)[0].packed.input_ids.shape for step in range(20)} == {planned[-1][:2]}
    assert len(planned) == 1


def test_the_plan_counts_the_sequences_of_a_unit():
    lengths = [100] * 160
    batches = make(lengths, 8, each=4)
    planned = plan_shapes(units_of(lengths, 4), 8, 1, HIDDEN)
    assert batches(0)[0].packed.input_ids.shape == planned[-1][:2]
    assert sum(len(part.packed.places) for part in batches(0)) == 32


# ---- for evaluation


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_evaluation_lays_every_sequence_once_in_rows_that_the_shards_divide(name, shards):
    given = sequences(SETS[name][0])
    found = list(whole_batches(given, 512 * shards, shards, PAD))
    assert sorted(index for packed in found for index in indices(packed)) == list(range(len(given)))
    for packed in found:
        assert len(packed.input_ids) % shards == 0
        assert_laid_whole(packed, given)


def test_evaluation_of_nothing_is_no_batch():
    assert list(whole_batches([], 512, 8, PAD)) == []


@pytest.mark.parametrize(("number", "unit", "expected"), [(0, 8, 0), (1, 8, 8), (8, 8, 8), (9, 8, 16), (9, 1, 9)])
def test_a_multiple_is_the_next_one(number, unit, expected):
    assert multiple(number, unit) == expected
