"""The tokenizer against Google's rules, on the released vocabulary where it is at hand and on small ones made
here."""

import io
import json
import lzma
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from albert_jax.errors import UserError
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer, clean, is_word_start

RELEASED = Path(__file__).resolve().parents[2] / "shared" / "data" / "albert_fixtures" / "spiece.model"


@pytest.fixture(scope="module")
def released() -> AlbertTokenizer:
    if not RELEASED.exists():
        pytest.skip("the released vocabulary is not beside this repository")
    return AlbertTokenizer.from_file(RELEASED)


def train(**options: object) -> bytes:
    """A small SentencePiece model; by default with all that ALBERT needs."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 7))) for _ in range(200)]
    words += ["1,000", "1999,", "12,"] * 30
    lines = [" ".join(generator.choices(words, k=10)) for _ in range(500)]
    model = io.BytesIO()
    settings: dict = {"vocab_size": 120, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    settings |= {"pad_piece": PAD, "unk_piece": UNK, "control_symbols": [CLS, SEP, MASK], "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def small() -> AlbertTokenizer:
    return AlbertTokenizer(train())


def pieces(tokenizer: AlbertTokenizer, text: str) -> list[str]:
    return [tokenizer.id_to_piece(i) for i in tokenizer.encode(text)]


def test_released_vocabulary_has_googles_ids(released):
    first = [released.id_to_piece(i) for i in range(13)]
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
    assert released.vocab_size == 30_000
    assert (released.pad_id, released.unk_id, released.cls_id, released.sep_id, released.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert released.special_ids == (0, 1, 2, 3, 4)


def test_ordinary_ids_are_all_but_the_special_ones(small):
    assert small.ordinary_ids.dtype == np.int32
    assert sorted([*small.ordinary_ids.tolist(), *small.special_ids]) == list(range(small.vocab_size))


def test_a_number_and_its_comma_are_two_pieces(released):
    assert pieces(released, "in 1999, he") == ["▁in", "▁1999", ",", "▁he"]


def test_splitting_a_number_inside_a_word_adds_no_word_mark():
    # Re-encoded alone, "7" is "▁", "7": the spurious mark of google-research/albert issue 85.
    tokenizer = AlbertTokenizer(train(user_defined_symbols=["7,", "7"]))
    found = pieces(tokenizer, "ab7, ab")
    assert "7," not in found
    assert found[found.index("7") - 1 : found.index("7") + 2] == ["b", "7", ","]


def test_accents_and_case_and_white_space_go(small):
    assert small.normalize("  Café\tNAÏVE\u00a0\n ﬁn ") == "cafe naive fin"
    assert small.normalize("İ ½") == "i 1\u20442"


def test_case_stays_when_asked():
    assert AlbertTokenizer(train(), do_lower_case=False).normalize("Café A") == "Cafe A"


def test_spaces_that_decomposition_makes_survive_cleaning():
    # U+00A8 is a space and a combining mark; Google collapses white space before decomposing.
    assert clean("a \u00a8b") == "a  b"


def test_control_symbols_never_come_from_text(released):
    ids = released.encode("[MASK] <pad> [CLS] a [SEP]")
    assert not set(ids) & {released.pad_id, released.cls_id, released.sep_id, released.mask_id}


def test_blank_text_has_no_ids(small):
    assert small.encode("") == small.encode(" \n\t") == []
    assert small.encode_batch([]) == []


def test_a_batch_gives_the_same_ids_as_single_texts(released):
    texts = [
        "In 1999, 1,000, and 12,345, people",
        "",
        "Café",
        "x",
        "2007, 2008, 2009,",
        "\u200b?\u3000日本 \uff21",
    ]
    assert [array.tolist() for array in released.encode_batch(texts)] == [released.encode(text) for text in texts]


def test_unchanged_characters_encode_the_same_without_the_models_normaliser(released):
    generator = random.Random(0)
    alphabet = [chr(i) for i in np.flatnonzero(released.unchanged_characters)] + [" "] * 200
    texts = ["".join(generator.choices(alphabet, k=60)) for _ in range(300)]
    texts = [" ".join(text.split()) for text in texts]
    plain, _ = released.encode_normalized(texts)
    bare, _ = released.encode_normalized(texts, np.ones(len(texts), bool))
    assert plain.tolist() == bare.tolist()


def test_decoding_gives_the_normalised_text(released):
    assert released.decode(released.encode("The  Quick Brown Fox.")) == "the quick brown fox."
    assert released.decode([released.cls_id, *released.encode("fox"), released.sep_id]).strip() == "fox"


def google_word_start(piece: str) -> bool:
    """albert.md 2.5, for ASCII pieces, written down a second time."""
    punctuation = '!"#$%&()*+,-./:;?@[\\]^_`{|}~'
    if piece.startswith(("▁", "<")) or piece in punctuation:
        return True
    return any(not (c.isalpha() or c in punctuation) for c in piece)


def test_word_starts_are_googles_on_ascii_pieces(released):
    for i in range(released.vocab_size):
        piece = released.id_to_piece(i)
        if piece.replace("▁", "").isascii():
            assert released.word_starts[i] == google_word_start(piece), piece


@pytest.mark.parametrize("piece", ["ция", "ção", "λόγ", "عرب", "한국", "हि\u0902दी"])
def test_letters_of_any_spaced_script_continue_a_word(piece):
    assert not is_word_start(piece)
    assert is_word_start("▁" + piece)


@pytest.mark.parametrize("piece", ["日本", "カナ", "ไทย", "ລາວ", "ខ្មែរ", "မြန်", "1", "'s", "\u2013", "€"])
def test_unspaced_scripts_and_signs_start_a_word(piece):
    assert is_word_start(piece)


def test_save_and_load_give_the_same_tokenizer(small, tmp_path):
    small.save(tmp_path / "new")
    loaded = AlbertTokenizer.load(tmp_path / "new")
    assert loaded.fingerprint == small.fingerprint
    assert loaded.model_bytes == small.model_bytes


def test_saved_settings_come_back(tmp_path):
    cased = AlbertTokenizer(train(), do_lower_case=False)
    cased.save(tmp_path)
    assert AlbertTokenizer.load(tmp_path).do_lower_case is False


def test_fingerprint_tells_settings_and_models_apart(small):
    assert small.fingerprint != AlbertTokenizer(small.model_bytes, do_lower_case=False).fingerprint
    assert small.fingerprint != AlbertTokenizer(train(vocab_size=121)).fingerprint


def test_a_tokenizer_can_be_sent_to_another_process(small):
    assert pickle.loads(pickle.dumps(small)).encode("abc 1,2") == small.encode("abc 1,2")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.model.*train_vocab"):
        AlbertTokenizer.from_file(tmp_path / "nowhere.model")
    with pytest.raises(UserError, match="folder"):
        AlbertTokenizer.from_file(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\n\x05hello" * 50])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "bad.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.model: not a SentencePiece model"):
        AlbertTokenizer.from_file(path)


def test_a_vocabulary_without_alberts_symbols_is_refused():
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        AlbertTokenizer(train(control_symbols=[CLS, SEP]))
    with pytest.raises(UserError, match=r"\[MASK\] is an ordinary piece"):
        AlbertTokenizer(train(control_symbols=[CLS, SEP], user_defined_symbols=[MASK]))


def test_a_vocabulary_beyond_16_bits_is_refused():
    symbols = [f"s{i}x" for i in range(65_500)]
    model = train(user_defined_symbols=symbols, vocab_size=65_620)
    with pytest.raises(UserError, match=r"65,620 pieces.*65,536"):
        AlbertTokenizer(model)


@pytest.mark.parametrize("content", ["{", "[1]", '{"do_lower_case": "yes"}'])
def test_broken_settings_are_refused(small, tmp_path, content):
    small.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        AlbertTokenizer.load(tmp_path)


# accents


def test_accents_stay_when_asked(small):
    accented = AlbertTokenizer(small.model_bytes, keep_accents=True)
    assert accented.normalize("  Café\tﬁ\u0301 ") == "café ﬁ\u0301"


def test_keeping_accents_changes_the_fingerprint_and_dropping_them_does_not(small):
    assert AlbertTokenizer(small.model_bytes, keep_accents=False).fingerprint == small.fingerprint
    assert AlbertTokenizer(small.model_bytes, keep_accents=True).fingerprint != small.fingerprint


def test_the_released_fingerprint_never_changes(released):
    # Corpora are refused when it does. Changes with RULES_VERSION alone.
    assert released.fingerprint.startswith("6e846edb3be29f37")


def test_kept_accents_come_back_from_a_folder_and_another_process(small, tmp_path):
    accented = AlbertTokenizer(small.model_bytes, keep_accents=True)
    accented.save(tmp_path)
    assert AlbertTokenizer.load(tmp_path).keep_accents is True
    assert pickle.loads(pickle.dumps(accented)).fingerprint == accented.fingerprint


def test_a_folder_with_one_model_of_any_name_is_read(small, tmp_path):
    (tmp_path / "30k-clean.model").write_bytes(small.model_bytes)
    assert AlbertTokenizer.load(tmp_path).fingerprint == small.fingerprint
    (tmp_path / "other.model").write_bytes(small.model_bytes)
    with pytest.raises(UserError, match=r"several tokenizer models \(30k-clean\.model, other\.model\)"):
        AlbertTokenizer.load(tmp_path)


# sequences


def test_a_sequence_has_its_symbols_and_types(small):
    a, b = small.encode("abc"), small.encode("def abc")
    built = small.build("abc", "def abc")
    assert built.input_ids.tolist() == [small.cls_id, *a, small.sep_id, *b, small.sep_id]
    assert built.token_type_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert np.flatnonzero(built.special_tokens_mask).tolist() == [0, len(a) + 1, len(a) + len(b) + 2]
    assert small.build("abc").input_ids.tolist() == [small.cls_id, *a, small.sep_id]


def lengths(tokenizer: AlbertTokenizer, first: int, second: int, truncation: str, max_length: int) -> tuple[int, int]:
    texts = (" ".join(["the"] * count) for count in (first, second))
    built = tokenizer.build(*texts, truncation=truncation, max_length=max_length)
    ordinary = ~built.special_tokens_mask
    return int((ordinary & (built.token_type_ids == 0)).sum()), int((ordinary & (built.token_type_ids == 1)).sum())


@pytest.mark.parametrize(
    ("first", "second", "room", "left"),
    [
        *[(9, 3, 8, (5, 3)), (3, 9, 8, (3, 5)), (9, 9, 8, (4, 4)), (9, 8, 7, (4, 3)), (8, 9, 7, (3, 4))],
        *[(9, 9, 7, (3, 4)), (2, 2, 4, (2, 2)), (9, 1, 1, (1, 0)), (9, 9, 0, (0, 0))],
    ],
)
def test_the_longer_text_gives_way_first(released, first, second, room, left):
    assert lengths(released, first, second, "longest_first", room + 3) == left


def test_only_the_named_text_gives_way(released):
    assert lengths(released, 6, 5, "only_first", 12) == (4, 5)
    assert lengths(released, 6, 5, "only_second", 12) == (6, 3)


def test_a_text_is_cut_at_its_end(released):
    whole = released.encode("the quick brown fox jumps")
    cut = released.build("the quick brown fox jumps", truncation="only_first", max_length=5).input_ids
    assert cut[1:-1].tolist() == whole[:3]


def test_what_cannot_be_truncated_is_refused(released):
    with pytest.raises(UserError, match=r"7 ids .* more than max_length = 6; raise it, or set truncation"):
        lengths(released, 3, 1, "none", 6)
    with pytest.raises(UserError, match=r"would leave nothing of a text of 3"):
        lengths(released, 3, 9, "only_first", 12)
    with pytest.raises(UserError, match=r"only_second.*without a second text"):
        released.build("the the the", truncation="only_second", max_length=4)
    with pytest.raises(UserError, match=r"max_length is 2, less than \[CLS\] and \[SEP\] take \(3\)"):
        lengths(released, 3, 3, "longest_first", 2)
    with pytest.raises(UserError, match="max_length is not given"):
        released.build("the", truncation="longest_first")
    with pytest.raises(UserError, match="truncation is 'first', expected one of none, longest_first"):
        released.build("the", truncation="first", max_length=9)


def test_a_batch_is_its_sequences_with_padding(small):
    texts, pairs = ["abc", "", "abc def 12,"], ["a b", "", "c"]
    batch = small(texts, pairs, offsets=True)
    for row, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        built = small.build(text, pair, offsets=True)
        end = len(built)
        for name in ("input_ids", "token_type_ids", "special_tokens_mask", "offsets"):
            assert getattr(batch, name)[row, :end].tolist() == getattr(built, name).tolist()
        assert batch.attention_mask[row].tolist() == [True] * end + [False] * (batch.input_ids.shape[1] - end)
        assert (batch.input_ids[row, end:] == small.pad_id).all()
        assert batch.special_tokens_mask[row, end:].all()
        assert not batch.token_type_ids[row, end:].any() and not batch.offsets[row, end:].any()


def test_arrays_are_what_models_take(small):
    batch = small(["abc"], offsets=True)
    assert {batch.input_ids.dtype, batch.token_type_ids.dtype, batch.offsets.dtype} == {np.dtype(np.int32)}
    assert {batch.attention_mask.dtype, batch.special_tokens_mask.dtype} == {np.dtype(bool)}
    assert small(["abc"]).offsets is None


def test_one_text_is_a_batch_of_one(small):
    assert small("abc", "def").input_ids.tolist() == small(["abc"], ["def"]).input_ids.tolist()
    assert small([]).input_ids.shape == (0, 0)


def test_padding_reaches_the_length_asked_for(small):
    texts = ["abc", "abc def abc def"]
    longest = small(texts).input_ids.shape[1]
    assert longest == max(len(small.build(text)) for text in texts)
    assert small(texts, pad_to_multiple_of=16).input_ids.shape[1] == -(-longest // 16) * 16
    assert small(texts, padding="max_length", max_length=40).input_ids.shape[1] == 40


def test_faulty_batches_are_refused(small):
    with pytest.raises(UserError, match="2 texts but 1 pairs"):
        small(["a", "b"], ["c"])
    with pytest.raises(UserError, match=r"texts\[1\]: a text is nan, expected str"):
        small(["a", float("nan")])
    with pytest.raises(UserError, match=r"texts\[1\]: .* more than max_length = 4"):
        small(["a", "a b c d e f"], max_length=4)
    with pytest.raises(UserError, match="padding is 'short', expected one of longest, max_length"):
        small(["a"], padding="short")
    with pytest.raises(UserError, match="max_length is not given"):
        small(["a"], padding="max_length")
    with pytest.raises(UserError, match="pad_to_multiple_of is 0"):
        small(["a"], pad_to_multiple_of=0)


# offsets


def spans(tokenizer: AlbertTokenizer, text: str) -> list[tuple[str, str]]:
    """Each piece and what its span of the text reads."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    return [(tokenizer.id_to_piece(i), text[start:end]) for i, (start, end) in zip(ids, offsets.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\u00a0\n", []),
        ("  The\t Fox ", [("▁the", "The"), ("▁fox", "Fox")]),
        ("in 1999, he", [("▁in", "in"), ("▁1999", "1999"), (",", ","), ("▁he", "he")]),
        ("\uff11\uff19\uff19\uff19\uff0c", [("▁1999", "\uff11\uff19\uff19\uff19"), (",", "\uff0c")]),
        ("cafe\u0301 au", [("▁cafe", "cafe\u0301"), ("▁au", "au")]),
        ("\u0301the", [("▁the", "the")]),
        ("ﬁne", [("▁fine", "ﬁne")]),
        ("½", [("▁1", "½"), ("<unk>", "½"), ("2", "½")]),
        ("the…", [("▁the", "the"), (".", "…"), (".", "…"), (".", "…")]),
        ("the 🙂", [("▁the", "the"), ("▁", ""), ("<unk>", "🙂")]),
        ("the\u200bfox", [("▁the", "the"), ("▁fox", "fox")]),
        ("the\x01 fox", [("▁the", "the\x01"), ("▁fox", "fox")]),
        ("\u3000\uff34\uff48\uff45", [("▁the", "\uff34\uff48\uff45")]),
        ("I\u0307t", [("▁it", "I\u0307t")]),
        ("İt", [("▁it", "İt")]),
        ("the \u00a8fox", [("▁the", "the"), ("▁fox", "fox")]),
    ],
)
def test_pieces_know_where_they_stand(released, text, expected):
    assert spans(released, text) == expected


