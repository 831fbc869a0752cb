"""Hugging Face's tokenizer.json: that it holds the whole vocabulary, and what happens to files that are no such thing.

Whether transformers reads it as we mean it is for tests/peer/test_tokenizer_peer.py.
"""

import base64
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from albert_jax.errors import UserError
from albert_jax.interop import tokenizer_json
from albert_jax.interop.tokenizer_json import load_tokenizer, save_tokenizer
from albert_jax.tokenizer import CLS, MASK, PAD, SEP, UNK, AlbertTokenizer


def train(**options: object) -> bytes:
    """A small vocabulary with Google's options, numbers with commas and user-defined pieces among it."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 7))) for _ in range(200)]
    words += ["1,000", "1999,", "12,", "well-known", "(a)"] * 30
    lines = [" ".join(generator.choices(words, k=10)) for _ in range(500)]
    model = io.BytesIO()
    settings: dict = {"vocab_size": 150, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    settings |= {"pad_piece": PAD, "unk_piece": UNK, "control_symbols": [CLS, SEP, MASK]}
    settings |= {"user_defined_symbols": ["(", ")", '"', "-", "."]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def small() -> AlbertTokenizer:
    return AlbertTokenizer(train())


@pytest.fixture
def folder(small, tmp_path) -> Path:
    save_tokenizer(small, tmp_path)
    (tmp_path / "spiece.model").unlink()
    return tmp_path


def edit(folder: Path, change: Any) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def contents(model_bytes: bytes) -> tuple:
    model = sentencepiece_model_pb2.ModelProto.FromString(model_bytes)
    return [(p.piece, p.score, p.type) for p in model.pieces], model.normalizer_spec.precompiled_charsmap


def sample_texts() -> list[str]:
    generator = random.Random(1)
    alphabet = [
        *"abcdefghijABC()-.\"'",
        *" " * 8,
        "1,000 ",
        "1999,",
        "12,",
        "é",
        "½",
        "\u3000",
        "日",
        "\u200b",
        "[MASK]",
    ]
    return ["".join(generator.choices(alphabet, k=40)) for _ in range(300)]


def test_the_model_comes_back_from_the_json_file_alone(small, folder):
    back = load_tokenizer(folder)
    assert contents(back.model_bytes) == contents(small.model_bytes)
    assert [back.encode(text) for text in sample_texts()] == [small.encode(text) for text in sample_texts()]


def test_the_released_vocabulary_comes_back_from_the_json_file_alone(shared_data, tmp_path):
    released = AlbertTokenizer.from_file(shared_data / "albert_fixtures" / "spiece.model")
    save_tokenizer(released, tmp_path)
    (tmp_path / "spiece.model").unlink()
    back = load_tokenizer(tmp_path)
    assert contents(back.model_bytes) == contents(released.model_bytes)
    assert back.unchanged_characters.tolist() == released.unchanged_characters.tolist()


@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {"keep_accents": True}])
def test_settings_come_back(small, tmp_path, settings):
    save_tokenizer(AlbertTokenizer(small.model_bytes, **settings), tmp_path)
    for lost in ("nothing", "spiece.model", "tokenizer_config.json"):
        (tmp_path / lost).unlink(missing_ok=True)
        back = load_tokenizer(tmp_path)
        assert (back.do_lower_case, back.keep_accents) == (
            settings.get("do_lower_case", True),
            settings.get("keep_accents", False),
        )


def test_a_folder_with_the_model_file_gives_the_very_same_tokenizer(small, tmp_path):
    save_tokenizer(small, tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == small.fingerprint


def test_settings_hold_what_transformers_asks_for(small, tmp_path):
    save_tokenizer(small, tmp_path, model_max_length=128)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert config["tokenizer_class"] == "AlbertTokenizer"
    assert config["model_max_length"] == 128
    assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert (config["cls_token"], config["eos_token"], config["mask_token"]["content"]) == (CLS, SEP, MASK)


def test_only_special_pieces_are_cut_out_of_text(folder):
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    assert [token["content"] for token in content["added_tokens"]] == [PAD, UNK, CLS, SEP, MASK]


def test_pieces_that_end_in_digit_and_comma_are_never_chosen(folder):
    vocab = dict(json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    assert vocab["▁1999,"] < -100 < min(score for piece, score in vocab.items() if not piece.endswith(","))


def test_nothing_partial_stays_behind(folder):
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_tokens_added_by_transformers_get_the_next_ids(small, folder):
    token = {"id": small.vocab_size, "content": "[NEW]", "special": True}
    edit(folder, lambda content: content["added_tokens"].append(token))
    back = load_tokenizer(folder)
    assert back.piece_to_id("[NEW]") == small.vocab_size
    assert back.piece_to_id("[NEW]") not in back.encode("a [NEW] b")


def test_user_defined_pieces_that_transformers_calls_special_stay_pieces(small, folder):
    token = {"id": small.piece_to_id("("), "content": "(", "special": True}
    edit(folder, lambda content: content["added_tokens"].append(token))
    assert load_tokenizer(folder).encode("(a)") == small.encode("(a)")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "bpe"}, "no unigram model"),
        ({"pad_id": 1, "unk_id": 0}, "elsewhere than at id 1"),
        ({"byte_fallback": True, "vocab_size": 400}, "falls back to bytes"),
        ({"add_dummy_prefix": False}, "no space in front"),
        ({"treat_whitespace_as_suffix": True}, "behind words"),
    ],
)
def test_a_vocabulary_that_cannot_be_expressed_is_refused(tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        save_tokenizer(AlbertTokenizer(train(**options)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wordpiece_vocabularies_are_refused(folder, tmp_path):
    edit(folder, lambda content: content.update(model={"type": "WordPiece", "vocab": {"[PAD]": 0}}))
    with pytest.raises(UserError, match=r"tokenizer\.json: a WordPiece vocabulary, as the Chinese"):
        load_tokenizer(folder)
    (tmp_path / "chinese").mkdir()
    (tmp_path / "chinese" / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(UserError, match=r"vocab\.txt: a WordPiece vocabulary"):
        load_tokenizer(tmp_path / "chinese")


def test_an_empty_folder_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"neither spiece\.model nor tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"model": 1}', '{"model": {"vocab": {}}}', "\xff"]
)
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path, text):
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


DAMAGES = {
    "another kind": lambda c: c["model"].update(type="BPE"),
    "score no number": lambda c: c["model"]["vocab"].append(["x", "y"]),
    "score not finite": lambda c: c["model"]["vocab"].append(["x", float("nan")]),
    "score huge": lambda c: c["model"]["vocab"].append(["x", -(10**400)]),
    "piece empty": lambda c: c["model"]["vocab"].append(["", 0.0]),
    "piece no text": lambda c: c["model"]["vocab"].append(["\ud800", 0.0]),
    "piece with NUL": lambda c: c["model"]["vocab"].append(["a\0", -1.0]),
    "piece twice": lambda c: c["model"]["vocab"].append(["▁", -1.0]),
    "no pieces": lambda c: c["model"].update(vocab=[]),
    "no mask": lambda c: (c["model"]["vocab"].pop(4), c["added_tokens"].pop()),
    "too many": lambda c: c["model"]["vocab"].extend([f"x{i}", -9.0] for i in range(65_536)),
    "added token no object": lambda c: c.update(added_tokens=["x"]),
    "added token elsewhere": lambda c: c["added_tokens"].append({"id": 7_000, "content": "x", "special": True}),
    "added token's id negative": lambda c: c["added_tokens"].append({"id": -1, "content": "x", "special": True}),
    "normaliser no object": lambda c: c.update(normalizer=3),
    "step of no type": lambda c: c["normalizer"]["normalizers"].append({"type": ["Lowercase"]}),
    "map not in base64": lambda c: c["normalizer"]["normalizers"][3].update(precompiled_charsmap="?"),
    "map no text": lambda c: c["normalizer"]["normalizers"][3].update(precompiled_charsmap=4),
    "map cut off": lambda c: c["normalizer"]["normalizers"][3].update(
        precompiled_charsmap=base64.b64encode(b"\x00\x01\x00\x00abc").decode()
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(folder, damage):
    edit(folder, DAMAGES[damage])
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=f"{name}: is a pipe or device, expected a file"):
        load_tokenizer(folder)


def test_files_beyond_all_measure_are_not_read(folder, monkeypatch):
    monkeypatch.setattr(tokenizer_json, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError, match=r"tokenizer\.json: .* more than such a file ever has \(1,000\)"):
        load_tokenizer(folder)


def test_a_file_in_the_way_is_explained(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_tokenizer(small, tmp_path / "file")
