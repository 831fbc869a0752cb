"""Where the characters of a normalised text, and the pieces made of them, stand in the text as it was given.

A tagger or a reader of answers has to point into the user's own text, and every step from there to the pieces moves
characters: white space collapses, letters decompose, accents go, capitals may take two characters, SentencePiece
rewrites what is left. Each step here carries a start and an end in the original along. It lies below the tokenizer,
which owns the rules; that both agree on every text is under test.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

_WORD_MARK = "▁"
_WORDS = re.compile(r"\S+")  # what str.split() finds


class AlignedText(NamedTuple):
    """A text and, of each of its characters, the span [start, end) of the original that it came from."""

    text: str
    starts: np.ndarray
    """int64 [len(text)], never falling"""
    ends: np.ndarray
    """int64 [len(text)], never falling"""


def align_normalized(text: str, do_lower_case: bool, keep_accents: bool) -> AlignedText:
    """`AlbertTokenizer.normalize`, character by character.

    Decomposition concerns one character at a time, and the order that it gives to combining characters is of no
    interest where these are dropped. So is the context of lower-casing: it chooses between the two small sigmas, which
    are one character each. A combining character that was dropped belongs to the one before it.
    """
    places: list[int] = []
    words = []
    for match in _WORDS.finditer(text):
        words.append(match[0])
        places.extend(range(match.start(), match.end() + 1))  # with the space behind
    text = " ".join(words)
    starts = np.array(places[: len(text)], np.int64)
    ends = starts + 1
    if not (keep_accents or text.isascii()):
        parts = [_without_accents(character) for character in text]
        counts = np.fromiter(map(len, parts), np.int64, len(parts))
        kept = np.flatnonzero(counts)
        text, starts = "".join(parts), starts[kept].repeat(counts[kept])
        ends = ends[np.append(kept[1:], len(parts))[: len(kept)] - 1].repeat(counts[kept])
    if do_lower_case:
        lowered = text.lower()
        if len(lowered) != len(text):
            counts = np.fromiter((len(character.lower()) for character in text), np.int64, len(text))
            starts, ends = starts.repeat(counts), ends.repeat(counts)
        text = lowered
    return AlignedText(text, starts, ends)


@cache
def _without_accents(character: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))


def align_pieces(aligned: AlignedText, rewritten: str, sources: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """The spans of pieces in the original text.

    Args:
        aligned: what SentencePiece was given.
        rewritten: what its own normaliser made of it, with "▁" for spaces.
        sources: of each character of `rewritten`, the character of `aligned.text` that it came from; and one more, the
            end of what was read.
        sizes: bytes of `rewritten` that each piece takes, from first to last; bytes, because a piece may be one byte.

    Returns:
        int32 [len(sizes), 2]: start and end, neither ever falling from one piece to the next. The "▁" around a piece is
        not part of it; one alone is empty and stands where what follows starts. (Where that lies inside a single
        original character that became several words, it takes that character's span, like all that came of it.)
    """
    if not len(sizes):
        return np.empty((0, 2), np.int32)
    count = len(rewritten)
    begin = np.asarray(sources, np.int64)
    # Up to the next character that came from elsewhere: what is dropped in between belongs to the one before it.
    behind = begin[np.minimum(np.searchsorted(begin, begin[:-1], side="right"), count)]
    starts = aligned.starts[begin[:-1]]
    ends = aligned.ends[np.maximum(behind, begin[:-1] + 1) - 1]

    is_letter = np.fromiter((character != _WORD_MARK for character in rewritten), bool, count)
    index = np.arange(count)
    last_letter = np.maximum.accumulate(np.where(is_letter, index, -1))
    next_letter = np.minimum.accumulate(np.where(is_letter, index, count)[::-1])[::-1]

    codes = np.frombuffer(rewritten.encode(), np.uint8)
    character_of = np.append(np.cumsum((codes & 0xC0) != 0x80) - 1, count)
    bounds = np.minimum(np.cumsum([0, *sizes]), len(codes))
    first = np.append(next_letter, count)[character_of[bounds[:-1]]]
    last = last_letter[character_of[np.maximum(bounds[1:] - 1, 0)]]

    end_of_text = ends[last_letter[-1]] if last_letter[-1] >= 0 else aligned.ends[-1]
    piece_starts = np.append(starts, end_of_text)[first]
    piece_ends = np.where(first <= last, ends[last], 0)
    piece_ends = np.maximum(np.maximum.accumulate(piece_ends), piece_starts)
    return np.stack([piece_starts, piece_ends], axis=1).astype(np.int32)
