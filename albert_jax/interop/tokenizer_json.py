"""The tokenizer in Hugging Face's form: writes `tokenizer.json`, which transformers needs, and rebuilds the
SentencePiece model from one, which is all that transformers 5 leaves of it when it saves.

Needs neither transformers nor tokenizers. What the file can and cannot express is in docs/tokenizer.md.
"""

import base64
import binascii
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

from albert_jax.errors import UserError
from albert_jax.files import read_file, require_file
from albert_jax.tokenizer import (
    CLS,
    CONFIG_FILE,
    MASK,
    MAX_FILE_BYTES,
    MAX_VOCAB_SIZE,
    MODEL_FILE,
    PAD,
    SEP,
    UNK,
    WORD_MARK,
    AlbertTokenizer,
    find_model,
    read_settings,
    write_file,
)

TOKENIZER_FILE, WORDPIECE_FILE = "tokenizer.json", "vocab.txt"
# Hugging Face's stand-in for Google's digit-comma split: pieces that end so are made so unlikely that none is chosen.
DIGIT_COMMA_PENALTY = 100.0
UNKNOWN_ID = 1  # transformers 5 takes no other, whatever the file says
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece's kinds of pieces
UNIGRAM = 1  # SentencePiece's number of the kind of model
_RELEASED_CHARACTER_MAP = "0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b"


def save_tokenizer(tokenizer: AlbertTokenizer, folder: str | Path, *, model_max_length: int = 512) -> None:
    """Writes spiece.model, tokenizer_config.json and tokenizer.json, which `AutoTokenizer` of transformers 4.57
    (fast and slow) and 5 reads.

    Raises:
        UserError: the vocabulary has what Hugging Face's ALBERT tokenizer cannot express; nothing is written.
    """
    folder = Path(folder)
    content = json.dumps(_to_json(tokenizer), ensure_ascii=False, indent=2)
    tokenizer.save(folder, model_max_length=model_max_length)
    write_file(folder / TOKENIZER_FILE, content.encode())


def load_tokenizer(folder: str | Path) -> AlbertTokenizer:
    """Reads the tokenizer of any ALBERT folder: its SentencePiece model if there is one, else its tokenizer.json.

    A model that was rebuilt from tokenizer.json gives the same ids as the lost one, but is another file, and so has
    another fingerprint. What tokenizer_config.json leaves open is read off the normaliser in tokenizer.json.

    Raises:
        UserError: there is neither, or it is damaged or no ALBERT vocabulary; the message names the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with {MODEL_FILE} or {TOKENIZER_FILE}")
    path = folder / TOKENIZER_FILE
    if (folder / CONFIG_FILE).exists():
        require_file(folder / CONFIG_FILE, MAX_FILE_BYTES)
    if model := find_model(folder):
        require_file(model, MAX_FILE_BYTES)
        return AlbertTokenizer.load(folder)
    if path.exists():
        return _from_json(path, read_settings(folder))
    if (folder / WORDPIECE_FILE).exists():
        raise _wordpiece(folder / WORDPIECE_FILE)
    raise UserError(f"{folder}: holds neither {MODEL_FILE} nor {TOKENIZER_FILE}; add the one of the model's tokenizer")


def _to_json(tokenizer: AlbertTokenizer) -> dict[str, Any]:
    model = _model_proto().FromString(tokenizer.model_bytes)
    _check_expressible(model)
    control = [i for i, piece in enumerate(model.pieces) if piece.type in (UNKNOWN, CONTROL)]
    sequence_a, sequence_b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    cls, sep_a, sep_b = (
        {"SpecialToken": {"id": name, "type_id": segment}} for name, segment in ((CLS, 0), (SEP, 0), (SEP, 1))
    )
    metaspace = {"type": "Metaspace", "replacement": WORD_MARK, "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": model.pieces[i].piece,
                "single_word": False,
                "lstrip": i == tokenizer.mask_id,  # version 4 has it so, version 5 without it has not
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in control
        ],
        "normalizer": _normalizer(tokenizer, model.normalizer_spec.precompiled_charsmap),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, sequence_a, sep_a],
            "pair": [cls, sequence_a, sep_a, sequence_b, sep_b],
            "special_tokens": {
                name: {"id": name, "ids": [id], "tokens": [name]}
                for name, id in ((CLS, tokenizer.cls_id), (SEP, tokenizer.sep_id))
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": UNKNOWN_ID,
            "vocab": [
                [piece.piece, piece.score - DIGIT_COMMA_PENALTY * _ends_in_digit_comma(piece.piece)]
                for piece in model.pieces
            ],
            "byte_fallback": False,
        },
    }


def _normalizer(tokenizer: AlbertTokenizer, character_map: bytes) -> dict[str, Any]:
    """Google's steps. Version 5 of transformers makes its own from the settings, with quotes replaced in front."""
    steps: list[dict[str, Any]] = []
    if not tokenizer.keep_accents:
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if tokenizer.do_lower_case:
        steps.append({"type": "Lowercase"})
    if character_map:
        encoded = base64.b64encode(character_map).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps}


