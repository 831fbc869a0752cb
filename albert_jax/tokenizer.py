"""Text to ids and back, as Google's ALBERT does it: normalise, SentencePiece, then the digit-comma split.

It stands alone, below everything else, because the offline corpus builder, the online batches and every task
read
the same vocabulary and must agree on it to the byte: `AlbertTokenizer.fingerprint` is what they compare.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece

from albert_jax.errors import UserError

PAD, UNK, CLS, SEP, MASK = "<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"
WORD_MARK = "▁"  # SentencePiece's stand-in for the space before a word
MAX_VOCAB_SIZE = 65_536  # corpora are uint16
MODEL_FILE, CONFIG_FILE = "spiece.model", "tokenizer_config.json"
# Changes whenever the same model file would give other ids, so that corpora of the old rules are refused.
RULES_VERSION = 1
# How a model file names SentencePiece's default rules, before the rules themselves; and what, behind a model
# file, overrides them with none (protobuf merges a repeated message): field 3 holding name "identity" and an
# empty map.
_DEFAULT_NORMALIZER = b"\x0a\x08nmt_nfkc\x12"
_NO_CHARACTER_MAP = b"\x1a\x0c\x0a\x08identity\x12\x00"

_PUNCTUATION = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~')  # Google's list: no apostrophe, no < = >
# Scripts written without spaces between words, by how Unicode names their characters.
_UNSPACED_SCRIPTS = (
    "CJK ",
    "HIRAGANA ",
    "KATAKANA ",
    "BOPOMOFO ",
    "THAI ",
    "LAO ",
    "KHMER ",
    "MYANMAR ",
    "TIBETAN ",
)
_RARE_PLANES = re.compile("[\U00010000-\U0010ffff]")


class AlbertTokenizer:
    """A SentencePiece vocabulary with ALBERT's normalisation. Build with `from_file` or `load`; never
    changes.

    Attributes:
        vocab_size: number of pieces, at most 65,536.
        pad_id, unk_id, cls_id, sep_id, mask_id: 0, 1, 2, 3, 4 in the released vocabulary.
        special_ids: sorted ids of the control, unknown and unused pieces; text never produces the control
        ones.
        ordinary_ids: int32 [vocab_size - len(special_ids)], all the others.
        word_starts: bool [vocab_size], see `is_word_start`.
        after_space: bool [vocab_size], whether the piece begins with "▁", which stands for the space before
        it.
        fingerprint: sha256 in hex over the model file and the settings. Equal fingerprints give equal ids.
        model_bytes: the model file.
    """

    def __init__(self, model_bytes: bytes, do_lower_case: bool = True, *, name: str = MODEL_FILE):
        """`name` is what error messages call the model. Raises UserError for a model ALBERT cannot use."""
        self.model_bytes = model_bytes
        self.do_lower_case = do_lower_case
        self._processor = _load_model(model_bytes, name)
        self.vocab_size = self._processor.get_piece_size()
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(
                f"{name}: vocabulary of {self.vocab_size:,} pieces; corpora hold ids in 16 bits, so at most "
                f"{MAX_VOCAB_SIZE:,} fit. Train one with a smaller --vocab_size."
            )
        self._pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self._find_special_ids(name)
        self.special_ids = tuple(i for i in range(self.vocab_size) if self._is_special(i))
        special = np.zeros(self.vocab_size, bool)
        special[list(self.special_ids)] = True
        self.ordinary_ids = np.flatnonzero(~special).astype(np.int32)
        self.word_starts = np.array([is_word_start(piece) for piece in self._pieces])
        self.after_space = np.array([piece.startswith(WORD_MARK) for piece in self._pieces])
        self._digit_comma_splits = self._split_digit_commas()
        self._is_digit_comma = np.zeros(self.vocab_size, bool)
        self._is_digit_comma[list(self._digit_comma_splits)] = True
        settings = json.dumps({"do_lower_case": do_lower_case, "rules": RULES_VERSION}, sort_keys=True)
        self.fingerprint = hashlib.sha256(settings.encode() + b"\n" + model_bytes).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path, do_lower_case: bool = True) -> "AlbertTokenizer":
        """Reads a SentencePiece model file. Raises UserError when it is missing, is none, or lacks ALBERT's
        symbols."""
        path = Path(path)
        if path.is_dir():
            raise UserError(f"{path} is a folder, expected a SentencePiece model file such as {path / MODEL_FILE}")
        try:
            model_bytes = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such tokenizer model; train one with data/train_vocab.py") from None
        except OSError as error:
            raise UserError(f"{path}: cannot read the tokenizer model: {error.strerror}") from None
        return cls(model_bytes, do_lower_case, name=str(path))

    @classmethod
    def load(cls, directory: str | Path) -> "AlbertTokenizer":
        """Reads what `save` wrote; a folder with only the model file is taken as lower-casing, ALBERT's
        default."""
        directory = Path(directory)
        config_path = directory / CONFIG_FILE
        do_lower_case = True
        if config_path.exists():
            try:
                do_lower_case = json.loads(config_path.read_text("utf-8")).get("do_lower_case", True)
            except (ValueError, AttributeError, OSError) as error:
                raise UserError(f"{config_path}: not a JSON object ({error}); restore the file") from None
            if not isinstance(do_lower_case, bool):
                raise UserError(f"{config_path}: do_lower_case is {do_lower_case!r}, expected true or false")
        return cls.from_file(directory / MODEL_FILE, do_lower_case)

    def save(self, directory: str | Path) -> None:
        """Writes the model and its settings into `directory`, which is made if absent."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self.model_bytes)
        config = {
            "tokenizer_class": "AlbertTokenizer",
            "do_lower_case": self.do_lower_case,
            "keep_accents": False,
            "remove_space": True,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def normalize(self, text: str) -> str:
        """Collapses white space, decomposes (NFKD), drops combining characters, lower-cases: in Google's
        order.

        White space goes first, so a space that NFKD makes (of "…" with a no-break space, say) survives, as
        there.
        """
        text = clean(text)
        return text.lower() if self.do_lower_case else text

    def encode(self, text: str) -> list[int]:
        """The ids of any text, without [CLS] and [SEP]. Empty or blank text gives none."""
        ids = self._processor.encode(self.normalize(text))
        if self._digit_comma_splits.keys().isdisjoint(ids):
            return ids
        return [new for i in ids for new in self._digit_comma_splits.get(i, (i,))]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, as uint16 arrays; several times faster on many texts."""
        tokens, lengths = self.encode_normalized([self.normalize(text) for text in texts])
        return np.split(tokens, np.cumsum(lengths)[:-1]) if len(texts) else []

    def encode_normalized(
        self, texts: Sequence[str | bytes], unchanged: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of texts that went through `normalize` already, end to end: the fast path for corpora.

        Args:
            texts: str, or bytes in UTF-8.
            unchanged: bool [len(texts)], true where a text has only `unchanged_characters`; saves a tenth of
            the time.

        Returns:
            tokens, uint16 [total], and lengths, int64 [len(texts)].
        """
        if not texts:
            return np.empty(0, np.uint16), np.empty(0, np.int64)
        # One call per text: a call with a list runs in a thread of its own, which costs more than it saves.
        if unchanged is None:
            arrays = [self._processor.encode(text, return_type="numpy") for text in texts]
        else:
            processors = (self._processor, self._bare_processor)
            arrays = [
                processors[bare].encode(text, return_type="numpy")
                for text, bare in zip(texts, unchanged.tolist(), strict=True)
            ]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        # Every id is below 65,536: checked when the model was loaded.
        return self._with_digit_commas_split(np.concatenate(arrays).astype(np.uint16), lengths)

    def encode_words(self, words: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """`encode_normalized` of single words that have only `unchanged_characters`, several times faster."""
        ids = self._bare_processor.encode(words, num_threads=1)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens = np.fromiter(chain.from_iterable(ids), np.uint16, lengths.sum())
        return self._with_digit_commas_split(tokens, lengths)

    @cached_property
    def words_are_independent(self) -> bool:
        """Whether the ids of a text of `unchanged_characters` are those of its words, one behind the other.

        So it is where no piece crosses a space (`split_by_whitespace`, as Google trained), every word gets a
        "▁" in front, and unknown characters of neighbouring words do not become one unknown piece.
        """
        if any(" " in piece or WORD_MARK in piece[1:] for piece in self._pieces):
            return False
        processor = self._bare_processor
        # Private characters, of which few vocabularies have even one.
        unknown = next((c for c in map(chr, range(0xE000, 0xF900)) if not any(c in p for p in self._pieces)), None)
        if unknown is None or processor.normalize("  a  b ") != f"{WORD_MARK}a{WORD_MARK}b":
            return False
        return processor.encode(f"{unknown} {unknown}") == 2 * processor.encode(unknown)

    @cached_property
    def unchanged_characters(self) -> np.ndarray:
        """bool [65536]: the characters that the model's own normaliser surely leaves alone, beside one
        another too.

        Only letters and signs of the alphabets that have capitals, and punctuation: nothing that combines,
        and so none of the sequences that the normaliser composes. None at all for a normaliser other than
        SentencePiece's default.
        """
        unchanged = np.zeros(0x10000, bool)
        if _DEFAULT_NORMALIZER in self.model_bytes:
            for code in (*range(0x21, 0x530), *range(0x2010, 0x2028), *range(0x20A0, 0x20C0)):
                character = chr(code)
                if unicodedata.combining(character) == 0:
                    unchanged[code] = self._processor.normalize(f"a{character}a") == f"{WORD_MARK}a{character}a"
            unchanged[ord(" ")] = True
        return unchanged

    @cached_property
    def _bare_processor(self) -> sentencepiece.SentencePieceProcessor:
        """The same model without its character map, for texts that the map leaves alone."""
        return _load_model(self.model_bytes + _NO_CHARACTER_MAP, MODEL_FILE)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, as normalised; control symbols give nothing, unknown pieces " ⁇ "."""
        return self._processor.decode([int(i) for i in ids])

    def id_to_piece(self, id: int) -> str:
        return self._pieces[id]

    def piece_to_id(self, piece: str) -> int:
        """The id of a piece, `unk_id` for one that is not in the vocabulary."""
        return self._ids.get(piece, self.unk_id)

    def __reduce__(self):
        # Worker processes get the model file and build their own processor.
        return AlbertTokenizer, (self.model_bytes, self.do_lower_case)

    def _find_special_ids(self, name: str) -> list[int]:
        missing = [piece for piece in (PAD, UNK, CLS, SEP, MASK) if piece not in self._ids]
        if missing:
            raise UserError(
                f"{name}: the vocabulary has no {', '.join(missing)}; ALBERT needs {PAD}, {UNK}, {CLS}, "
                f"{SEP} and {MASK}. Train one with data/train_vocab.py."
            )
        for piece in (PAD, CLS, SEP, MASK):
            if not self._is_special(self._ids[piece]):
                raise UserError(
                    f"{name}: {piece} is an ordinary piece, which text could produce; it must be a control "
                    "symbol. "
                    "Train the vocabulary with data/train_vocab.py."
                )
        return [self._ids[piece] for piece in (PAD, UNK, CLS, SEP, MASK)]

    def _is_special(self, id: int) -> bool:
        processor = self._processor
        return processor.is_control(id) or processor.is_unknown(id) or processor.is_unused(id)

    def _split_digit_commas(self) -> dict[int, tuple[int, ...]]:
        """What replaces each piece that ends in digit and comma: the number's own pieces, then the comma.

        The new pieces depend on the old piece alone, so they are worked out once per vocabulary. Where the
        old piece stood inside a word, the "▁" that re-encoding puts in front is taken away again. That is
        what Google's code means to do and did under Python 2; under Python 3 it compares str with bytes and
        leaves the spurious "▁" (google-research/albert issues 85 and 249). Hugging Face's slow tokenizer
        follows the intention too.
        """
        splits = {}
        for old, piece in enumerate(self._pieces):
            if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit() or self._is_special(old):
                continue
            parts = self._processor.encode(piece[:-1].replace(WORD_MARK, ""), out_type=str)
            if not piece.startswith(WORD_MARK) and parts[0].startswith(WORD_MARK):
                parts[0] = parts[0][len(WORD_MARK) :]
            splits[old] = tuple(self.piece_to_id(part) for part in [*parts, ","] if part)
        return splits

    def _with_digit_commas_split(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Replaces the pieces that end in digit and comma, and counts what that adds to each text."""
        where = np.flatnonzero(self._is_digit_comma.take(tokens))
        if not where.size:
            return tokens, lengths
        splits = [self._digit_comma_splits[i] for i in tokens[where].tolist()]
        counts = np.fromiter(map(len, splits), np.int64, len(splits))
        repeats = np.ones(len(tokens), np.int64)
        repeats[where] = counts
        new_tokens = np.repeat(tokens, repeats)
        # The i-th replaced token now starts where its old place was, moved by what those before it added.
        starts = where + np.concatenate([[0], np.cumsum(counts - 1)[:-1]])
        places = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        new_tokens[places] = np.concatenate([np.array(split, np.uint16) for split in splits])
        texts = np.searchsorted(np.cumsum(lengths), where, side="right")
        return new_tokens, lengths + np.bincount(texts, counts - 1, len(lengths)).astype(np.int64)


def is_word_start(piece: str) -> bool:
    """Whether a piece begins a word, for whole-word masking.

    Google's rule (`_is_start_piece_sp`) calls a piece a continuation only if it has no "▁" and consists of
    the letters a-z, A-Z and ASCII punctuation, more than a lone punctuation mark; digits and the apostrophe
    always start a word. For other alphabets that made every piece a word (google-research/albert issue 161),
    so here the letters and combining marks of every script that puts spaces between words count as letters.
    Scripts without spaces (CJK, kana, Thai, Lao, Khmer, Myanmar, Tibetan) keep one piece = one word. On ASCII
    pieces the two rules agree.
    """
    if piece.startswith((WORD_MARK, "<")) or piece in _PUNCTUATION:
        return True
    return not all(map(_continues_word, piece))


@cache
def _continues_word(character: str) -> bool:
    if character.isascii():
        return character.isalpha() or character in _PUNCTUATION
    if unicodedata.category(character)[0] not in "LM":
        return False
    return not unicodedata.name(character, "CJK ").startswith(_UNSPACED_SCRIPTS)


def clean(text: str) -> str:
    """`AlbertTokenizer.normalize` without the lower-casing, for what needs the case, like sentence
    splitting."""
    text = " ".join(text.split())
    if text.isascii() or not _altered_by_cleaning().search(text):
        return text
    text = _combining_characters().sub("", unicodedata.normalize("NFKD", text))
    if _RARE_PLANES.search(text):
        text = "".join(c for c in text if not unicodedata.combining(c))
    return text


@cache
def _altered_by_cleaning() -> re.Pattern:
    """Matches the characters beyond ASCII that `clean` may change: white space, combining, decomposable.

    A class over the basic plane alone compiles to a bitmap and costs 3 ns per character; ranges of the planes
    above would be searched one by one for every character, so those planes are taken whole.
    """
    suspects = (c for c in map(chr, range(0x80, 0x10000)) if is_altered_by_cleaning(c))
    return re.compile(f"[{''.join(suspects)}{_RARE_PLANES.pattern[1:-1]}]")


def is_altered_by_cleaning(character: str) -> bool:
    """Whether `clean` may change text with this character in it."""
    return (
        character.isspace()
        or unicodedata.combining(character) != 0
        or unicodedata.normalize("NFKD", character) != character
    )


@cache
def _combining_characters() -> re.Pattern:
    """Matches runs of the basic plane's combining characters."""
    return re.compile(f"[{''.join(c for c in map(chr, range(0x80, 0x10000)) if unicodedata.combining(c))}]+")


def _load_model(model_bytes: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(model_bytes) and processor.LoadFromSerializedProto(model_bytes)
    except Exception:  # the binding raises RuntimeError, ValueError or its own kinds, by version
        loaded = False
    if not loaded or processor.get_piece_size() == 0:
        raise UserError(
            f"{name}: not a SentencePiece model ({len(model_bytes):,} bytes); give the .model file that "
            "data/train_vocab.py wrote, or ALBERT's released 30k-clean.model"
        )
    return processor
