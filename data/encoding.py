"""Documents to ids: what every builder runs, in worker processes or as a Beam step.

It cleans the lines, finds the sentences, and takes the ids of their words from a table that SentencePiece
fills. Where words cannot be told apart before SentencePiece saw the text, it encodes stretches of a document
instead, and the sentences are found again among the ids. All of it works on batches, because per-sentence
calls would cost more than the encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from albert_jax.tokenizer import AlbertTokenizer
from data.preparation import PreparedLines, prepare_lines
from data.sentences import Sentences, find_sentences, separate_sentences
from data.words import MAX_WORDS, WordTable

# SentencePiece is a tenth faster on stretches of some thousand bytes than on single lines. Longer ones gain
# nothing, and would cost its sums of 32-bit scores their last digits.
STRETCH_BYTES = 8_000
# What callers should batch. SentencePiece is called once for the new words of a batch, in a thread of its own,
# which with a quarter of this costs a tenth of the build; more gains nothing.
BATCH_BYTES = 1 << 20
MIN_DOCUMENT_TOKENS = 2  # one for each side of a pair


@dataclass(frozen=True)
class EncodedDocuments:
    """tokens uint16; tokens per sentence and sentences per document, int64; documents left out as too
    short."""

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    left_out: int


class DocumentEncoder:
    """Encodes documents; keeps the words it has seen, which makes the next ones faster and changes nothing else."""

    def __init__(self, tokenizer: AlbertTokenizer, language: str, max_words: int = MAX_WORDS):
        self._tokenizer, self._language = tokenizer, language
        self._words = WordTable(tokenizer.encode_words, max_words)

    def encode(self, documents: Sequence[bytes]) -> EncodedDocuments:
        """Encodes documents: UTF-8, lines separated by newlines, each a paragraph or a sentence.

        The ids are those of `tokenizer.encode` on the same text; sentences divide them. Sentences without ids
        disappear, documents of fewer than two are counted in `left_out`. How documents are batched changes
        nothing.
        """
        if not documents:
            return EncodedDocuments(np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.int64), 0)
        tokenizer = self._tokenizer
        lines = prepare_lines(documents, tokenizer.do_lower_case, tokenizer.unchanged_characters)
        found = find_sentences(lines, self._language)
        owners = np.repeat(np.arange(len(documents)), [document.count(b"\n") + 1 for document in documents])
        # SentencePiece's character map may make spaces or take them away, so what it may change is not cut.
        by_word = lines.unchanged & ~found.divided & tokenizer.words_are_independent
        tokens, sentences = _encode_stretches(lines.only(~by_word), found.only(~by_word), owners[~by_word], tokenizer)
        if by_word.any():
            numbers = self._words.look_up(lines.text, lines.starts[by_word], lines.ends[by_word])
            apart = np.repeat(~by_word, found.per_line)
            tokens, sentences = self._words.join(numbers, found.words, apart=apart, tokens=tokens, lengths=sentences)
        return _leave_out_short(tokens, sentences, np.repeat(owners, found.per_line), len(documents))


def _encode_stretches(
    lines: PreparedLines, found: Sentences, owners: np.ndarray, tokenizer: AlbertTokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Gives all text to SentencePiece, in stretches of whole lines of one document: returns tokens, and tokens
    per sentence.

    `owners` is the document of each line.
    """
    texts, line_ranges = _lay_out(lines, owners)
    if not texts:
        return np.empty(0, np.uint16), np.empty(0, np.int64)
    unchanged = np.array([lines.unchanged[first:end].all() for first, end in line_ranges])
    tokens, lengths = tokenizer.encode_normalized(texts, unchanged)
    return _cut_at_sentences(line_ranges, lines, found, tokens=tokens, lengths=lengths, tokenizer=tokenizer)


def _lay_out(lines: PreparedLines, owners: np.ndarray) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The stretches, and the range of lines of each; lines between them are empty."""
    texts, line_ranges = [], []
    sizes = (lines.ends - lines.starts).tolist()
    is_last = (np.diff(owners, append=-1) != 0).tolist()
    first = size = 0
    for i, last in enumerate(is_last):
        size += sizes[i]
        if size >= STRETCH_BYTES or (size and last):
            texts.append(lines.stretch(first, i + 1))
            line_ranges.append((first, i + 1))
        if size >= STRETCH_BYTES or last:
            first, size = i + 1, 0
    return texts, line_ranges


def _cut_at_sentences(
    line_ranges: list[tuple[int, int]],
    lines: PreparedLines,
    found: Sentences,
    *,
    tokens: np.ndarray,
    lengths: np.ndarray,
    tokenizer: AlbertTokenizer,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the ids of each stretch at its sentences: returns tokens, and tokens per sentence.

    Pieces never cross a space and each word's first piece begins with "▁", so the n-th word of a stretch
    begins at its n-th such piece. Where SentencePiece's own normaliser sees other spaces than we do the
    numbers differ; there, and where sentences follow each other without a space, the sentences are encoded
    one by one.
    """
    first_lines, end_lines = np.array(line_ranges).T
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
    if agree.all():
        return tokens, np.diff(word_starts[words_before[:-1]], append=len(tokens))
    token_parts, length_parts = [], []
    for i, text_end in enumerate(text_ends):
        if agree[i]:
            part = tokens[text_end - lengths[i] : text_end]
            words = words_before[first_sentences[i] : end_sentences[i]] - words_before[first_sentences[i]]
            starts = word_starts[pieces_before[i] + words] - (text_end - lengths[i])
            length_parts.append(np.diff(starts, append=len(part)))
        else:
            part, sentence_lengths = tokenizer.encode_normalized(separate_sentences(lines, found, *line_ranges[i]))
            length_parts.append(sentence_lengths)
        token_parts.append(part)
    return np.concatenate(token_parts), np.concatenate(length_parts)


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
