"""The corpus format: what is written is read, and no damage gets through or gives a traceback."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from albert_jax.errors import UserError
from albert_jax.inputs.corpus import DTYPES, SPLITS, ShardWriter, open_corpus, write_manifest

FINGERPRINT = "f" * 64


def write_shard(directory: Path, name: str, seed: int) -> tuple[list, object]:
    """A shard of random documents: lists of sentences, lists of ids; and its record."""
    generator = random.Random(seed)
    documents = [
        [[generator.randrange(5, 1000) for _ in range(generator.randint(1, 9))] for _ in range(generator.randint(1, 5))]
        for _ in range(20)
    ]
    writer = ShardWriter(directory, name)
    for part in (documents[:7], documents[7:8], documents[8:]):
        writer.append(
            np.array([i for document in part for sentence in document for i in sentence], np.uint16),
            np.array([len(sentence) for document in part for sentence in document]),
            np.array([len(document) for document in part]),
        )
    return documents, writer.close()


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list]:
    first, first_record = write_shard(tmp_path, "train-00000", 0)
    second, second_record = write_shard(tmp_path, "train-00001", 1)
    write_manifest(
        tmp_path,
        shards={"train": [first_record, second_record], "held_out": []},
        documents_left_out=3,
        tokenizer={"fingerprint": FINGERPRINT, "vocab_size": 1000},
        build={"sources": ["x"]},
    )
    return tmp_path, [first, second]


def read(directory: Path, **options) -> object:
    return open_corpus(directory, "train", **{"tokenizer_fingerprint": FINGERPRINT, "verify": True, **options})


def edit_manifest(directory: Path, change) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(change(manifest) or manifest))


def test_what_is_written_is_read(corpus):
    directory, shards = corpus
    opened = read(directory)
    for shard, documents in zip(opened.shards, shards, strict=True):
        found = [
            [shard.tokens[shard.sentences[s] : shard.sentences[s + 1]].tolist() for s in range(first, last)]
            for first, last in zip(shard.documents[:-1], shard.documents[1:], strict=True)
        ]
        assert found == documents
    assert opened.num_documents == 40
    assert opened.num_sentences == sum(len(d) for documents in shards for d in documents)
    assert opened.num_tokens == sum(len(s) for documents in shards for d in documents for s in d)
    assert opened.manifest["documents_left_out"] == 3


def test_shards_are_mapped_not_loaded(corpus):
    shard = read(corpus[0]).shards[0]
    for part, dtype in DTYPES.items():
        assert isinstance(getattr(shard, part), np.memmap)
        assert getattr(shard, part).dtype == dtype


def test_a_shard_without_documents_leaves_no_file(tmp_path):
    assert ShardWriter(tmp_path, "train-00000").close() is None
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_shard_leaves_no_file(tmp_path):
    writer = ShardWriter(tmp_path, "train-00000")
    writer.append(np.ones(3, np.uint16), np.array([3]), np.array([1]))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such corpus folder.*encode_corpus"):
        read(tmp_path / "nowhere")


def test_a_folder_without_manifest_is_no_corpus(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read(tmp_path)


def test_an_interrupted_build_is_told_from_it(tmp_path):
    (tmp_path / "progress").mkdir()
    with pytest.raises(UserError, match="interrupted; run the same"):
        read(tmp_path)


def test_another_tokenizer_is_refused(corpus):
    with pytest.raises(UserError, match="another tokenizer"):
        read(corpus[0], tokenizer_fingerprint="0" * 64)
    assert read(corpus[0], tokenizer_fingerprint=None).num_documents == 40


def test_an_empty_split_is_refused(corpus):
    with pytest.raises(UserError, match="held_out split is empty"):
        open_corpus(corpus[0], "held_out", tokenizer_fingerprint=None, verify=False)


def test_an_unknown_split_is_refused(corpus):
    with pytest.raises(UserError, match="'test' is none of train, held_out"):
        open_corpus(corpus[0], "test", tokenizer_fingerprint=None, verify=False)


@pytest.mark.parametrize("part", DTYPES)
@pytest.mark.parametrize("verify", [False, True])
def test_a_truncated_file_is_named(corpus, part, verify):
    path = corpus[0] / f"train-00001.{part}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"train-00001\.{part}: truncated"):
        read(corpus[0], verify=verify)


@pytest.mark.parametrize("part", DTYPES)
def test_a_missing_file_is_named(corpus, part):
    (corpus[0] / f"train-00000.{part}").unlink()
    with pytest.raises(UserError, match=rf"train-00000\.{part}: no such file"):
        read(corpus[0], verify=False)


@pytest.mark.parametrize("part", DTYPES)
def test_an_altered_file_is_named_when_verifying(corpus, part):
    path = corpus[0] / f"train-00001.{part}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"train-00001\.{part}: altered"):
        read(corpus[0])


@pytest.mark.parametrize("part", ["sentences", "documents"])
def test_offsets_that_do_not_increase_are_seen_at_once(corpus, part):
    path = corpus[0] / f"train-00001.{part}"
    offsets = np.fromfile(path, "<u4")
    offsets[1] = offsets[-1] + 7
    offsets.tofile(path)
    with pytest.raises(UserError, match=rf"train-00001\.{part}: altered, offsets do not increase"):
        read(corpus[0], verify=False)


def test_wrong_ends_of_offsets_are_seen_at_once(corpus):
    path = corpus[0] / "train-00000.sentences"
    offsets = np.fromfile(path, "<u4")
    offsets[0] = 1
    offsets.tofile(path)
    with pytest.raises(UserError, match=r"train-00000\.sentences: altered, offsets run from 1"):
        read(corpus[0], verify=False)


def test_an_id_outside_the_vocabulary_is_found_when_verifying(corpus):
    edit_manifest(corpus[0], lambda m: m["tokenizer"].update(vocab_size=50))
    with pytest.raises(UserError, match="outside the vocabulary of 50"):
        read(corpus[0])


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "/etc/passwd", "a" * 200, "x\u0000", "..", 7])
def test_a_shard_name_cannot_lead_out_of_the_folder(corpus, name):
    edit_manifest(corpus[0], lambda m: m["splits"]["train"]["shards"][0].update(name=name))
    with pytest.raises(UserError, match="not a plain file name"):
        read(corpus[0])


def test_an_unknown_version_is_refused(corpus):
    edit_manifest(corpus[0], lambda m: m.update(version=2))
    with pytest.raises(UserError, match="corpus version 2, this code reads 1"):
        read(corpus[0])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"a": 1}'])
def test_a_broken_manifest_is_refused(corpus, content):
    (corpus[0] / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read(corpus[0])


@pytest.mark.parametrize("value", [None, -1, 0, 2**70, 1.5, "3", True, [], {}, float("nan")])
@pytest.mark.parametrize("key", ["tokens", "sentences", "documents", "sha256"])
def test_no_value_in_a_shards_record_gives_a_traceback(corpus, key, value):
    edit_manifest(corpus[0], lambda m: m["splits"]["train"]["shards"][0].update({key: value}))
    with pytest.raises(UserError):
        read(corpus[0])


def test_no_flipped_byte_of_the_manifest_gives_a_traceback(corpus):
    path = corpus[0] / "manifest.json"
    intact = path.read_bytes()
    generator = random.Random(0)
    for _ in range(400):
        content = bytearray(intact)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        try:
            for split in SPLITS:
                open_corpus(corpus[0], split, tokenizer_fingerprint=FINGERPRINT, verify=True)
        except UserError:
            pass
