"""Documents to ids: the one function that every builder runs, in worker processes or as a Beam step.

It cleans the lines, finds the sentences, encodes stretches of a document with one SentencePiece call, and
finds the sentences again among the ids. All of it works on batches, because per-sentence calls would cost
more than the encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numba
import numpy as np

from albert_jax.tokenizer import AlbertTokenizer
from data.preparation import PreparedLines, prepare_lines
from data.sentences import Sentences, find_sentences, separate_sentences

# SentencePiece is a tenth faster on stretches of some thousand bytes than on single lines. Longer ones gain
# nothing, and would cost its sums of 32-bit scores their last digits.
STRETCH_BYTES = 8_000
# What callers should batch: enough for numpy to pay, little enough to stay in the processor's caches.
BATCH_BYTES = 1 << 18
MIN_DOCUMENT_TOKENS = 2  # one for each side of a pair


@dataclass(frozen=True)
class EncodedDocuments:
    """tokens uint16; tokens per sentence and sentences per document, int64; documents left out as too
    short."""

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    left_out: int


@dataclass
class _Layout:
    """A batch of documents as what SentencePiece gets: stretches of whole lines of one document."""

    texts: list[bytes] = field(default_factory=list)  # one per stretch, as the following
    documents: list[int] = field(default_factory=list)
    line_ranges: list[tuple[int, int]] = field(default_factory=list)


def encode_documents(documents: Sequence[bytes], tokenizer: AlbertTokenizer, language: str) -> EncodedDocuments:
    """Encodes documents: UTF-8, lines separated by newlines, each a paragraph or a sentence.

    The ids are those of `tokenizer.encode` on the same stretch of text; sentences divide them. Sentences
    without ids disappear, documents of fewer than two are counted in `left_out`. How documents are batched
    changes nothing.
    """
    lines = prepare_lines(documents, tokenizer.do_lower_case, tokenizer.unchanged_characters)
    layout = _lay_out(documents, lines)
    if not layout.texts:
        return EncodedDocuments(np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.int64), len(documents))
    unchanged = np.array([lines.unchanged[first:end].all() for first, end in layout.line_ranges])
    tokens, lengths = tokenizer.encode_normalized(layout.texts, unchanged)
    found = find_sentences(lines, language)
    tokens, sentences, counts = _cut_at_sentences(
        layout, lines, found, tokens=tokens, lengths=lengths, tokenizer=tokenizer
    )
    owners = np.repeat(np.array(layout.documents), counts)
    return _leave_out_short(tokens, sentences, owners, len(documents))


def _lay_out(documents: Sequence[bytes], lines: PreparedLines) -> _Layout:
    layout = _Layout()
    sizes = (lines.ends - lines.starts).tolist()
    end = 0
    for number, document in enumerate(documents):
        first, end = end, end + document.count(b"\n") + 1
        size = 0
        for i in range(first, end):
            size += sizes[i]
            if size >= STRETCH_BYTES or (size and i == end - 1):
                layout.texts.append(lines.stretch(first, i + 1))
                layout.documents.append(number)
                layout.line_ranges.append((first, i + 1))
                first, size = i + 1, 0
    return layout


def _cut_at_sentences(
    layout: _Layout,
    lines: PreparedLines,
    found: Sentences,
    *,
    tokens: np.ndarray,
    lengths: np.ndarray,
    tokenizer: AlbertTokenizer,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the ids of each stretch at its sentences: returns tokens, tokens per sentence, sentences per
    stretch.

    Pieces never cross a space and each word's first piece begins with "▁", so the n-th word of a stretch
    begins at its n-th such piece. Where SentencePiece's own normaliser sees other spaces than we do the
    numbers differ; there, and where sentences follow each other without a space, the sentences are encoded
    one by one.
    """
    first_lines, end_lines = np.array(layout.line_ranges).T
    # Lines between stretches are empty, so the sentences of the stretches follow each other.
    sentences_before = np.concatenate([[0], np.cumsum(found.per_line)])
    first_sentences, end_sentences = sentences_before[first_lines], sentences_before[end_lines]
    words_before = np.concatenate([[0], np.cumsum(found.words)])
    word_starts = _positions(tokens, tokenizer.after_space)
    text_ends = np.cumsum(lengths)
    pieces_before = np.searchsorted(word_starts, np.concatenate([[0], text_ends]))
    agree = np.diff(pieces_before) == words_before[end_sentences] - words_before[first_sentences]
    divided_before = np.concatenate([[0], np.cumsum(found.divided)])
    agree &= divided_before[end_lines] == divided_before[first_lines]
    counts = end_sentences - first_sentences
    if agree.all():
        return tokens, np.diff(word_starts[words_before[:-1]], append=len(tokens)), counts
    token_parts, length_parts = [], []
    for i, text_end in enumerate(text_ends):
        if agree[i]:
            part = tokens[text_end - lengths[i] : text_end]
            words = words_before[first_sentences[i] : end_sentences[i]] - words_before[first_sentences[i]]
            starts = word_starts[pieces_before[i] + words] - (text_end - lengths[i])
            length_parts.append(np.diff(starts, append=len(part)))
        else:
            part, sentence_lengths = tokenizer.encode_normalized(
                separate_sentences(lines, found, *layout.line_ranges[i])
            )
            length_parts.append(sentence_lengths)
        token_parts.append(part)
    return np.concatenate(token_parts), np.concatenate(length_parts), counts


@numba.njit(cache=True, nogil=True)
def _positions(tokens: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the tokens are that `wanted` is true for; numpy would make three arrays on the way."""
    positions = np.empty(len(tokens), np.int64)
    count = 0
    for i in range(len(tokens)):
        positions[count] = i
        count += wanted[tokens[i]]
    return positions[:count]


def _leave_out_short(tokens: np.ndarray, sentences: np.ndarray, owners: np.ndarray, documents: int) -> EncodedDocuments:
    """Drops sentences without ids and documents that cannot form a pair; `owners` is the document of each
    sentence."""
    document_tokens = np.bincount(owners, sentences, documents)
    kept = document_tokens >= MIN_DOCUMENT_TOKENS
    if not kept.all():
        tokens = tokens[np.repeat(kept[owners], sentences)]
        sentences, owners = sentences[kept[owners]], owners[kept[owners]]
    owners, sentences = owners[sentences > 0], sentences[sentences > 0]
    document_lengths = np.bincount(owners, minlength=documents)[kept]
    return EncodedDocuments(tokens, sentences, document_lengths, int(documents - kept.sum()))
