"""Whole builds, as a user runs them: the same shards however they came about, no failure that looks whole."""

import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from albert_jax.errors import UserError
from albert_jax.inputs.corpus import open_corpus
from albert_jax.tokenizer import AlbertTokenizer
from data.encode_corpus import encode_corpus

REPOSITORY = Path(__file__).resolve().parents[2]


def shards(folder: Path) -> dict[str, str]:
    """sha256 of every shard file."""
    files = [p for p in folder.iterdir() if p.suffix in (".tokens", ".sentences", ".documents")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def texts(folder: Path, split: str) -> list[str]:
    """Every document of a split, decoded."""
    tokenizer = AlbertTokenizer.load(folder / "tokenizer")
    corpus = open_corpus(folder, split, tokenizer_fingerprint=tokenizer.fingerprint, verify=True)
    return [
        tokenizer.decode(shard.tokens[shard.sentences[first] : shard.sentences[last]])
        for shard in corpus.shards
        for first, last in zip(shard.documents[:-1], shard.documents[1:], strict=True)
    ]


@pytest.fixture(scope="module")
def large_file(tmp_path_factory, documents) -> Path:
    """Enough text for several items and for a build that can be interrupted."""
    path = tmp_path_factory.mktemp("large") / "large.txt"
    text = "\n\n".join(documents)
    path.write_text("\n\n".join(f"Copy number {i}.\n{text}" for i in range(int(12e6 / len(text)))), "utf-8")
    return path


def command(*options: object) -> list[str]:
    return [sys.executable, str(REPOSITORY / "data" / "encode_corpus.py"), *map(str, options)]


def run(*options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(*options), capture_output=True, text=True, check=False, timeout=120, cwd="/")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, large_file, vocabulary) -> Path:
    return encode_corpus([str(large_file)], vocabulary, tmp_path_factory.mktemp("reference") / "c", processes=1)


def test_the_corpus_holds_the_text(tmp_path, text_file, documents, vocabulary):
    folder = encode_corpus([str(text_file)], vocabulary, tmp_path / "c", held_out_fraction=0.2)
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    expected = {tokenizer.decode(tokenizer.encode(document)) for document in documents}
    train, held_out = set(texts(folder, "train")), set(texts(folder, "held_out"))
    assert train | held_out == expected
    assert not train & held_out
    assert 0.1 < len(held_out) / len(documents) < 0.3


