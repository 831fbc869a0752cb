"""Text to ids and back, as Google's ALBERT does it: normalise, SentencePiece, then the digit-comma split.

It stands alone, below everything else, because the offline corpus builder, the online batches and every task
read
the same vocabulary and must agree on it to the byte: `AlbertTokenizer.fingerprint` is what they compare.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece

from albert_jax.alignment import align_normalized, align_pieces
from albert_jax.errors import UserError
from albert_jax.files import MAX_JSON_BYTES, read_file
from albert_jax.sequences import EncodedBatch, Encoding, Padding, Truncation, join, pad

PAD, UNK, CLS, SEP, MASK = "<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"
WORD_MARK = "▁"  # SentencePiece's stand-in for the space before a word
MAX_VOCAB_SIZE = 65_536  # corpora are uint16
MODEL_FILE, CONFIG_FILE = "spiece.model", "tokenizer_config.json"
MAX_FILE_BYTES = 2**25  # a vocabulary of 65,536 long pieces takes a third of that
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
_SURROGATES = re.compile("[\ud800-\udfff]")


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

    def __init__(
        self, model_bytes: bytes, do_lower_case: bool = True, keep_accents: bool = False, *, name: str = MODEL_FILE
    ):
        """`name` is what error messages call the model. Raises UserError for a model ALBERT cannot use."""
        self.model_bytes = model_bytes
        self.do_lower_case = do_lower_case
        self.keep_accents = keep_accents
        self._processor = _load_model(model_bytes, name)
        self.vocab_size = self._processor.get_piece_size()
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise UserError(
                f"{name}: vocabulary of {self.vocab_size:,} pieces; corpora hold ids in 16 bits, so at most "
                f"{MAX_VOCAB_SIZE:,} fit. Train one with a smaller --vocab_size."
            )
        try:
            self._pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: has a piece that is no text ({error}); restore the file") from None
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
        settings: dict[str, bool | int] = {"do_lower_case": do_lower_case, "rules": RULES_VERSION}
        # Only when it is set: what was encoded before the option existed keeps its fingerprint.
        settings |= {"keep_accents": True} if keep_accents else {}
        self.fingerprint = hashlib.sha256(
            json.dumps(settings, sort_keys=True).encode() + b"\n" + model_bytes
        ).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path, do_lower_case: bool = True, keep_accents: bool = False) -> "AlbertTokenizer":
        """Reads a SentencePiece model file. Raises UserError when it is missing, is none, or lacks ALBERT's
        symbols."""
        path = Path(path)
        if path.is_dir():
            raise UserError(f"{path} is a folder, expected a SentencePiece model file such as {path / MODEL_FILE}")
        if not path.exists():
            raise UserError(f"{path}: no such tokenizer model; train one with data/train_vocab.py")
        return cls(read_file(path, MAX_FILE_BYTES), do_lower_case, keep_accents, name=str(path))

    @classmethod
    def load(cls, directory: str | Path) -> "AlbertTokenizer":
        """Reads what `save` wrote, any folder with one SentencePiece model, like Google's with 30k-clean.model, or a
        run's.

        What tokenizer_config.json leaves open is ALBERT's default: lower-casing, without accents.
        """
        directory = Path(directory)
        if directory.is_file():
            return cls.from_file(directory, **read_settings(directory.parent))
        if not directory.exists():
            raise UserError(
                f"{directory}: no such folder; the tokenizer of a model on the hub is "
                "AlbertModel.from_pretrained(NAME).tokenizer"
            )
        if (directory / "tokenizer").is_dir():
            directory = directory / "tokenizer"
        return cls.from_file(find_model(directory) or directory / MODEL_FILE, **read_settings(directory))

    def save(self, directory: str | Path, *, model_max_length: int = 512) -> None:
        """Writes the model and its settings into `directory`, which is made if absent.

        The settings are all that Hugging Face's tokenizers ask for; `model_max_length` is theirs, for truncation.
        """
        directory = Path(directory)
        # A literal [MASK] in a text is the symbol there, and takes the space in front of it along.
        mask = {"content": MASK, "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
        config = {
            "tokenizer_class": "AlbertTokenizer",
            "do_lower_case": self.do_lower_case,
            "keep_accents": self.keep_accents,
            "remove_space": True,
            "model_max_length": model_max_length,
            # Without this, version 5 of transformers gives both texts of a pair the same segment.
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "bos_token": CLS,
            "cls_token": CLS,
            "eos_token": SEP,
            "sep_token": SEP,
            "pad_token": PAD,
            "unk_token": UNK,
            "mask_token": {"__type": "AddedToken", **mask},
        }
        write_file(directory / MODEL_FILE, self.model_bytes)
        write_file(directory / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())

    def normalize(self, text: str) -> str:
        """Collapses white space, decomposes (NFKD), drops combining characters, lower-cases: in Google's
        order. With `keep_accents` neither of the two in the middle; with `do_lower_case=False` not the last.

        White space goes first, so a space that NFKD makes (of "…" with a no-break space, say) survives, as
        there.
        """
        text = " ".join(text.split()) if self.keep_accents else clean(text)
        return text.lower() if self.do_lower_case else text

    def encode(self, text: str) -> list[int]:
        """The ids of any text, without [CLS] and [SEP]. Empty or blank text gives none."""
        try:
            ids = self._processor.encode(self.normalize(text))
        except RuntimeError as error:
            raise _explain(error, [text]) from error
        if self._digit_comma_splits.keys().isdisjoint(ids):
            return ids
        return [new for i in ids for new in self._digit_comma_splits.get(i, (i,))]

    def encode_with_offsets(self, text: str) -> tuple[list[int], np.ndarray]:
        """`encode`, and where each piece stands: int32 [len(ids), 2], its start and end in characters of `text`.

        The spans are without the white space around the pieces, with the accents that normalising drops, and neither
        starts nor ends ever fall. A "▁" alone has an empty span, where what follows starts. A character that becomes
        several pieces ("½") is the span of each.
        """
        aligned = align_normalized(text, self.do_lower_case, self.keep_accents)
        try:
            pieces = self._processor.encode(aligned.text, return_type="proto").pieces
        except RuntimeError as error:
            raise _explain(error, [text]) from error
        ids: list[int] = []
        sizes: list[int] = []
        for piece in pieces:
            if piece.id in self._digit_comma_splits:
                ids += self._digit_comma_splits[piece.id]
                sizes += self._digit_comma_sizes[piece.id]
            else:
                ids.append(piece.id)
                # The surface, not the vocabulary's spelling, of what is unknown; bytes where the vocabulary has them.
                sizes.append(1 if self._processor.is_byte(piece.id) else len(piece.piece.encode()))
        rewritten, sources = self._processor.normalize(aligned.text, with_offsets=True)
        return ids, align_pieces(aligned, rewritten, sources, sizes)

    def build(
        self,
        text: str,
        pair: str | None = None,
        *,
        truncation: Truncation = "none",
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Encoding:
        """One sequence for the model: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

        Args:
            truncation: what gives way, from its end, where the sequence is longer than `max_length`: the longer of
                the two until they are equal, then both (longest_first); one of them only, of which at least one piece
                must stay; or nothing. Lengths are those of Hugging Face's fast tokenizers: of an odd number of places
                that both have to share, the longer text gets the last, and `pair` where they are equally long.
            max_length: at most so many ids, [CLS] and [SEP] included.

        Raises:
            UserError: the sequence is too long and must not, or cannot, be truncated.
        """
        sides = [self._encode_side(side, offsets) for side in ((text,) if pair is None else (text, pair))]
        return join(sides, self.cls_id, self.sep_id, truncation, max_length)

    def _encode_side(self, text: str, offsets: bool) -> tuple[list[int], np.ndarray | None]:
        if not isinstance(text, str):
            raise UserError(f"a text is {text!r}, expected str; for words in a list, join them with spaces")
        return self.encode_with_offsets(text) if offsets else (self.encode(text), None)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        truncation: Truncation = "none",
        max_length: int | None = None,
        padding: Padding = "longest",
        pad_to_multiple_of: int = 1,
        offsets: bool = False,
    ) -> EncodedBatch:
        """`build` of each text, with its pair if there are `pairs`, padded at the end to one length.

        Args:
            texts: several, or one for a batch of one.
            truncation, max_length, offsets: see `build`.
            padding: to the longest sequence, or to `max_length`.
            pad_to_multiple_of: round that up. 8 or 64 gives a compiled model fewer shapes to meet.
        """
        texts, pairs = ([side] if isinstance(side, str) else side for side in (texts, pairs))
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"{len(texts)} texts but {len(pairs)} pairs; give each text its own")
        rows = []
        for i, text in enumerate(texts):
            try:
                pair = None if pairs is None else pairs[i]
                rows.append(self.build(text, pair, truncation=truncation, max_length=max_length, offsets=offsets))
            except UserError as error:
                raise UserError(f"texts[{i}]: {error}") from None
        return pad(rows, self.pad_id, padding, max_length, pad_to_multiple_of, offsets)

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
        try:
            if unchanged is None:
                arrays = [self._processor.encode(text, return_type="numpy") for text in texts]
            else:
                processors = (self._processor, self._bare_processor)
                arrays = [
                    processors[bare].encode(text, return_type="numpy")
                    for text, bare in zip(texts, unchanged.tolist(), strict=True)
                ]
        except RuntimeError as error:
            raise _explain(error, texts) from error
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
        return AlbertTokenizer, (self.model_bytes, self.do_lower_case, self.keep_accents)

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
        splits: dict[int, tuple[int, ...]] = {}
        self._digit_comma_sizes: dict[int, tuple[int, ...]] = {}  # bytes of each of the new pieces
        for old, piece in enumerate(self._pieces):
            if len(piece) < 2 or piece[-1] != "," or not piece[-2].isdigit() or self._is_special(old):
                continue
            parts = self._processor.encode(piece[:-1].replace(WORD_MARK, ""), out_type=str)
            if not piece.startswith(WORD_MARK) and parts[0].startswith(WORD_MARK):
                parts[0] = parts[0][len(WORD_MARK) :]
            splits[old] = tuple(self.piece_to_id(part) for part in [*parts, ","] if part)
            sizes = [len(part.encode()) for part in [*parts, ","] if part]
            # All of the old piece, also in a vocabulary that puts no "▁" in front of what is encoded again.
            sizes[0] = max(0, sizes[0] + len(piece.encode()) - sum(sizes))
            self._digit_comma_sizes[old] = tuple(sizes)
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


def find_model(directory: Path) -> Path | None:
    """The SentencePiece model in a folder: spiece.model, or else the only file named *.model; None without any."""
    if (directory / MODEL_FILE).exists():
        return directory / MODEL_FILE
    found = sorted(directory.glob("*.model"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{directory}: several tokenizer models ({names}); rename the right one to {MODEL_FILE}")
    return found[0] if found else None


def read_settings(directory: Path) -> dict[str, bool]:
    """do_lower_case and keep_accents of the folder's tokenizer_config.json, as far as it is there and has them."""
    path = directory / CONFIG_FILE
    if not path.exists():
        return {}
    content = read_file(path, MAX_JSON_BYTES)
    try:
        config = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON object ({error}); restore the file") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object ({type(config).__name__}); restore the file")
    settings = {name: config[name] for name in ("do_lower_case", "keep_accents") if name in config}
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise UserError(f"{path}: {name} is {value!r}, expected true or false")
    return settings


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, its folder too if absent."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; give a folder that can be") from None


def _explain(failure: RuntimeError, texts: Sequence[str | bytes]) -> Exception:
    """Why SentencePiece did not take one of the texts, if it is what a user can do something about."""
    for text in texts:
        if isinstance(text, str) and (found := _SURROGATES.search(text)):
            return UserError(
                f"a text has half a surrogate pair, U+{ord(found[0]):04X}, at character {found.start()}, which no "
                'UTF-8 can hold; repair it with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
            )
    return failure


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
