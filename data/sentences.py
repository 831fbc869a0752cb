"""Where sentences end: sentencex, told to look inside quotations.

sentencex (Wikimedia) is the only well-kept splitter fast enough to vanish beside SentencePiece, but it takes a quotation
for one unit however many sentences it holds. Hiding the quotation marks from it, and joining what begins in lower case
to what came before, removes nine in ten of its errors on dialogue; docs/data.md has the measurements.
"""

import re
from importlib.metadata import version

import sentencex

from albert_jax.errors import UserError

SPLITTER = {"name": "sentencex", "version": version("sentencex"), "rules": 1}

# What stands for a hidden mark: one character each, so that offsets stay. sentencex takes the tab for white space after
# the full stop, and we do not count it as a space between words.
_OPENING, _CLOSING = "_", "\t"
_BEFORE_OPENING = frozenset(["", " ", "\n", "(", "[", "—"])
_AFTER_CLOSING = frozenset(["", " ", "\n"])
# A piece that begins so continues the sentence before it: `"Why?" he asked`, `(See below.)`, `30.—Went ashore`.
_CONTINUES = frozenset(")]}—–-.,;:!?…*\t ")


def check_language(language: str) -> None:
    """Raises UserError for what cannot be a language code: sentencex would silently fall back on English rules."""
    if re.fullmatch("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", language) is None:
        raise UserError(f"language is {language!r}, expected an ISO 639 code such as en, de or pt-br")


def hide_quotation_marks(lines: list[str]) -> list[str]:
    """The lines with every quotation mark replaced by one neutral character, as `sentence_lengths` wants them."""
    text = "\n".join(lines).replace("“", _OPENING).replace("”", _CLOSING).replace("‘", _OPENING)
    for mark in "\"'’":
        text = _hide(text, mark)
    return text.split("\n")


def _hide(text: str, mark: str) -> str:
    """Hides a mark that serves on both sides, or as an apostrophe, by what stands beside it."""
    before, *parts = text.split(mark)
    pieces = [before]
    for part in parts:
        if before[-1:] in _BEFORE_OPENING:
            pieces.append(_OPENING)
        elif mark == '"' or part[:1] in _AFTER_CLOSING:
            pieces.append(_CLOSING)
        else:
            pieces.append(mark)
        pieces.append(part)
        before = part
    return "".join(pieces)


def sentence_lengths(line: str, language: str) -> list[int]:
    """The lengths of the sentences of a line from `hide_quotation_marks`; they add up to the line's length.

    A sentence that ends in ASCII has a space behind it, which is counted with it. `language` is an ISO 639 code.
    """
    lengths: list[int] = []
    last = " "
    for piece in sentencex.segment(language, line):
        first = piece[0]
        if lengths and (first in _CONTINUES or first.islower() or (last != " " and last.isascii())):
            lengths[-1] += len(piece)
        else:
            lengths.append(len(piece))
        last = piece[-1]
    return lengths
