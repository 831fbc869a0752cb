"""The work on single characters, compiled: ALBERT's normalisation, and hiding quotation marks from the
splitter.

In one pass over UTF-8 that costs 3 ns a byte where Python's string methods, each fast, together cost 20; the
encoder has that to spare beside SentencePiece and no more. `albert_jax.tokenizer.clean` stays the definition:
lines with characters that it may change go through it, and tests compare the two on every character.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numba
import numpy as np

from albert_jax.tokenizer import clean, is_altered_by_cleaning

# What stands for a hidden mark, one character each so that positions stay: sentencex takes the tab for white
# space after the full stop, while a space remains what separates words.
_SHOWN_OPENING, _SHOWN_CLOSING = ord("_"), ord("\t")
_ORDINARY, _SPACE, _DROPPED, _MOVED, _OPENING_MARK, _CLOSING_MARK, _STRAIGHT_MARK, _APOSTROPHE = range(8)
_MARKS = (
    ("\u201c\u2018", _OPENING_MARK),
    ("\u201d", _CLOSING_MARK),
    ('"', _STRAIGHT_MARK),
    ("'\u2019", _APOSTROPHE),
)
_NEWLINE, _BLANK = ord("\n"), ord(" ")
LINE_BREAK = b"\n\n"  # what sentencex takes for the end of a paragraph


@dataclass(frozen=True)
class PreparedLines:
    """The lines of some documents.

    text: UTF-8 of all lines, normalised, a space between any two. starts, ends: int64 [lines], where each is.
    hidden: the lines that are not empty in their own case, quotation marks hidden, `LINE_BREAK` between them;
    each character for character as long as in `text`. hidden_is_ascii: bool [lines].
    unchanged: bool [lines], see `AlbertTokenizer.encode_normalized`.
    moved: bool [lines], those that do not stand in `text` between their neighbours.
    """

    text: bytes
    starts: np.ndarray
    ends: np.ndarray
    hidden: bytes
    hidden_is_ascii: np.ndarray
    unchanged: np.ndarray
    moved: np.ndarray

    def line(self, index: int) -> bytes:
        """One line, normalised."""
        return self.text[self.starts[index] : self.ends[index]]

    def stretch(self, first: int, end: int) -> bytes:
        """The lines from `first` up to `end` that are not empty, with a space between them."""
        if not self.moved[first:end].any():
            return self.text[self.starts[first] : self.ends[end - 1]].strip(b" ")
        return b" ".join(filter(None, map(self.line, range(first, end))))

    def only(self, lines: np.ndarray) -> "PreparedLines":
        """The lines that the bool array marks, in the same text; `hidden`, which is for all, is left empty."""
        after_another = np.concatenate([[True], lines[:-1]])
        return PreparedLines(
            text=self.text,
            starts=self.starts[lines],
            ends=self.ends[lines],
            hidden=b"",
            hidden_is_ascii=self.hidden_is_ascii[lines],
            unchanged=self.unchanged[lines],
            moved=(self.moved | ~after_another)[lines],
        )


def prepare_lines(documents: Sequence[bytes], do_lower_case: bool, unchanged: np.ndarray) -> PreparedLines:
    """Normalises documents, which must be UTF-8; line n is line n of b"\\n".join(documents).

    `unchanged` is `AlbertTokenizer.unchanged_characters`.
    """
    text = b"\n".join(documents)
    tables = (*_tables(do_lower_case), unchanged)
    prepared = _prepare(text, tables)
    moved = np.flatnonzero(prepared.moved)
    if not moved.size:
        return prepared
    lines = text.split(b"\n")
    cleaned = [clean(lines[i].decode()) for i in moved]
    more = _prepare("\n".join(map(_lower_rare, cleaned) if do_lower_case else cleaned).encode(), tables)
    hidden = _lines_of(prepared)
    for i, line in zip(moved.tolist(), _lines_of(more), strict=True):
        hidden[i] = line
    for array, source in (
        (prepared.starts, more.starts + len(prepared.text) + 1),
        (prepared.ends, more.ends + len(prepared.text) + 1),
        (prepared.unchanged, more.unchanged),
        (prepared.hidden_is_ascii, more.hidden_is_ascii),
    ):
        array[moved] = source
    return replace(prepared, text=prepared.text + b" " + more.text, hidden=LINE_BREAK.join(filter(None, hidden)))


def _lines_of(prepared: PreparedLines) -> list[bytes]:
    """`hidden` line by line, with the empty ones."""
    hidden = iter(prepared.hidden.split(LINE_BREAK))
    return [next(hidden) if end > start else b"" for start, end in zip(prepared.starts, prepared.ends, strict=True)]


def _lower_rare(line: str) -> str:
    """Lower-cases what the table cannot: the sigma, which depends on its place, and the planes above the
    basic one."""
    lowered = line.lower()
    if len(lowered) != len(line):
        raise AssertionError(f"a character of {line!r} becomes several in lower case")
    return "".join(low if c == "\u03a3" or c > "\uffff" else c for c, low in zip(line, lowered, strict=True))


@cache
def _tables(do_lower_case: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each character of the basic plane: what to do with it (uint8), what it becomes, and that in lower
    case."""
    kinds = np.full(0x10000, _ORDINARY, np.uint8)
    cleaned = np.arange(0x10000, dtype=np.uint32)
    for code in range(0x80, 0x10000):
        character = chr(code)
        if is_altered_by_cleaning(character):
            becomes = clean(character)
            if character.isspace() or becomes == " ":
                kinds[code] = _SPACE
            elif unicodedata.combining(character):
                kinds[code] = _DROPPED
            elif len(becomes) == 1:
                cleaned[code] = ord(becomes)
            else:
                kinds[code] = _MOVED
    kinds[[code for code in range(0x80) if chr(code).isspace()]] = _SPACE
    kinds[cleaned == ord("\u03a3")] = _MOVED  # the capital sigma, whose lower case depends on its place
    for marks, kind in _MARKS:
        kinds[np.isin(cleaned, [ord(mark) for mark in marks])] = kind
    lowered = cleaned.copy()
    if do_lower_case:
        for code, becomes in enumerate(cleaned.tolist()):
            if kinds[code] not in (_SPACE, _DROPPED, _MOVED) and not 0xD800 <= code < 0xE000:
                lowered[code] = ord(chr(becomes).lower())
    # These SentencePiece takes for spaces, so words must be counted that way; where a model does not, the counts
    # differ from what it gives, and the sentences are encoded one by one.
    cleaned[[0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2581, 0xFEFF, 0xFFFD]] = _BLANK
    return kinds, cleaned, lowered


