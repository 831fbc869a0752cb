"""The compiled pass and the batched encoder against the plain definitions they stand for."""

import random
import unicodedata

import numpy as np
import pytest

from albert_jax.errors import UserError
from albert_jax.tokenizer import AlbertTokenizer
from data.encoding import DocumentEncoder
from data.preparation import prepare_lines
from data.sentences import check_language, find_sentences, separate_sentences

NONE_UNCHANGED = np.zeros(0x10000, bool)


def split(text: str, language: str = "en", do_lower_case: bool = False) -> list[str]:
    lines = prepare_lines([text.encode()], do_lower_case, NONE_UNCHANGED)
    return separate_sentences(lines, find_sentences(lines, language), 0, len(lines.ends))


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_every_character_is_normalised_as_defined(vocabulary, do_lower_case):
    tokenizer = AlbertTokenizer.from_file(vocabulary, do_lower_case)
    characters = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000 and c != 10]
    characters = [c for c in characters if unicodedata.category(c) not in ("Co", "Cn")]
    lines = [f" x{c} {c}y {c}" for c in characters]
    prepared = prepare_lines(["\n".join(lines).encode()], do_lower_case, tokenizer.unchanged_characters)
    hidden = prepared.hidden.decode().split("\n\n")
    for i, line in enumerate(lines):
        # A space that decomposition makes is one space here; SentencePiece would collapse it anyway.
        expected = " ".join(tokenizer.normalize(line).split(" ")).strip()
        expected = " ".join(filter(None, expected.split(" ")))
        assert prepared.line(i).decode() == expected, (hex(ord(characters[i])), line)
        assert len(hidden[i]) == len(expected)


def test_a_line_with_many_kinds_of_space_is_collapsed():
    prepared = prepare_lines(["  a \t b\u00a0\u2003c \r".encode(), b"", b" \t"], False, NONE_UNCHANGED)
    assert [prepared.line(i) for i in range(3)] == [b"a b c", b"", b""]


def test_final_sigma_is_lowered_by_its_place():
    assert prepare_lines(["ΣΑΣ ΟΔΟΣ".encode()], True, NONE_UNCHANGED).line(0).decode() == "σας οδος"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He came. She left.", ["He came.", "She left."]),
        ("Mr. Smith came. He left.", ["Mr. Smith came.", "He left."]),
        ('"Go. Now run." Then he left.', ['"Go.', 'Now run."', "Then he left."]),
        ("\u201cGo. Now run.\u201d Then he left.", ["\u201cGo.", "Now run.\u201d", "Then he left."]),
        ("'Go. Don't wait.' He left.", ["'Go.", "Don't wait.'", "He left."]),
        ('"Why?" he asked. "No!"', ['"Why?" he asked.', '"No!"']),
        ("One line\nAnother. Line", ["One line", "Another.", "Line"]),
        ('One.\n"\n\n\u201d\nTwo. "\nThree', ["One.", '"', "\u201d", "Two.", '"', "Three"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_would_say(text, sentences):
    assert split(text) == sentences


def test_sentences_without_spaces_between_them_are_told_apart():
    assert split("今日は晴れ。明日は雨。", "ja") == ["今日は晴れ。", "明日は雨。"]


@pytest.mark.parametrize("language", ["", "english", "EN", "../x"])
def test_what_is_no_language_code_is_refused(language):
    with pytest.raises(UserError, match="language"):
        check_language(language)


def expected_ids(text: str, tokenizer: AlbertTokenizer) -> list[list[int]]:
    """The slow way: each sentence of each line encoded alone."""
    return [ids for sentence in split(text) if (ids := tokenizer.encode(sentence))]


def encoded_ids(documents: list[str], tokenizer: AlbertTokenizer) -> list[list[list[int]]]:
    encoded = DocumentEncoder(tokenizer, "en").encode([document.encode() for document in documents])
    ends = np.cumsum(encoded.sentence_lengths)[:-1]
    sentences = [part.tolist() for part in np.split(encoded.tokens, ends)]
    result, start = [], 0
    for length in encoded.document_lengths:
        result.append(sentences[start : start + length])
        start += length
    return result


def test_batches_give_the_ids_of_single_sentences(vocabulary, documents):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    strange = [
        "The river\u200bhouse. And\u00ad the \u00ad stone. Under it.",
        "今日は晴れ。明日は雨。 The end. 1,000, and 12,",
        "A\u2581b c. D \u2581 e. F.",
        'He said: "No. Never." Then\n\nshe left.  Twice.\n"',
        "Café. Ñandú! \U0001d400 ½ … \ufb01n.",
    ]
    generator = random.Random(0)
    texts = documents[:60] + strange
    generator.shuffle(texts)
    assert encoded_ids(texts, tokenizer) == [expected_ids(text, tokenizer) for text in texts]


def test_how_documents_are_batched_changes_nothing(vocabulary, documents):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    together = encoded_ids(documents[:30], tokenizer)
    assert together == [ids for document in documents[:30] for ids in encoded_ids([document], tokenizer)]


def test_documents_too_short_for_a_pair_are_counted(vocabulary):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    pieces = map(tokenizer.id_to_piece, tokenizer.ordinary_ids)
    word = next(
        piece[1:]
        for piece in pieces
        if len(piece) > 1 and tokenizer.encode(piece[1:]) == [tokenizer.piece_to_id(piece)]
    )
    encoded = DocumentEncoder(tokenizer, "en").encode([b"", f"{word} {word}".encode(), b" \n ", word.encode()])
    assert encoded.left_out == 3
    assert len(encoded.document_lengths) == 1
    assert DocumentEncoder(tokenizer, "en").encode([b"", "\u200b".encode()]).left_out == 2
    assert DocumentEncoder(tokenizer, "en").encode([]).left_out == 0
