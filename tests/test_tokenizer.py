"""The tokenizer against Google's rules, on the released vocabulary where it is at hand and on small ones made
here."""

import io
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
