"""Batches are a pure function of (seed, step), whoever asks for them, in whatever order."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from recount import make_batches, read_examples, take_examples, vocabulary, write_corpus

from albert_jax.errors import UserError
from albert_jax.inputs.pipeline import read_ahead


def _same(one, two) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))


def _digest(features) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in features)).hexdigest()


@pytest.fixture(scope="module")
def batches(prose):
    return make_batches(*prose, length=128, size=64)


def _steps_of_three_epochs(batches) -> int:
    return batches.epoch(0).size * 3 // batches.batch_size


def test_batches_do_not_depend_on_the_order_of_calls(prose, batches):
    steps = np.random.default_rng(0).permutation(_steps_of_three_epochs(batches))
    shuffled = {int(step): _digest(batches.batch(int(step))) for step in steps}
    again = make_batches(*prose, length=128, size=64)
    assert [shuffled[step] for step in range(len(steps))] == [_digest(again.batch(s)) for s in range(len(steps))]


def test_rows_asked_for_alone_are_the_rows_of_the_batch(batches):
    step = batches.epoch(0).size // batches.batch_size  # holds the end of an epoch
    whole = batches.batch(step)
    for rows in (
        np.arange(3, 20),
        np.array([63, 0, 17]),
        np.arange(0, 64, 8),
        np.array([5, 5]),
        np.array([], int),
    ):
        assert _same(batches.batch(step, rows), [array[rows] for array in whole])


def test_the_example_at_a_place_does_not_depend_on_the_batch_size(prose, batches):
    small = make_batches(*prose, length=128, size=16)
    parts = [small.batch(step) for step in range(4, 8)]
    assert _same(batches.batch(1), [np.concatenate(arrays) for arrays in zip(*parts, strict=True)])


def test_threads_get_the_same_batches_across_epochs(prose, batches):
    steps = list(range(_steps_of_three_epochs(batches)))
    expected = [_digest(batches.batch(step)) for step in steps]
    fresh = make_batches(*prose, length=128, size=64)
    order = np.random.default_rng(1).permutation(steps).tolist()
    with ThreadPoolExecutor(8) as threads:
        found = dict(zip(order, threads.map(lambda step: _digest(fresh.batch(step)), order), strict=True))
    assert [found[step] for step in steps] == expected


def test_another_process_makes_the_same_batches(prose, batches, tmp_path):
    corpus, tokenizer = prose
    (tmp_path / "arguments").write_bytes(pickle.dumps((str(corpus.directory), tokenizer)))
    program = (
        "import pickle, sys\n"
        "from test_pipeline import _digest, make_batches\n"
        "from albert_jax.inputs.corpus import open_corpus\n"
        "directory, tokenizer = pickle.load(open(sys.argv[1], 'rb'))\n"
        "corpus = open_corpus(directory, 'train', tokenizer_fingerprint=None, verify=False)\n"
        "print(_digest(make_batches(corpus, tokenizer, length=128, size=64).batch(30)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "arguments")],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == _digest(batches.batch(30))


@pytest.mark.parametrize("other", [dict(seed=2), dict(seed=1 + 100 * 2**31), dict(seed=2**40), dict(objective="none")])
def test_another_seed_phase_or_objective_gives_other_data(prose, batches, other):
    mine, others = batches.batch(0), make_batches(*prose, **dict(length=128, size=64) | other).batch(0)
    same = (mine.origin == others.origin).all(axis=1).mean()
    assert same < 0.1


def test_each_epoch_has_an_order_segments_and_masks_of_its_own(prose, batches):
    size = [batches.epoch(number).size for number in (0, 1)]
    examples = take_examples(batches, prose[1], sum(size))
    first, second = examples[: size[0]], examples[size[0] :]
    assert [e.token for e in first[:50]] != [e.token for e in second[:50]]
    firsts = {(e.shard, e.token): e for e in first if len(e.original) > 60}
    both = [(firsts[e.shard, e.token], e) for e in second if (e.shard, e.token) in firsts]
    assert len(both) > 100  # each document's first chunk at least
    assert sum(a.positions == b.positions for a, b in both) < 0.02 * len(both)
    assert sum(a.label == b.label for a, b in both) < 0.65 * len(both)


def test_an_epoch_is_a_permutation_of_its_examples(batches):
    for number in (0, 1, 7):
        plan = batches.epoch(number)
        order = [plan.order[place] for place in range(plan.size)]
        assert sorted(order) == list(range(plan.size))
        # Neighbours in a document must not stay neighbours in a batch.
        assert np.mean(np.abs(np.diff(order)) <= 2) < 10 / plan.size + 4 * np.sqrt(5 / plan.size**2)


def test_examples_are_located_in_consecutive_epochs(batches):
    firsts = np.cumsum([0] + [batches.epoch(number).size for number in range(5)])
    for number in range(5):
        assert batches.locate(firsts[number]) == (number, 0)
        assert batches.locate(firsts[number + 1] - 1) == (number, firsts[number + 1] - firsts[number] - 1)


def test_a_far_step_is_found_without_its_predecessors(prose):
    far, near = make_batches(*prose, length=128, size=64), make_batches(*prose, length=128, size=64)
    step = 20 * _steps_of_three_epochs(near)
    epoch, place = far.locate(step * 64)
    assert epoch >= 50 and 0 <= place < far.epoch(epoch).size
    for passed in range(epoch):
        near.epoch(passed)
    assert _same(far.batch(step), near.batch(step))


def test_documents_are_covered_whatever_the_number_of_shards(tmp_path):
    documents = [[7, 30, 4], [2], [200], [9] * 30, [50, 60, 70], [1, 1]]
    for shards in (1, 2, 6):
        corpus = write_corpus(tmp_path / f"corpus{shards}", documents, shards=shards)
        batches = make_batches(corpus, vocabulary(len(documents)), length=32, size=8)
        read = Counter()
        for example in take_examples(batches, vocabulary(len(documents)), batches.epoch(0).size):
            per_shard = len(documents) // shards
            read[example.shard * per_shard + example.document] += len(example.first) + len(example.second)
        assert [read[number] for number in range(len(documents))] == [sum(d) for d in documents]


@pytest.mark.parametrize("sentences", [[2], [1, 1], [5, 6, 7]])
def test_a_batch_may_hold_many_epochs_of_one_small_document(tmp_path, sentences):
    corpus = write_corpus(tmp_path / "corpus", [sentences])
    batches = make_batches(corpus, vocabulary(1), length=32, size=50)
    examples = take_examples(batches, vocabulary(1), 200)
    assert {example.document for example in examples} == {0}
    whole = [example for example in examples if len(example.original) == sum(sentences) + 3]
    assert {example.label for example in whole} == {0, 1}
    assert len({tuple(example.positions) for example in whole}) > 1


@pytest.mark.parametrize("threads", [1, 4])
def test_reading_ahead_yields_each_step_in_order(batches, threads):
    rows = np.arange(0, 64, 3)
    ahead = read_ahead(batches, start=5, stop=45, rows=rows, threads=threads, prefetch=3)
    found = list(ahead)
    assert len(found) == 40
    assert all(_same(features, batches.batch(step, rows)) for step, features in enumerate(found, 5))


def test_reading_ahead_of_the_last_step_yields_nothing(batches):
    assert list(read_ahead(batches, start=7, stop=7, rows=None, threads=2, prefetch=2)) == []


def test_held_out_rows_are_the_first_of_the_epoch_then_empty(prose, batches):
    expected = batches.batch(0)
    found = batches.first_examples(0, 40)
    assert _same([array[:40] for array in found], [array[:40] for array in expected])
    assert found.masked_lm_weights[40:].sum() == found.sentence_order_weights[40:].sum() == 0
    assert not found.attention_mask[40:].any() and (found.origin[40:] == -1).all()
    assert (found.input_ids[40:] == prose[1].pad_id).all()


def test_held_out_rows_never_repeat_an_example(tmp_path):
    batches = make_batches(
        write_corpus(tmp_path / "corpus", [[5, 5], [6, 6], [7, 7]]), vocabulary(3), length=32, size=8
    )
    assert batches.first_examples(0, limit=100).attention_mask.any(axis=1).sum() == batches.epoch(0).size == 3


def test_next_sentence_prediction_needs_two_documents_in_a_shard(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [[5, 5], [6, 6], [7, 7]], shards=2)
    with pytest.raises(UserError, match="at least two documents"):
        make_batches(corpus, vocabulary(3), objective="nsp")


def test_a_corpus_without_a_pair_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [[1], [1]])
    with pytest.raises(UserError, match="no pair"):
        make_batches(corpus, vocabulary(2))


def test_rows_of_several_hosts_make_up_the_batch(prose, batches):
    parts = [batches.batch(9, np.arange(host * 16, host * 16 + 16)) for host in range(4)]
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    assert _same(batches.batch(9), joined)
    assert len(read_examples(batches.batch(9), prose[1])) == 64
