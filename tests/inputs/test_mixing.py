"""Mixes of corpora: exact shares, whole epochs of each, and the same rows whoever asks for them."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from recount import make_batches, random_documents, vocabulary, write_corpus

from albert_jax.config import DataConfig
from albert_jax.errors import UserError
from albert_jax.inputs.mixing import Mix, apportion, shares_of
from albert_jax.inputs.pipeline import MixedBatches, PretrainingBatches, read_ahead
from albert_jax.inputs.random import key_of

WEIGHTS = [(1,), (1, 1), (0.7, 0.3), (0.5, 0.3, 0.2), (1000, 1), (3, 1e-4), (1, 2, 3, 4, 5, 6, 7), (8_000_000, 13, 9)]


def mix_of(weights, seed=0) -> Mix:
    return Mix(weights, [f"corpus{number}" for number in range(len(weights))], key_of(seed))


def _same(one, two) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


# ---- which row is whose


@pytest.mark.parametrize("weights", WEIGHTS)
def test_after_any_number_of_blocks_each_corpus_is_within_a_row_of_its_share(weights):
    mix = mix_of(weights)
    for block in [*range(300), 10**6, 10**9 + 7]:
        rows = block * mix.block
        for count, share in zip(apportion(rows, mix.shares), mix.shares, strict=True):
            assert abs(count - share * rows) < 1
    assert sum(mix.shares) == 1


def test_decimal_weights_are_met_exactly():
    assert mix_of((0.7, 0.2, 0.1)).rows_before(2560) == [1792, 512, 256]
    assert mix_of((7, 2, 1)).rows_before(2560) == [1792, 512, 256]


@pytest.mark.parametrize("weights", [(1,), (0.7, 0.3), (1, 2, 3, 4, 5, 6, 7), (1000, 1)])
def test_each_corpus_is_read_in_order_without_gaps(weights):
    mix = mix_of(weights)
    corpora, numbers = mix.locate(np.arange(3 * mix.block + 100))
    for corpus in range(len(weights)):
        assert numbers[corpora == corpus].tolist() == list(range(np.count_nonzero(corpora == corpus)))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.3, 0.2)])
def test_the_rows_before_any_row_are_those_located(weights):
    mix = mix_of(weights)
    corpora, _ = mix.locate(np.arange(3 * mix.block))
    for rows in range(3 * mix.block):
        before = mix.rows_before(rows)
        assert before == np.bincount(corpora[:rows], minlength=len(weights)).tolist()
        for count, share in zip(before, mix.shares, strict=True):
            # Within a block chance rules: six standard deviations.
            assert abs(count - rows * share) < 1 + 6 * (mix.block * share * (1 - share) / 4) ** 0.5


def test_rows_are_located_in_any_order_and_far_ahead():
    mix = mix_of((0.6, 0.4))
    rows = np.random.default_rng(0).permutation(5000)
    whole = np.stack(mix.locate(np.arange(5000)))
    assert np.array_equal(np.stack(mix.locate(rows)), whole[:, rows])
    far = 2**45 + np.arange(10)
    corpora, numbers = mix.locate(far)
    assert np.array_equal(np.stack(mix_of((0.6, 0.4)).locate(far)), [corpora, numbers])
    assert (np.abs(numbers - far * np.array([0.6, 0.4])[corpora]) < 2 * mix.block).all()


def test_blocks_and_seeds_have_orders_of_their_own():
    rows = np.arange(256)
    first, second = mix_of((1, 1)).locate(rows)[0], mix_of((1, 1)).locate(rows + 256)[0]
    assert 60 < np.count_nonzero(first == second) < 196
    assert 60 < np.count_nonzero(first == mix_of((1, 1), seed=1).locate(rows)[0]) < 196


def test_a_small_share_is_met_by_larger_blocks():
    mix = mix_of((9999, 1))
    assert mix.block == 2**14
    assert abs(mix.rows_before(100 * mix.block)[1] - 100 * mix.block / 10_000) < 1


def test_a_share_of_next_to_nothing_is_refused_by_name():
    with pytest.raises(UserError, match=r"corpus1: fewer than one in 1,048,576 rows"):
        mix_of((1.0, 1e-7))


def test_parts_add_up_and_never_shrink():
    generator = np.random.default_rng(0)
    for _ in range(100):
        shares = shares_of(generator.random(generator.integers(1, 9)) + 0.01)
        growth = int(1 / min(shares)) + 1
        parts = [apportion(count * growth, shares) for count in range(50)]
        assert [sum(part) for part in parts] == [count * growth for count in range(50)]
        assert (np.diff(parts, axis=0) >= 0).all()
    assert shares_of((0.1, 0.2)) == [Fraction(1, 3), Fraction(2, 3)]


# ---- batches of a mix


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Three corpora of one vocabulary, and of very different sizes."""
    folder = tmp_path_factory.mktemp("corpora")
    sizes = [60, 25, 8]
    return [
        write_corpus(folder / f"c{n}", random_documents(60, 900, seed=n)[:size], shards=n + 1, awkward=False, seed=n)
        for n, size in enumerate(sizes)
    ]


def mixed(corpora, weights=(), *, size=64, seed=1, pack_sequences=True, length=64) -> MixedBatches:
    config = DataConfig(corpus=("c",), tokenizer="", pack_sequences=pack_sequences)
    parts = [
        PretrainingBatches(
            corpus,
            vocabulary(60),
            config,
            sequence_length=length,
            batch_size=size,
            seed=seed,
            mixed_after=corpora[:number],
        )
        for number, corpus in enumerate(corpora)
    ]
    return MixedBatches(parts, weights, seed=seed)


@pytest.mark.parametrize("pack_sequences", [True, False])
def test_a_mix_of_one_corpus_is_that_corpus(corpora, pack_sequences):
    alone = make_batches(corpora[0], vocabulary(60), length=64, size=64, pack_sequences=pack_sequences)
    mix = mixed(corpora[:1], pack_sequences=pack_sequences)
    for step in [*range(20), 1000]:
        assert _same(mix.batch(step), alone.batch(step))
    assert _same(mix.batch(3, np.array([5, 60])), alone.batch(3, np.array([5, 60])))


@pytest.mark.parametrize("weights", [(), (0.2, 0.5, 0.3)])
def test_every_row_of_a_mix_is_the_next_of_its_corpus(corpora, weights):
    mix = mixed(corpora, weights)
    taken = [0, 0, 0]
    for step in range(12):
        batch = mix.batch(step)
        owners, _ = mix.mix.locate(step * 64 + np.arange(64))
        for row, owner in enumerate(owners):
            expected = mix.empty(1)
            mix.parts[owner].fill(expected, np.array([0]), np.array([taken[owner]]))
            taken[owner] += 1
            assert _same([array[row : row + 1] for array in batch], expected)
    assert taken == mix.mix.rows_before(12 * 64)


def test_each_corpus_runs_through_whole_epochs_of_its_own(corpora):
    mix = mixed(corpora, (1, 1, 1))
    sizes = [[part.epoch(number).size for number in (0, 1)] for part in mix.parts]
    shards = np.cumsum([0] + [len(corpus.shards) for corpus in corpora])
    read = [[] for _ in corpora]
    step = 0
    while any(len(rows) < sum(size) for rows, size in zip(read, sizes, strict=True)):
        origin = mix.batch(step).origin
        for row in origin:
            owner = int(np.searchsorted(shards, row[0, 0], side="right")) - 1
            found = row[row[:, 0] >= 0]
            assert ((found[:, 0] >= shards[owner]) & (found[:, 0] < shards[owner + 1])).all(), "a row has one corpus"
            read[owner].append([tuple(origin) for origin in found.tolist()])
        step += 1
    for rows, size, part in zip(read, sizes, mix.parts, strict=True):
        for epoch, begin in ((0, 0), (1, size[0])):
            counts = Counter(example for row in rows[begin : begin + size[epoch]] for example in row)
            assert set(counts.values()) == {1} and len(counts) == part.epoch(epoch).examples


