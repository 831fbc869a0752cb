"""The vocabulary that `data/train_vocab.py` trains."""

import pytest

from albert_jax.errors import UserError
from albert_jax.tokenizer import AlbertTokenizer
from data import train_vocab as module
from data.train_vocab import train_vocab


def test_ids_begin_as_in_the_released_vocabulary(vocabulary):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    first = [tokenizer.id_to_piece(i) for i in range(13)]
    assert first == [
        "<pad>",
        "<unk>",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "(",
        ")",
        '"',
        "-",
        ".",
        "\u2013",
        "£",
        "€",
    ]
    assert tokenizer.vocab_size == 150


def test_the_same_text_gives_the_same_file(tmp_path, text_file, vocabulary):
    again = train_vocab([str(text_file)], tmp_path / "again.model", vocab_size=150)
    assert again.read_bytes() == vocabulary.read_bytes()


def test_the_seed_draws_the_sample(tmp_path, text_file):
    one, same, two = (
        train_vocab([str(text_file)], tmp_path / name, vocab_size=60, input_sentences=200, seed=seed).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == same != two


def test_text_is_normalised_before_training(tmp_path):
    (tmp_path / "x.txt").write_text("\u00c9T\u00c9 NA\u00cfVE CAF\u00c9 dans la ville. " * 50, "utf-8")
    path = train_vocab([str(tmp_path / "x.txt")], tmp_path / "m.model", vocab_size=25)
    tokenizer = AlbertTokenizer.from_file(path)
    assert not any(c.isupper() for i in tokenizer.ordinary_ids for c in tokenizer.id_to_piece(i))
    assert tokenizer.unk_id not in tokenizer.encode("\u00c9T\u00c9 NAIVE")


def test_a_sentence_too_long_for_sentencepiece_is_cut_not_skipped():
    parts = list(module._cut("w\u00f6rd " * 5_000))
    assert all(len(part.encode()) <= module.MAX_SENTENCE_BYTES for part in parts)
    assert " ".join(parts).split() == ["w\u00f6rd"] * 5_000
    assert "".join(module._cut("x" * 10_000)) == "x" * 10_000


def test_the_largest_possible_size_is_named(tmp_path, text_file):
    message = r"vocab_size is 50,000, too large for this text: the largest possible is (\d+)"
    with pytest.raises(UserError, match=message):
        train_vocab([str(text_file)], tmp_path / "m.model", vocab_size=50_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 65_537}, "vocab_size is 65,537, expected 1 to 65,536"),
        ({"vocab_size": 20}, "too small: the characters of this text alone need"),
        ({"input_sentences": 0}, "input_sentences is 0"),
        ({"sources": []}, "no sources given"),
        ({"sources": ["/nowhere"]}, "no such file"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, text_file, options, message):
    settings = {"sources": [str(text_file)], "output": tmp_path / "m.model", "vocab_size": 100} | options
    with pytest.raises(UserError, match=message):
        train_vocab(**settings)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_left_alone(text_file, vocabulary):
    before = vocabulary.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        train_vocab([str(text_file)], vocabulary, vocab_size=60)
    assert vocabulary.read_bytes() == before


def test_text_without_words_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text(" \n\n")
    with pytest.raises(UserError, match="no text to train"):
        train_vocab([str(tmp_path / "x.txt")], tmp_path / "m.model", vocab_size=100)