@pytest.mark.parametrize(
    "text", ["한국", "ΟΔΟΣ ΟΔΟΣ.", "İİ ΐ ŉ ǰ", "\ufdfa", "🄂🄂", "a▁b", "\x00 a\x00", "\u0345\u0301"]
)
@pytest.mark.parametrize("keep_accents", [False, True])
def test_awkward_letters_keep_offsets_in_order(released, text, keep_accents):
    check_offsets(AlbertTokenizer(released.model_bytes, keep_accents=keep_accents), text)


def check_offsets(tokenizer: AlbertTokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert offsets.shape == (len(ids), 2) and offsets.dtype == np.int32
    assert (np.diff(offsets, axis=0) >= 0).all()
    for id, (start, end) in zip(ids, offsets.tolist(), strict=True):
        assert 0 <= start <= end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert start < end or tokenizer.id_to_piece(id) == "▁"


def random_text(generator: random.Random) -> str:
    kinds = [
        lambda: chr(generator.randrange(0x20, 0x7F)),
        lambda: chr(generator.randrange(0x250)),
        lambda: chr(generator.randrange(0x300, 0x370)),
        lambda: chr(generator.randrange(0xD800)),
        lambda: chr(generator.randrange(0xE000, 0x10000)),
        lambda: chr(generator.randrange(0x10000, 0x110000)),
        lambda: generator.choice(" \t\n\u00a0\u3000\u200b\u200d\ufeff\u00ad"),
        lambda: generator.choice(
            ["1,", "2010,", "\uff11,", "🄂", "the", "quick ", "ΟΔΟΣ", "[MASK]", "▁", "ﷺ", "e\u0301"]
        ),
    ]
    return "".join(generator.choice(kinds)() for _ in range(generator.randrange(30)))


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize("keep_accents", [True, False])
def test_offsets_of_any_text_are_in_order_and_inside(released, do_lower_case, keep_accents):
    tokenizer = AlbertTokenizer(released.model_bytes, do_lower_case, keep_accents)
    generator = random.Random(0)
    for _ in range(1_000):
        check_offsets(tokenizer, random_text(generator))


@pytest.mark.parametrize("options", [{"byte_fallback": True, "vocab_size": 400}, {"add_dummy_prefix": False}])
@pytest.mark.parametrize(
    "more", [{}, {"remove_extra_whitespaces": False}, {"user_defined_symbols": ["7,", "b c", "1"]}]
)
def test_offsets_hold_for_vocabularies_of_other_kinds(options, more):
    tokenizer = AlbertTokenizer(train(**options, **more))
    generator = random.Random(0)
    for _ in range(200):
        text = random_text(generator)
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        assert (np.diff(offsets, axis=0) >= 0).all()
        assert ((offsets >= 0) & (offsets <= len(text))).all()


def words_and_spans(tokenizer: AlbertTokenizer, text: str) -> list[tuple[str, str]]:
    """Of each word, "▁" and what follows it, as the pieces spell it; and the text from first start to last end."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    starts = [i for i, id in enumerate(ids) if tokenizer.after_space[id]]
    return [
        (tokenizer.decode(ids[i:j]).strip(), text[offsets[i, 0] : offsets[j - 1, 1]])
        for i, j in zip(starts, [*starts, len(ids)][1:], strict=True)
        if tokenizer.unk_id not in ids[i:j]
    ]


def real_lines(folder: Path, count: int) -> list[str]:
    found: list[str] = []
    for part in ("wikipedia/wiki_dev.txt.xz", "books/books_dev.txt.xz"):
        with lzma.open(folder / "text" / part, "rt", encoding="utf-8") as file:
            found += [line.rstrip("\n") for _, line in zip(range(count), file, strict=False)]
    return found


def test_every_word_of_real_text_reads_as_its_span(released, shared_data):
    for line in real_lines(shared_data, 500):
        check_offsets(released, line)
        for word, span in words_and_spans(released, line):
            assert released.decode(released.encode(span)).strip() == word


def test_the_pieces_over_an_answer_cover_it(released, shared_data):
    with lzma.open(shared_data / "squad" / "dev-v1.1.json.xz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    answers = 0
    for paragraph in (paragraph for article in articles[::4] for paragraph in article["paragraphs"]):
        context = paragraph["context"]
        _, offsets = released.encode_with_offsets(context)
        for answer in (answer for question in paragraph["qas"] for answer in question["answers"]):
            start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            over = (offsets[:, 0] < end) & (offsets[:, 1] > start)
            covered = set().union(*(range(*span) for span in offsets[over].tolist()))
            assert all(i in covered or context[i].isspace() for i in range(start, end)), answer
            answers += 1
    assert answers > 5_000


# what is hardly text


def test_half_a_surrogate_pair_is_explained(small):
    for call in (small.encode, small.encode_with_offsets, small.build, lambda text: small.encode_batch([text])):
        with pytest.raises(UserError, match=r"U\+D83D, at character 2,"):
            call("ab\ud83d c")


def test_very_long_texts_and_words_pass(released):
    for text in ("the quick, 1999, " * 60_000, "x" * 100_000, "\u0301" * 100_000, "é" * 100_000):
        ids, offsets = released.encode_with_offsets(text)
        assert ids == released.encode(text)
        assert len(offsets) == len(ids)
        assert not ids or offsets[-1, 1] == len(text.rstrip())