def test_without_weights_all_corpora_end_their_epoch_together(corpora):
    mix = mixed(corpora)
    sizes = [part.epoch(0).size for part in mix.parts]
    assert mix.mix.shares == shares_of(sizes)
    for count, size in zip(mix.mix.rows_before(sum(sizes)), sizes, strict=True):
        assert abs(count - size) < 0.1 * sum(sizes) ** 0.5 + 8


def test_rows_of_a_mix_do_not_depend_on_hosts_threads_or_batch_size(corpora):
    mix, weights = mixed(corpora, (3, 2, 1)), (3, 2, 1)
    hosts = [mixed(corpora, weights).batch(9, np.arange(host, 64, 4)) for host in range(4)]
    whole = mix.batch(9)
    for host, part in enumerate(hosts):
        assert _same(part, [array[host::4] for array in whole])
    small = mixed(corpora, weights, size=16)
    joined = [np.concatenate(arrays) for arrays in zip(*(small.batch(step) for step in range(36, 40)), strict=True)]
    assert _same(joined, whole)
    ahead = read_ahead(mixed(corpora, weights), start=7, stop=12, rows=None, threads=4, prefetch=4)
    assert _same(list(ahead)[2], whole)


def test_corpora_of_a_mix_have_streams_of_their_own(corpora):
    one, other = mixed([corpora[0], corpora[0]], (1, 1)).parts
    first, second = (part.batch(0).origin for part in (one, other))
    assert (first[:, 0, 1:] == second[:, 0, 1:]).all(axis=1).mean() < 0.2


@pytest.mark.parametrize("pack_sequences", [True, False])
def test_what_was_read_is_counted_as_it_was_read(corpora, pack_sequences):
    mix = mixed(corpora, (1, 2, 1), pack_sequences=pack_sequences)
    batches = [mix.batch(step) for step in range(16)]
    assert mix.parts[2].reading(mix.mix.rows_before(16 * 64)[2]).epoch >= 1, "more than an epoch is read"
    shards = np.cumsum([0] + [len(corpus.shards) for corpus in corpora])
    for steps in (1, 5, 16):
        owners, numbers = mix.mix.locate(np.arange(steps * 64))
        for owner, part in enumerate(mix.parts):
            mine = np.flatnonzero(owners == owner)
            reading = part.reading(mix.mix.rows_before(steps * 64)[owner])
            rows = [[array[row % 64] for array in batches[row // 64]] for row in mine]
            fields = dict(zip(batches[0]._fields, zip(*rows, strict=True), strict=True))
            origins = [np.reshape(origin, (-1, 3)) for origin in fields["origin"]]
            assert reading.rows == len(mine)
            assert reading.tokens == sum(np.count_nonzero(mask) for mask in fields["attention_mask"])
            assert reading.sequences == sum(np.count_nonzero(origin[:, 0] >= 0) for origin in origins)
            epochs = [part.locate(int(number))[0] for number in numbers[mine]]
            assert reading.epoch == epochs[-1] and reading.read_rows == epochs.count(epochs[-1])
            begun = {
                (shard, document)
                for origin, epoch in zip(origins, epochs, strict=True)
                for shard, document, _ in origin.tolist()
                if shard >= 0 and epoch == reading.epoch
            }
            assert reading.begun_documents == len(begun)
            assert all(shards[owner] <= shard < shards[owner + 1] for shard, _ in begun)


def test_a_whole_epoch_begins_every_document(corpora):
    part = mixed(corpora[:1]).parts[0]
    size = part.epoch(0).size
    whole, next_one = part.reading(size), part.reading(size + 1)
    assert (whole.epochs, whole.begun_documents) == (1.0, corpora[0].num_documents)
    assert whole.sequences == part.epoch(0).examples
    assert (next_one.epoch, next_one.read_rows) == (1, 1)
    assert next_one.tokens > whole.tokens
    assert part.reading(0) == (0, size, 0, 0, 0, 0, 0)
