"""The Beam pipeline against the plain builder."""

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install 'albert-jax[beam]'")

from albert_jax.errors import UserError
from data.encode_corpus import encode_corpus
from data.encode_corpus_beam import Arguments, encode_corpus_with_beam


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def test_beam_writes_the_same_corpus(tmp_path, text_file, vocabulary, monkeypatch):
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", 20_000)
    plain = encode_corpus([str(text_file)], vocabulary, tmp_path / "plain", held_out_fraction=0.1)
    arguments = Arguments((str(text_file),), vocabulary, tmp_path / "beam", held_out_fraction=0.1)
    beam = encode_corpus_with_beam(arguments, ["--runner=DirectRunner"])
    assert files(beam) == files(plain)
    assert len(files(plain)) > 10


def test_bad_text_is_one_message_with_beam_too(tmp_path, vocabulary):
    (tmp_path / "bad.jsonl").write_text("{")
    arguments = Arguments((str(tmp_path / "bad.jsonl"),), vocabulary, tmp_path / "beam")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 1: not JSON"):
        encode_corpus_with_beam(arguments, ["--runner=DirectRunner"])
    assert not (tmp_path / "beam/manifest.json").exists()
