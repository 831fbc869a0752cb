"""Sequences of mixed lengths in rows: all there, apart, and with little padding."""

import numpy as np
import pytest

from albert_jax.inputs.packing import LEAST_LENGTH, PackedBatch, pack

PAD = 0
RNG = np.random.default_rng(0)
MIXTURES = {
    "sentences": np.clip(RNG.lognormal(3.2, 0.6, 3000), 3, 128),
    "reviews": np.clip(RNG.lognormal(5.0, 0.7, 3000), 5, 512),
    "questions with contexts": np.clip(RNG.normal(170, 60, 3000), 30, 384),
    "uniform up to 512": RNG.uniform(3, 513, 3000),
    "sentences and a few pages": np.concatenate([RNG.uniform(10, 60, 3000), np.full(20, 400)]),
}
LENGTHS = {name: values.astype(int) for name, values in MIXTURES.items()} | {
    "one of one token": [1],
    "one of 128": [128],
    "one of 129": [129],
    "one of 512": [512],
    "around the limits": [127, 128, 129, 255, 256, 257, 384, 385, 511, 512] * 3,
    "hundreds of one token": [1] * 700,
    "one token and a page": [1, 300, 1],
    "equal": [50] * 40,
}


def sequences(lengths) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens that tell which sequence they belong to and where in it they are; segments 0, then 1."""
    return [(1 + 1000 * i + np.arange(n), (np.arange(n) >= n // 2).astype(int)) for i, n in enumerate(lengths)]


def packed(lengths, tokens_per_batch=2048) -> list[PackedBatch]:
    return list(pack(sequences(lengths), tokens_per_batch, PAD))


def shape_fits(rows: int, length: int, tokens_per_batch: int) -> bool:
    eighth = max(1, tokens_per_batch // length // 8)
    count_fits = rows % eighth == 0 or rows & (rows - 1) == 0 or rows == tokens_per_batch // length
    return count_fits and (length in (16, 32) or length % 64 == 0)


@pytest.mark.parametrize("name", LENGTHS)
def test_every_sequence_lies_whole_in_one_place(name):
    given = sequences(LENGTHS[name])
    places = 0
    for batch in packed(LENGTHS[name]):
        for index, row, _, start, stop in batch.places:
            ids, types = given[index]
            np.testing.assert_array_equal(batch.input_ids[row, start:stop], ids)
            np.testing.assert_array_equal(batch.token_type_ids[row, start:stop], types)
            np.testing.assert_array_equal(batch.position_ids[row, start:stop], np.arange(len(ids)))
            places += 1
    assert places == len(given)


@pytest.mark.parametrize("name", LENGTHS)
def test_every_sequence_has_a_place(name):
    found = [place.index for batch in packed(LENGTHS[name]) for place in batch.places]
    assert sorted(found) == list(range(len(LENGTHS[name])))


@pytest.mark.parametrize("name", LENGTHS)
def test_the_mask_numbers_the_sequences_of_a_row_and_nothing_else(name):
    for batch in packed(LENGTHS[name]):
        expected = np.zeros_like(batch.attention_mask)
        for _, row, slot, start, stop in batch.places:
            assert (expected[row, start:stop] == 0).all(), "two sequences overlap"
            expected[row, start:stop] = slot + 1
        np.testing.assert_array_equal(batch.attention_mask, expected)
        assert (batch.input_ids[expected == 0] == PAD).all()


@pytest.mark.parametrize("name", LENGTHS)
def test_first_positions_are_the_starts_in_the_order_of_the_slots(name):
    for batch in packed(LENGTHS[name]):
        assert batch.first_positions.shape == (len(batch.input_ids), batch.input_ids.shape[1] // LEAST_LENGTH)
        for _, row, slot, start, _ in batch.places:
            assert batch.first_positions[row, slot] == start


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("tokens_per_batch", [16, 2048, 16_384])
def test_shapes_are_few(name, tokens_per_batch):
    shapes = {batch.input_ids.shape for batch in packed(LENGTHS[name], tokens_per_batch)}
    assert all(shape_fits(*shape, tokens_per_batch) for shape in shapes)
    assert len(shapes) <= 4
    assert all(rows * length <= max(tokens_per_batch, length) for rows, length in shapes)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("tokens_per_batch", [2048, 16_384])
def test_full_batches_hold_little_padding(name, tokens_per_batch):
    batches = packed(LENGTHS[name], tokens_per_batch)
    # The last of each row length may have empty rows.
    last = {batch.input_ids.shape[1]: number for number, batch in enumerate(batches)}
    full = [batch.attention_mask > 0 for number, batch in enumerate(batches) if number not in last.values()]
    assert full
    assert sum(mask.sum() for mask in full) > 0.95 * sum(mask.size for mask in full)


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ([3], (1, 16)),
        ([17], (1, 32)),
        ([20, 20], (1, 64)),
        ([128], (1, 128)),
        ([129], (1, 192)),
        ([512], (1, 512)),
        ([512, 1], (1, 512)),
    ],
)
def test_a_few_sequences_take_small_rows(lengths, shape):
    assert packed(lengths)[0].input_ids.shape == shape


def test_short_sequences_fill_the_gaps_of_long_rows():
    (batch,) = packed([400, 60, 50])
    assert batch.input_ids.shape == (1, 512)


def test_rows_are_as_long_as_fits_the_sequences_best():
    batches = packed([140] * 300)
    assert {batch.input_ids.shape[1] for batch in batches} == {448}
    assert {batch.input_ids.shape[1] for batch in packed([190] * 300)} == {192}


def test_an_unfinished_batch_has_few_empty_rows():
    (*_, last) = packed([128] * (16 + 9))
    assert last.input_ids.shape == (10, 128)


def test_nothing_is_packed_for_nothing():
    assert packed([]) == []


def test_the_order_of_equal_sequences_does_not_change_the_rows():
    lengths = LENGTHS["reviews"]
    shuffled = np.random.default_rng(1).permutation(lengths)
    one, other = packed(lengths), packed(shuffled)
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.attention_mask, second.attention_mask)