def _prepare(text: bytes, tables: tuple[np.ndarray, ...]) -> PreparedLines:
    """One pass; `moved` are the lines that need `clean`, unless they went through it already."""
    raw = np.frombuffer(text, np.uint8)
    lines = int(np.count_nonzero(raw == _NEWLINE)) + 1
    # A character of two bytes may become one of three, none grows more.
    normal, hidden = (np.empty(2 * len(raw) + 4, np.uint8) for _ in range(2))
    starts, ends = np.zeros((2, lines), np.int64)
    is_unchanged, is_ascii, moved = np.zeros((3, lines), np.bool_)
    kinds, _, lowered, unchanged = tables
    # What each byte becomes where it is the simplest case; 0 where it is not, as for all above ASCII.
    plain = np.zeros(256, np.uint8)
    plain[:128] = np.where((kinds[:128] == _ORDINARY) & unchanged[:128], lowered[:128], 0)
    plain[_BLANK] = _BLANK
    sizes = _run(raw, plain, *tables, normal, hidden, starts, ends, is_unchanged, is_ascii, moved)
    return PreparedLines(
        normal[: sizes[0]].tobytes(), starts, ends, hidden[: sizes[1]].tobytes(), is_ascii, is_unchanged, moved
    )


@numba.njit(cache=True, nogil=True)
def _put(buffer: np.ndarray, size: int, code: int) -> int:
    """Writes one character in UTF-8 and returns the new size."""
    if code < 0x80:
        buffer[size] = code
        return size + 1
    if code < 0x800:
        buffer[size] = 0xC0 | code >> 6
        buffer[size + 1] = 0x80 | code & 0x3F
        return size + 2
    if code < 0x10000:
        buffer[size] = 0xE0 | code >> 12
        buffer[size + 1] = 0x80 | code >> 6 & 0x3F
        buffer[size + 2] = 0x80 | code & 0x3F
        return size + 3
    buffer[size] = 0xF0 | code >> 18
    buffer[size + 1] = 0x80 | code >> 12 & 0x3F
    buffer[size + 2] = 0x80 | code >> 6 & 0x3F
    buffer[size + 3] = 0x80 | code & 0x3F
    return size + 4