def _check_expressible(model: Any) -> None:
    """Raises UserError for what Hugging Face's ALBERT tokenizer has no way to say."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    kinds = {piece.type for piece in model.pieces}
    faults = {
        "is no unigram model": trainer.model_type != UNIGRAM,
        f"has its unknown piece {UNK} elsewhere than at id {UNKNOWN_ID}": model.pieces[UNKNOWN_ID].type != UNKNOWN,
        "falls back to bytes": BYTE in kinds,
        "has unused pieces": UNUSED in kinds,
        "puts no space in front of a text": not normalizer.add_dummy_prefix,
        "keeps extra spaces": not normalizer.remove_extra_whitespaces,
        "does not write spaces as ▁": not normalizer.escape_whitespaces,
        "puts ▁ behind words": trainer.treat_whitespace_as_suffix,
        "has pieces of several words": any(WORD_MARK in piece.piece[1:] for piece in model.pieces),
        "has a second character map": bool(model.denormalizer_spec.precompiled_charsmap),
    }
    if found := [fault for fault, is_so in faults.items() if is_so]:
        raise UserError(
            f"the vocabulary {' and '.join(found)}, which {TOKENIZER_FILE} of an ALBERT tokenizer cannot express; use "
            "one that data/train_vocab.py trained, or keep to the SentencePiece model file alone"
        )


def _from_json(path: Path, settings: dict[str, bool]) -> AlbertTokenizer:
    content = _read_json(path)
    model = _member(content, "model", dict, path)
    # Old files leave the kind of the model out, but only a WordPiece or word vocabulary is an object.
    kind = model.get("type", "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece")
    if kind == "WordPiece":
        raise _wordpiece(path)
    if kind != "Unigram":
        raise UserError(f"{path}: holds a {kind} vocabulary, ALBERT's is Unigram; give the folder of an ALBERT model")
    pieces = _pieces(_member(model, "vocab", list, path), path)
    added = _added_tokens(content, pieces, path)
    steps = _steps(content.get("normalizer"), path)
    kinds = {step.get("type") for step in steps}
    settings = {"do_lower_case": "Lowercase" in kinds, "keep_accents": "StripAccents" not in kinds} | settings
    model_bytes = _rebuild(pieces, added, _character_map(steps, path), path)
    return AlbertTokenizer(model_bytes, **settings, name=str(path))


def _rebuild(pieces: list[tuple[str, float]], added: dict[str, bool], character_map: bytes, path: Path) -> bytes:
    """The SentencePiece model file of pieces with their scores.

    Args:
        added: whether Hugging Face treats it as special, of each piece that it cuts out of a text before anything else.
    """
    model = _model_proto()()
    names = {name: i for i, (name, _) in enumerate(pieces)}
    for name, score in pieces:
        kind = NORMAL
        if name == UNK:
            kind = UNKNOWN
        elif name in (PAD, CLS, SEP, MASK) or (added.get(name) and _looks_like_a_symbol(name)):
            kind = CONTROL
        elif name in added or score == 0.0:
            # Learned pieces have the logarithm of a probability; 0 is what SentencePiece gives to its user's own.
            kind = USER_DEFINED
        model.pieces.add(piece=name, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = UNIGRAM
    trainer.vocab_size = len(pieces)
    trainer.pad_id, trainer.unk_id = names.get(PAD, -1), names.get(UNK, -1)
    trainer.bos_id = trainer.eos_id = -1
    trainer.pad_piece, trainer.unk_piece = PAD, UNK
    # The name is what tells `AlbertTokenizer.unchanged_characters` that these are the rules it knows.
    normalizer.name = "nmt_nfkc" if _is_default(character_map) else "user_defined"
    normalizer.precompiled_charsmap = character_map
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    try:
        return model.SerializeToString()
    except ValueError:
        raise UserError(f"{path}: cannot be made into a SentencePiece model; restore the file") from None


def _read_json(path: Path) -> dict[str, Any]:
    encoded = read_file(path, MAX_FILE_BYTES)
    try:
        content = json.loads(encoded.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON object ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object ({type(content).__name__}); restore the file")
    return content


def _member(owner: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    value = owner.get(name)
    if not isinstance(value, kind):
        raise UserError(f"{path}: {name} is missing or no {kind.__name__}; restore the file")
    return value


def _pieces(vocab: list[Any], path: Path) -> list[tuple[str, float]]:
    """Pieces and scores as SentencePiece has them, the digit-comma penalty taken off."""
    if len(vocab) > MAX_VOCAB_SIZE:
        raise UserError(f"{path}: vocabulary of {len(vocab):,} pieces, at most {MAX_VOCAB_SIZE:,} fit into 16 bits")
    pieces = []
    for i, entry in enumerate(vocab):
        match entry:
            case [str(name), float() | int() as score] if _is_piece(name) and abs(score) < 1e9:
                # A log-probability of a piece that was ever seen is far above it: below, the penalty is in.
                is_penalised = _ends_in_digit_comma(name) and score <= -DIGIT_COMMA_PENALTY
                pieces.append((name, float(score) + DIGIT_COMMA_PENALTY * is_penalised))
            case _:
                raise UserError(f"{path}: entry {i} of the vocabulary is {entry!r:.100}, expected a piece and a score")
    _refuse_doubles([name for name, _ in pieces], path)
    return pieces


def _is_piece(name: str) -> bool:
    return bool(name) and "\0" not in name and not any("\ud800" <= character <= "\udfff" for character in name)


def _refuse_doubles(names: list[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{path}: the vocabulary has {name!r:.100} twice; restore the file")
        seen.add(name)


def _added_tokens(content: dict[str, Any], pieces: list[tuple[str, float]], path: Path) -> dict[str, bool]:
    """The added tokens and whether they are special; those behind the vocabulary are put at the end of `pieces`."""
    added: dict[str, bool] = {}
    tokens = content.get("added_tokens") or []
    names = {name: i for i, (name, _) in enumerate(pieces)}
    for token in tokens if isinstance(tokens, list) else [tokens]:
        match token:
            case {"id": int(id), "content": str(name)} if _is_piece(name):
                added[name] = token.get("special") is True
            case _:
                raise UserError(f"{path}: added token {token!r:.100}, expected id and content; restore the file")
        if name not in names and id == len(pieces) < MAX_VOCAB_SIZE:
            names[name] = id
            pieces.append((name, 0.0))
        if names.get(name) != id:
            raise UserError(f"{path}: added token {name!r:.100} has id {id}, where the vocabulary has another piece")
    return added


def _steps(normalizer: Any, path: Path) -> list[dict[str, Any]]:
    """The steps of the normaliser, one after the other."""
    match normalizer:
        case None:
            return []
        case {"type": "Sequence", "normalizers": list(steps)} if all(map(_is_step, steps)):
            return steps
        case {"type": str(kind)} if kind != "Sequence":
            return [normalizer]
    raise UserError(f"{path}: normalizer is {normalizer!r:.100}, expected an object with a type; restore the file")


def _is_step(step: Any) -> bool:
    return isinstance(step, dict) and isinstance(step.get("type"), str)


def _character_map(steps: list[dict[str, Any]], path: Path) -> bytes:
    """SentencePiece's own normalisation rules, none if the file has none."""
    encoded = next((step.get("precompiled_charsmap") for step in steps if step.get("type") == "Precompiled"), "")
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise UserError(f"{path}: precompiled_charsmap is not in base64; restore the file") from None


def _is_default(character_map: bytes) -> bool:
    """Whether these are SentencePiece's default rules: the released vocabulary's, or those of the installed version."""
    return hashlib.sha256(character_map).hexdigest() in (_RELEASED_CHARACTER_MAP, _installed_character_map())


@cache
def _installed_character_map() -> str:
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    model = _model_proto().FromString(normalizer.serialized_model_proto())
    return hashlib.sha256(model.normalizer_spec.precompiled_charsmap).hexdigest()


def _ends_in_digit_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _looks_like_a_symbol(name: str) -> bool:
    """Transformers 5 calls the user's own pieces special too, like ( and -, once it has read and saved them twice."""
    return len(name) > 2 and name[0] + name[-1] in ("<>", "[]")


def _wordpiece(path: Path) -> UserError:
    return UserError(
        f"{path}: a WordPiece vocabulary, as the Chinese ALBERT models have; only SentencePiece vocabularies are "
        "supported, so tokenize with transformers and give the models ids"
    )


@cache
def _model_proto() -> Any:
    """The message type of SentencePiece's model files; here, because it alone needs protobuf."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto
