"""Damaged corpora: no id beyond the vocabulary and nothing beyond a file gets into a batch, verified or not."""

import json
import shutil

import numpy as np
import pytest
from recount import make_batches, random_documents, vocabulary, write_corpus

from albert_jax.errors import UserError
from albert_jax.inputs.corpus import open_corpus
from albert_jax.inputs.pipeline import MixedBatches, read_ahead

DOCUMENTS = 30
SIZE = vocabulary(DOCUMENTS).vocab_size


@pytest.fixture
def folder(tmp_path):
    """A corpus of three shards, to be damaged."""
    write_corpus(tmp_path / "corpus", random_documents(DOCUMENTS, 1200, seed=1), shards=3, awkward=False)
    return tmp_path / "corpus"


def opened(folder, **options):
    return open_corpus(folder, "train", **{"tokenizer_fingerprint": None, "verify": False, **options})


def damage(path, dtype, places, values) -> None:
    """In place, so that whoever has mapped the file sees it."""
    array = np.memmap(path, dtype, mode="r+")
    array[places] = values
    array.flush()


def unsampled(folder) -> int:
    """A place in the first shard's tokens that no sample holds: the manifest of an older corpus, which has none."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["splits"]["train"]["shards"]:
        del entry["sha256"]["samples"]
    path.write_text(json.dumps(manifest))
    return manifest["splits"]["train"]["shards"][1]["tokens"] // 2


def read_epoch(corpus, **options):
    batches = make_batches(corpus, vocabulary(DOCUMENTS), length=64, size=16, **options)
    for step in range(-(-batches.epoch(0).size // 16)):
        yield batches.batch(step)


@pytest.mark.parametrize("pack_sequences", [True, False])
@pytest.mark.parametrize("piece", [SIZE, 2**15, 2**16 - 1])
def test_an_id_beyond_the_vocabulary_reaches_no_batch(folder, pack_sequences, piece):
    damage(folder / "train-00001.tokens", "<u2", unsampled(folder), piece)
    with pytest.raises(UserError, match=rf"corpus: altered, in shard train-00001 id {piece:,} is outside .*--verify"):
        list(read_epoch(opened(folder), pack_sequences=pack_sequences))


def test_the_largest_id_is_in_the_vocabulary(folder):
    damage(folder / "train-00001.tokens", "<u2", unsampled(folder), SIZE - 1)
    batches = list(read_epoch(opened(folder)))
    assert max(max(batch.input_ids.max(), batch.masked_lm_labels.max()) for batch in batches) == SIZE - 1


def test_the_message_comes_through_the_threads_that_read_ahead(folder):
    damage(folder / "train-00001.tokens", "<u2", unsampled(folder), 2**16 - 1)
    batches = MixedBatches([make_batches(opened(folder), vocabulary(DOCUMENTS), length=64, size=16)], (), seed=0)
    steps = -(-batches.parts[0].epoch(0).size // 16)
    with pytest.raises(UserError, match="shard train-00001"):
        list(read_ahead(batches, start=0, stop=steps, rows=None, threads=3, prefetch=4))


def test_evaluation_refuses_it_too(folder):
    damage(folder / "train-00001.tokens", "<u2", unsampled(folder), 2**16 - 1)
    batches = make_batches(opened(folder), vocabulary(DOCUMENTS), length=64, size=16)
    with pytest.raises(UserError, match="outside the vocabulary"):
        for step in range(batches.steps_of_first(10**6)):
            batches.first_examples(step, 10**6)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_tokens_never_give_an_id_beyond_the_vocabulary(folder, seed):
    unsampled(folder)
    generator = np.random.default_rng(seed)
    path = folder / "train-00002.tokens"
    content = np.fromfile(path, np.uint8)
    places = generator.integers(0, len(content), 10)
    damage(path, np.uint8, places, content[places] ^ (1 << generator.integers(0, 8, 10)).astype(np.uint8))
    try:
        for batch in read_epoch(opened(folder)):
            assert 0 <= batch.input_ids.min() and batch.input_ids.max() < SIZE
            assert 0 <= batch.masked_lm_labels.min() and batch.masked_lm_labels.max() < SIZE
    except UserError as error:
        assert "train-00002" in str(error)
    else:
        assert np.fromfile(path, "<u2").max() < SIZE
    with pytest.raises(UserError, match=r"train-00002\.tokens: altered, its sha256"):
        opened(folder, verify=True)


@pytest.mark.parametrize("part", ["sentences", "documents"])
def test_a_flipped_bit_of_an_offset_is_found_without_verifying(folder, part):
    path = folder / f"train-00001.{part}"
    intact = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(50):
        content = bytearray(intact)
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"train-00001\.{part}: altered"):
            opened(folder)
    path.write_bytes(intact)
    opened(folder)


@pytest.mark.parametrize("objective", ["sop", "nsp"])
@pytest.mark.parametrize("pack_sequences", [True, False])
@pytest.mark.parametrize("part", ["sentences", "documents"])
def test_offsets_that_change_while_they_are_read_lead_nowhere(folder, part, pack_sequences, objective):
    generator = np.random.default_rng(0)
    path = folder / f"train-00001.{part}"
    intact = np.fromfile(path, "<u4")
    settings = dict(length=64, size=16, pack_sequences=pack_sequences, objective=objective)
    refused = 0
    for trial in range(12):
        batches = make_batches(opened(folder), vocabulary(DOCUMENTS), **settings)
        planned = trial % 2 == 0
        size = batches.epoch(0).size
        places = generator.integers(0, len(intact), 1 + len(intact) // 8)
        values = generator.integers(0, (2**32, int(intact[-1]) + 1)[trial % 3 > 0], len(places))
        damage(path, "<u4", places, values)
        try:
            steps = range(0 if planned else size // 16 + 1, 2 * size // 16)
            for batch in map(batches.batch, steps):
                assert 0 <= batch.input_ids.min() and batch.input_ids.max() < SIZE
        except UserError as error:
            assert "in shard train-00001 offsets lead out of it" in str(error)
            refused += 1
        damage(path, "<u4", slice(None), intact)
    assert refused >= 6


def test_another_token_file_of_the_same_size_is_found_without_verifying(folder):
    path = folder / "train-00000.tokens"
    tokens = np.fromfile(path, "<u2")
    np.where(tokens >= 10, SIZE - 1 - (tokens - 10), tokens).astype("<u2").tofile(path)
    with pytest.raises(UserError, match=r"train-00000\.tokens: altered, samples"):
        opened(folder)


def test_a_corpus_without_samples_is_read_as_before(folder):
    before = opened(folder)
    unsampled(folder)
    after = opened(folder, verify=True)
    assert after.fingerprint == before.fingerprint, "a run goes on where samples were added"


def test_each_process_verifies_its_share_of_the_shards(folder, tmp_path):
    for damaged in range(3):
        copy = tmp_path / f"copy{damaged}"
        shutil.copytree(folder, copy)
        unsampled(copy)
        path = copy / f"train-{damaged:05d}.tokens"
        tokens = np.fromfile(path, "<u2")
        damage(path, "<u2", len(tokens) // 2, tokens[len(tokens) // 2] ^ 1)
        found = []
        for process in range(2):
            try:
                opened(copy, verify=True, process_index=process, process_count=2)
            except UserError:
                found.append(process)
        assert found == [damaged % 2]
