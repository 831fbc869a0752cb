"""Where sentences end: sentencex, told to look inside quotations.

sentencex (Wikimedia) is the only well-kept splitter fast enough to vanish beside SentencePiece, but it takes
a quotation for one unit however many sentences it holds. Hiding the quotation marks from it, and joining what
begins in lower case to what came before, removes nine in ten of its errors on dialogue; docs/data.md has the
measurements.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numba
import numpy as np
import sentencex

from albert_jax.errors import UserError
from data.preparation import PreparedLines

SPLITTER = {"name": "sentencex", "version": version("sentencex"), "rules": 1}

# A piece that begins so continues the sentence before it: `"Why?" he asked`, `(See below.)`, `30.—Went
# ashore`.
_CONTINUES = frozenset(")]}\u2014\u2013-.,;:!?\u2026*\t ")


def check_language(language: str) -> None:
    """Raises UserError for what cannot be a language code: sentencex would silently fall back on English
    rules."""
    if re.fullmatch("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", language) is None:
        raise UserError(f"language is {language!r}, expected an ISO 639 code such as en, de or pt-br")


@dataclass(frozen=True)
class Sentences:
    """The sentences of `PreparedLines`, none of which spans lines.

    words, characters: int64 [sentences], the spaces behind a sentence counted with it. per_line: int64
    [lines], how many sentences. divided: bool [lines], whether one ends without a space behind it, as in
    Chinese.
    """

    words: np.ndarray
    characters: np.ndarray
    per_line: np.ndarray
    divided: np.ndarray


def find_sentences(prepared: PreparedLines, language: str) -> Sentences:
    """Splits every line. `language` is an ISO 639 code, see `check_language`."""
    lengths: list[int] = []
    pieces = np.zeros(len(prepared.hidden), np.int64)
    segment = sentencex.segment
    for i, (line, is_single) in enumerate(zip(prepared.hidden, prepared.single.tolist(), strict=True)):
        if is_single:
            pieces[i] = line != ""
            lengths.extend([len(line)] if line else ())
        else:
            found = segment(language, line)
            pieces[i] = len(found)
            lengths.extend(map(len, found))
    words = np.zeros((2, len(lengths)), np.int64)
    per_line, divided = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), np.bool_)
    raw = np.frombuffer(prepared.hidden_utf8, np.uint8)
    count = _join(raw, np.array(lengths, np.int64), pieces, _continuing(), *words, per_line, divided)
    return Sentences(words[0, :count], words[1, :count], per_line, divided)


def separate_sentences(lines: PreparedLines, found: Sentences, first_line: int, end_line: int) -> list[str]:
    """The sentences of some lines, each as text of its own."""
    sentence = int(found.per_line[:first_line].sum())
    sentences = []
    for i in range(first_line, end_line):
        line, start = lines.line(i).decode(), 0
        for length in found.characters[sentence : sentence + found.per_line[i]].tolist():
            sentences.append(line[start : start + length].strip(" "))
            start += length
        sentence += int(found.per_line[i])
    return sentences


@cache
def _continuing() -> np.ndarray:
    """bool [65536]: whether a piece that begins with the character continues the sentence before it."""
    return np.array([chr(code) in _CONTINUES or chr(code).islower() for code in range(0x10000)])


@numba.njit(cache=True, nogil=True)
def _join(  # noqa: PLR0917
    raw, lengths, pieces, continuing, words, characters, per_line, divided
):
    """Joins the pieces to sentences and counts their words; fills the four arrays at the end, returns how
    many."""
    sentence, piece, i = -1, 0, 0
    for line in range(len(pieces)):
        size = 0
        for number in range(pieces[line]):
            size += lengths[piece + number]
        # The newline stands where it does in ASCII: then a character is a byte, and counting needs no
        # decoding.
        is_ascii = i + size == len(raw) or raw[i + size] == 10
        last = 0
        for number in range(pieces[line]):
            length = lengths[piece]
            first = np.int64(raw[i])
            if 0xC0 <= first < 0xE0:
                first = (first & 0x1F) << 6 | np.int64(raw[i + 1]) & 0x3F
            elif 0xE0 <= first < 0xF0:
                first = (
                    (first & 0x0F) << 12 | (np.int64(raw[i + 1]) & 0x3F) << 6 | np.int64(raw[i + 2]) & 0x3F
                )
            if not (number > 0 and (continuing[first] or (last != 32 and last < 0x80))):
                sentence += 1
                per_line[line] += 1
                divided[line] |= number > 0 and last != 32
            end = i + length
            if not is_ascii:
                end = i
                for _ in range(length):
                    end += 1
                    while end < len(raw) and raw[end] & 0xC0 == 0x80:
                        end += 1
            spaces = 0
            for j in range(i, end):
                spaces += raw[j] == 32
            last = np.int64(raw[end - 1])
            i = end
            characters[sentence] += length
            words[sentence] += spaces
            piece += 1
        if pieces[line]:
            words[sentence] += 1
        i += 1
    return sentence + 1
