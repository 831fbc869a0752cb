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

# A piece that begins so continues the sentence before it: `"Why?" he asked`, `(See below.)`, `30.—Went ashore`.
_CONTINUES = frozenset(")]}\u2014\u2013-.,;:!?\u2026*\t ")


def check_language(language: str) -> None:
    """Raises UserError for what cannot be a language code: sentencex would silently fall back on English rules."""
    if re.fullmatch("[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", language) is None:
        raise UserError(f"language is {language!r}, expected an ISO 639 code such as en, de or pt-br")


def sentence_lengths(line: str, language: str) -> list[int]:
    """The lengths of the sentences of a line of `PreparedLines.hidden`; they add up to the line's length.

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