@numba.njit(cache=True, nogil=True)
def _run(raw, plain, kinds, cleaned, lowered, unchanged, text, hidden, starts, ends, is_unchanged, is_ascii, moved):
    """Fills the seven arrays at the end; returns the sizes of text and hidden. One line is one turn of the
    outer loop."""
    text_size = hidden_size = i = 0
    total = len(raw)
    for line in range(len(starts)):
        if text_size:
            text[text_size] = _BLANK
            text_size += 1
        start = starts[line] = text_size
        is_unchanged[line] = is_ascii[line] = True
        hidden_start = hidden_size
        if hidden_size:
            hidden[hidden_size] = hidden[hidden_size + 1] = _NEWLINE
            hidden_size += 2
        while i < total:
            byte = raw[i]
            if plain[byte]:
                # Most of most text: letters, digits and single spaces.
                i += 1
                if byte == _BLANK and (text_size == start or text[text_size - 1] == _BLANK):
                    continue
                text[text_size] = plain[byte]
                hidden[hidden_size] = byte
                text_size += 1
                hidden_size += 1
                continue
            if byte == _NEWLINE:
                break
            first = np.int64(raw[i])
            if first < 0x80:
                code = first
                i += 1
            elif first < 0xE0:
                code = (first & 0x1F) << 6 | np.int64(raw[i + 1]) & 0x3F
                i += 2
            elif first < 0xF0:
                code = (first & 0x0F) << 12 | (np.int64(raw[i + 1]) & 0x3F) << 6 | np.int64(raw[i + 2]) & 0x3F
                i += 3
            else:
                code = (first & 7) << 18 | (np.int64(raw[i + 1]) & 0x3F) << 12
                code |= (np.int64(raw[i + 2]) & 0x3F) << 6 | np.int64(raw[i + 3]) & 0x3F
                i += 4
            kind = _MOVED
            shown = low = code
            if code < 0x10000:
                kind = np.int64(kinds[code])
                shown = np.int64(cleaned[code])
                low = np.int64(lowered[code])
            if kind == _SPACE:
                if text_size > start and text[text_size - 1] != _BLANK:
                    text[text_size] = hidden[hidden_size] = _BLANK
                    text_size += 1
                    hidden_size += 1
                continue
            if kind == _DROPPED:
                continue
            if kind == _MOVED:
                moved[line] = True
            is_unchanged[line] &= low < 0x10000 and unchanged[low]
            if kind >= _OPENING_MARK:
                last = hidden[hidden_size - 1] if text_size > start else _BLANK
                # Behind a space, a bracket, a dash (of which this is the last byte) or another opening mark.
                may_open = last in (_BLANK, 0x28, 0x5B, 0x94, _SHOWN_OPENING)
                if kind == _OPENING_MARK or (kind != _CLOSING_MARK and may_open):
                    shown = _SHOWN_OPENING
                elif kind != _APOSTROPHE or i == total or raw[i] <= _BLANK:
                    shown = _SHOWN_CLOSING
            text_size = _put(text, text_size, low)
            is_ascii[line] &= shown < 0x80
            hidden_size = _put(hidden, hidden_size, shown)
        i += 1
        if text_size > start and text[text_size - 1] == _BLANK:
            text_size -= 1
            hidden_size -= 1
        ends[line] = text_size
        if text_size == start:
            hidden_size = hidden_start
    return text_size, hidden_size