def test_the_number_of_processes_changes_nothing(tmp_path, large_file, vocabulary, reference):
    done = run("--sources", large_file, "--tokenizer", vocabulary, "--output", tmp_path / "c", "--processes", 3)
    assert done.returncode == 0, done.stderr
    assert shards(tmp_path / "c") == shards(reference)
    assert (tmp_path / "c/manifest.json").read_text() == (reference / "manifest.json").read_text()
    assert len(shards(reference)) > 6
    assert "MB/s" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_continues_to_the_same_shards(tmp_path, large_file, vocabulary, reference, how):
    folder = tmp_path / "c"
    options = ("--sources", large_file, "--tokenizer", vocabulary, "--output", folder, "--processes", 2)
    for _ in range(5):
        build = subprocess.Popen(command(*options), stderr=subprocess.PIPE, text=True, start_new_session=True)
        deadline = time.monotonic() + 60
        while not list(folder.glob("progress/item-*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        if how == signal.SIGINT:
            os.killpg(build.pid, how)  # as a terminal does
        else:
            build.send_signal(how)
        _, errors = build.communicate(timeout=60)
        if build.returncode != 0:
            break
        shutil.rmtree(folder)  # on a busy machine the build may end before it is interrupted
    assert build.returncode == (-9 if how == signal.SIGKILL else 130)
    if how != signal.SIGKILL:  # after which a worker may die while it starts
        assert "Traceback" not in errors
    assert not (folder / "manifest.json").exists()
    with pytest.raises(UserError, match="interrupted"):
        open_corpus(folder, "train", tokenizer_fingerprint=None, verify=False)
    finished = {p.name: p.stat().st_mtime_ns for p in folder.glob("train-*.tokens")}
    assert finished
    encode_corpus([str(large_file)], vocabulary, folder, processes=1)
    assert shards(folder) == shards(reference)
    assert not list(folder.glob("**/*.partial")) and not (folder / "progress").exists()
    marked = [name for name, when in finished.items() if (folder / name).stat().st_mtime_ns == when]
    assert marked, "what was done is not done again"


def test_a_finished_build_is_not_repeated(reference, large_file, vocabulary):
    before = {p.name: p.stat().st_mtime_ns for p in reference.iterdir()}
    encode_corpus([str(large_file)], vocabulary, reference)
    assert {p.name: p.stat().st_mtime_ns for p in reference.iterdir()} == before


def test_a_finished_corpus_of_other_settings_is_left_alone(reference, large_file, vocabulary):
    before = shards(reference)
    message = r"other settings:\n  held_out_fraction: 0\.005 there, 0\.25 now\n.*--output"
    with pytest.raises(UserError, match=message):
        encode_corpus([str(large_file)], vocabulary, reference, held_out_fraction=0.25)
    assert shards(reference) == before


def test_an_unfinished_build_is_not_continued_with_other_settings(tmp_path, text_file, vocabulary):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        encode_corpus([str(text_file), str(bad)], vocabulary, tmp_path / "c")
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        encode_corpus([str(text_file), str(bad)], vocabulary, tmp_path / "c", seed=1)
    bad.write_text('{"text": "repaired"}')
    with pytest.raises(UserError, match=r"files: .* there, .* now"):
        encode_corpus([str(text_file), str(bad)], vocabulary, tmp_path / "c")


def test_one_bad_file_ends_the_build_with_one_message(tmp_path, large_file, vocabulary):
    bad = tmp_path / "bad.txt.xz"
    bad.write_bytes(lzma.compress(b"words and words\n" * 100_000)[:-50])
    options = ("--tokenizer", vocabulary, "--output", tmp_path / "c", "--processes", 2)
    done = run("--sources", large_file, bad, *options)
    assert done.returncode == 2
    assert f"error: {bad}: corrupt or cut short" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c/manifest.json").exists()


def test_a_document_and_its_copies_stay_on_one_side(tmp_path, documents, vocabulary):
    (tmp_path / "x.txt").write_text("\n\n".join(documents * 3))
    folder = encode_corpus([str(tmp_path / "x.txt")], vocabulary, tmp_path / "c", held_out_fraction=0.3)
    assert not set(texts(folder, "train")) & set(texts(folder, "held_out"))
    assert len(texts(folder, "train")) + len(texts(folder, "held_out")) == 3 * len(documents)


def test_the_seed_changes_what_is_held_out(tmp_path, text_file, vocabulary):
    one, two = (
        encode_corpus([str(text_file)], vocabulary, tmp_path / str(seed), held_out_fraction=0.2, seed=seed)
        for seed in (1, 2)
    )
    assert texts(one, "held_out") != texts(two, "held_out")


def test_held_out_sources_take_the_place_of_the_fraction(tmp_path, text_file, vocabulary):
    (tmp_path / "dev.txt").write_text("badi kalo mina.\n\nfago sotu.")
    folder = encode_corpus([str(text_file)], vocabulary, tmp_path / "c", held_out_sources=[str(tmp_path / "dev.txt")])
    assert texts(folder, "held_out") == ["badi kalo mina.", "fago sotu."]
    assert len(texts(folder, "train")) == 300


def test_the_manifest_tells_what_was_built(reference, large_file, vocabulary):
    manifest = json.loads((reference / "manifest.json").read_text())
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    assert manifest["tokenizer"] == {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "do_lower_case": True,
    }
    assert manifest["settings"]["sources"] == [str(large_file)]
    assert manifest["settings"]["splitter"]["name"] == "sentencex"
    assert {"python", "numpy", "sentencepiece", "sentencex"} <= manifest["versions"].keys()
    train = open_corpus(reference, "train", tokenizer_fingerprint=tokenizer.fingerprint, verify=True)
    assert manifest["splits"]["train"]["tokens"] == train.num_tokens


def test_a_document_larger_than_a_shard_gets_shards_in_order(tmp_path, text_file, vocabulary, monkeypatch):
    whole = texts(encode_corpus([str(text_file)], vocabulary, tmp_path / "a", held_out_fraction=0), "train")
    monkeypatch.setattr("data.building.SHARD_TOKENS", 5_000)
    monkeypatch.setattr("data.building.BATCH_BYTES", 5_000)
    folder = encode_corpus([str(text_file)], vocabulary, tmp_path / "b", held_out_fraction=0)
    corpus = open_corpus(folder, "train", tokenizer_fingerprint=None, verify=True)
    assert len(corpus.shards) > 2
    assert texts(folder, "train") == whole
    assert all(np.diff(shard.sentences).min() > 0 for shard in corpus.shards)


def test_other_peoples_folders_are_left_alone(tmp_path, text_file, vocabulary):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="holds other files and no corpus"):
        encode_corpus([str(text_file)], vocabulary, tmp_path)
    with pytest.raises(UserError, match="cannot be used as output folder"):
        encode_corpus([str(text_file)], vocabulary, tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_two_builds_do_not_share_a_folder(tmp_path, text_file, vocabulary):
    from data.building import claim

    with claim(tmp_path / "c", {}), pytest.raises(UserError, match="another build is at work"):
        encode_corpus([str(text_file)], vocabulary, tmp_path / "c")


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_said_and_the_build_continues(tmp_path, large_file, vocabulary, reference):
    folder = tmp_path / "c"
    options = " ".join(map(str, ("--sources", large_file, "--tokenizer", vocabulary, "--output", folder)))
    script = (
        f"mkdir -p {folder} && mount -t tmpfs -o size=2m none {folder} && "
        f"{sys.executable} -c 'import data.encode_corpus as e; e._check_disk = lambda *a: None; "
        f"from albert_jax.errors import exit_cleanly; exit_cleanly(e.main)' {options}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this machine does not let us mount")
    assert done.returncode == 2, done.stderr
    assert "the disk is full; make room and run the same command again" in done.stderr


def test_too_little_room_is_said_before_work_begins(tmp_path, text_file, vocabulary, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match="the disk has 10 left"):
        encode_corpus([str(text_file)], vocabulary, tmp_path / "c")


def test_text_without_documents_makes_no_corpus(tmp_path, vocabulary):
    (tmp_path / "x.txt").write_text(" \n\n \n")
    with pytest.raises(UserError, match="no document of two tokens or more"):
        encode_corpus([str(tmp_path / "x.txt")], vocabulary, tmp_path / "c")
    assert not (tmp_path / "c/manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out_fraction": 1.0}, "held_out_fraction is 1.0"),
        ({"processes": 0}, "processes is 0"),
        ({"language": "English"}, "language is 'English'"),
        ({"sources": []}, "no sources given"),
        ({"tokenizer": Path("/nowhere.model")}, "no such tokenizer model"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, text_file, vocabulary, options, message):
    settings = {"sources": [str(text_file)], "tokenizer": vocabulary, "output": tmp_path / "c"} | options
    with pytest.raises(UserError, match=message):
        encode_corpus(**settings)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("script", ["encode_corpus.py", "train_vocab.py", "encode_corpus_beam.py"])
def test_an_unknown_option_exits_with_2(script):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "data" / script), "--sauces", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--sauces" in done.stdout + done.stderr and "Traceback" not in done.stderr
