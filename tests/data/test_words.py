"""The table of words against SentencePiece on whole lines, whatever the table holds."""

import io
import random
from collections.abc import Sequence

import numpy as np
import pytest
import sentencepiece

from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer
from data.encoding import DocumentEncoder
from data.preparation import prepare_lines
from data.sentences import find_sentences, separate_sentences
from data.words import WordTable

# What the model's character map turns into spaces, drops or composes, what lower-casing and NFKD change, and
# characters of one to four bytes that no vocabulary here knows.
HOSTILE = (
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u2581", "\ufffd", "\u00a0", "\u3000", "\u0085", "\u2028"),
    *("\x00", "\x01", "\x7f", "\u0301", "\u0345", "\u1100", "\u1161", "\u11a8", "é", "İ", "Σ", "ß", "ﬁ", "½", "¨"),
    *("日", "本", "ไ", "त", "\u094d", "\U0001f600", "\U0001d400", "\U00010400", "…", "“", "'", "<", "[MASK]"),
)


def bytes_of(words: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Stands for SentencePiece: the ids of a word are its bytes."""
    return np.frombuffer(b"".join(words), np.uint8).astype(np.uint16), np.array([len(word) for word in words])


def look_up(table: WordTable, lines: Sequence[bytes]) -> tuple[list[int], bytes]:
    """The numbers of all words, and what their ids say, for `bytes_of`."""
    ends = np.cumsum([len(line) + 1 for line in lines]) - 1
    numbers = table.look_up(b" ".join(lines), ends - [len(line) for line in lines], ends)
    none = np.empty(0, np.int64)
    joined, lengths = table.join(
        numbers,
        np.array([len(line.split(b" ")) for line in lines]),
        apart=np.zeros(len(lines), bool),
        tokens=none.astype(np.uint16),
        lengths=none,
    )
    assert lengths.tolist() == [len(line.replace(b" ", b"")) for line in lines]
    return numbers.tolist(), joined.astype(np.uint8).tobytes()


def test_words_are_told_apart_by_every_byte():
    generator = random.Random(0)
    words = {
        bytes(generator.choices([0, 1, 0x1F, 0x21, 0xA0, 0xBF, 0xF4], k=k)) for k in range(1, 40) for _ in range(99)
    }
    words |= {b"\0" * k for k in range(1, 30)} | {b"a" + b"\0" * k for k in range(30)}
    words |= {b"\0" * k + b"a" for k in range(30)}
    lines = [b" ".join(generator.choices(sorted(words), k=generator.randint(1, 30))) for _ in range(2_000)]
    table = WordTable(bytes_of)
    for some in (lines[:1], lines[:100], lines):
        numbers, joined = look_up(table, some)
        assert joined == b"".join(some).replace(b" ", b"")
        assert len(set(numbers)) == len({word for line in some for word in line.split(b" ")})
    assert table.count == len({word for line in lines for word in line.split(b" ")})


def test_a_full_table_is_emptied():
    seen = []
    table = WordTable(lambda words: seen.append(len(words)) or bytes_of(words), max_words=3)
    for line in (b"a b", b"a b c d", b"a", b"a c"):
        assert look_up(table, [line])[1] == line.replace(b" ", b"")
    assert seen == [2, 2, 1, 1]
    assert table.count == 2


def test_memory_is_bounded():
    table = WordTable(bytes_of, max_words=1_000)
    for batch in range(50):
        look_up(table, [b" ".join(b"%d" % (batch * 500 + i) for i in range(500))])
    assert table.count <= 1_500
    assert len(table._slots) <= 8_192 and len(table._keys) <= 8_192 and len(table._ids) <= 16_384


def test_words_that_could_not_be_encoded_are_forgotten():
    table = WordTable(bytes_of)
    look_up(table, [b"a"])
    table._encode = lambda words: 1 / 0
    with pytest.raises(ZeroDivisionError):
        look_up(table, [b"b"])
    table._encode = bytes_of
    assert look_up(table, [b"a b c"])[1] == b"abc"


def ids_by_line(encoder: DocumentEncoder, lines: list[str], tokenizer: AlbertTokenizer) -> list[list[int]]:
    """The ids of each line, a document of its own; lines too short for one have none."""
    encoded = encoder.encode([line.encode() for line in lines])
    ends = np.cumsum(encoded.sentence_lengths)[np.cumsum(encoded.document_lengths) - 1]
    parts = iter(np.split(encoded.tokens, ends)[:-1])
    return [next(parts).tolist() if len(ids := tokenizer.encode(line)) > 1 else ids for line in lines]


def hostile_lines(words: list[str], count: int) -> list[str]:
    generator = random.Random(0)

    def word() -> str:
        characters = list(generator.choice(words))
        while generator.random() < 0.2:
            characters.insert(generator.randint(0, len(characters)), generator.choice(HOSTILE))
        return "".join(characters)

    # No full stop, so that each line is one sentence, which is what SentencePiece is given beside.
    return [" ".join(word() for _ in range(generator.randint(1, 12))).replace(".", "") for _ in range(count)]


def test_hostile_lines_get_the_ids_of_sentencepiece(vocabulary, documents):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    assert tokenizer.words_are_independent
    lines = hostile_lines([word.strip("!?") for word in " ".join(documents).split()], 3_000)
    prepared = prepare_lines([line.encode() for line in lines], True, tokenizer.unchanged_characters)
    assert 0.2 < prepared.unchanged.mean() < 0.8, "both paths are tried"
    found = find_sentences(prepared, "en")
    kept = [line for line, sentences in zip(lines, found.per_line, strict=True) if sentences == 1]
    assert len(kept) > 2_500
    encoder = DocumentEncoder(tokenizer, "en")
    assert ids_by_line(encoder, kept, tokenizer) == [tokenizer.encode(line) for line in kept]
    assert encoder._words.count > 500


def test_what_the_table_holds_changes_nothing(vocabulary, documents):
    tokenizer = AlbertTokenizer.from_file(vocabulary)
    lines = hostile_lines(" ".join(documents).split(), 400)
    fresh = DocumentEncoder(tokenizer, "en").encode([line.encode() for line in lines])
    used, small = DocumentEncoder(tokenizer, "en"), DocumentEncoder(tokenizer, "en", max_words=5)
    used.encode([line.encode() for line in reversed(lines)])
    for encoder in (used, small):
        small.encode([b"another text"])
        again = encoder.encode([line.encode() for line in lines])
        assert again.tokens.tolist() == fresh.tokens.tolist()
        assert again.sentence_lengths.tolist() == fresh.sentence_lengths.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"split_by_whitespace": False, "max_sentencepiece_length": 30},
        {"treat_whitespace_as_suffix": True},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": False},
        {"user_defined_symbols": ["bade sotu"]},
        {"normalization_rule_name": "identity"},
        {"model_type": "word", "hard_vocab_limit": False},
    ],
)
def test_a_vocabulary_without_independent_words_sees_whole_text(documents, options):
    settings: dict = {"vocab_size": 150, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    settings |= {"pad_piece": PAD, "unk_piece": UNK, "control_symbols": [CLS, SEP, MASK]}
    model = io.BytesIO()
    sentences = [line for document in documents for line in document.lower().split("\n")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 3 + ["bade sotu"] * 5_000), model_writer=model, **{**settings, **options}
    )
    tokenizer = AlbertTokenizer(model.getvalue())
    encoder = DocumentEncoder(tokenizer, "en")
    text = documents[0] + " bade sotu\u263a \u263a"
    lines = prepare_lines([text.encode()], True, tokenizer.unchanged_characters)
    wanted = separate_sentences(lines, find_sentences(lines, "en"), 0, len(lines.ends))
    encoded = encoder.encode([text.encode()])
    assert not tokenizer.unchanged_characters.any() or not tokenizer.words_are_independent
    assert encoder._words.count == 0
    ends = np.cumsum(encoded.sentence_lengths)[:-1]
    assert [part.tolist() for part in np.split(encoded.tokens, ends)] == list(map(tokenizer.encode, wanted))
