"""Documents to ids: the one function that every builder runs, in worker processes or as a Beam step.

It cleans the lines, finds the sentences, encodes stretches of a document with one SentencePiece call, and finds the
sentences again among the ids. All of it works on batches, because per-sentence calls would cost more than the encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from albert_jax.tokenizer import AlbertTokenizer
from data.preparation import PreparedLines, prepare_lines
from data.sentences import sentence_lengths

# SentencePiece is a tenth faster on stretches of some thousand characters than on single lines. Longer ones gain
# nothing, and would cost its sums of 32-bit scores their last digits.
STRETCH_CHARACTERS = 4_000
# What callers should batch: enough for numpy to pay, little enough to stay in the processor's caches.
BATCH_CHARACTERS = 1 << 18
MIN_DOCUMENT_TOKENS = 2  # one for each side of a pair


@dataclass(frozen=True)
class EncodedDocuments:
    """tokens uint16; tokens per sentence and sentences per document, int64; documents left out as too short."""

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    left_out: int


@dataclass
class _Layout:
    """A batch of documents as what SentencePiece gets: stretches of whole lines of one document."""

    lines: PreparedLines
    texts: list[bytes] = field(default_factory=list)  # one per stretch, as the following
    words: list[int] = field(default_factory=list)  # -1: sentences divide within a word
    sentences: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    line_ranges: list[tuple[int, int]] = field(default_factory=list)
    sentence_words: list[int] = field(default_factory=list)  # one per sentence of all stretches


def encode_documents(documents: Sequence[str], tokenizer: AlbertTokenizer, language: str) -> EncodedDocuments:
    """Encodes documents: lines separated by newlines, each a paragraph or a sentence.

    The ids are those of `tokenizer.encode` on the same stretch of text; sentences divide them. Sentences without ids
    disappear, documents of fewer than two are counted in `left_out`. How documents are batched changes nothing.
    Raises UserError for text that is not Unicode (a lone surrogate).
    """
    if not documents:
        return EncodedDocuments(np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.int64), 0)
    lines = prepare_lines(documents, tokenizer.do_lower_case, tokenizer.unchanged_characters)
    layout = _lay_out(documents, lines, language)
    unchanged = np.array([lines.unchanged[first:end].all() for first, end in layout.line_ranges], bool)
    tokens, lengths = tokenizer.encode_normalized(layout.texts, unchanged)
    tokens, sentences, counts = _find_sentences(layout, tokens, lengths, tokenizer, language)
    owners = np.repeat(np.array(layout.documents, np.int64), counts)
    return _leave_out_short(tokens, sentences, owners, len(documents))


def _lay_out(documents: Sequence[str], lines: PreparedLines, language: str) -> _Layout:
    layout = _Layout(lines)
    end = 0
    for number, document in enumerate(documents):
        start, end = end, end + document.count("\n") + 1
        _lay_out_document(layout, number, start, end, language)
    return layout


def _lay_out_document(layout: _Layout, number: int, first: int, end: int, language: str) -> None:
    """Adds the lines from `first` up to `end` as stretches, with the words of each of their sentences."""
    lines, sentence_words = layout.lines, layout.sentence_words
    words, size = 0, 0
    divided = False  # whether a sentence ends within a word
    sentences_before = len(sentence_words)
    for i in range(first, end):
        if hidden := lines.hidden[i]:
            line_words = hidden.count(" ") + 1
            words += line_words
            size += len(hidden)
            start = 0
            for length in sentence_lengths(hidden, language)[:-1]:
                stop = start + length
                divided |= hidden[stop - 1] != " "
                in_sentence = hidden.count(" ", start, stop)
                sentence_words.append(in_sentence)
                line_words -= in_sentence
                start = stop
            sentence_words.append(line_words)
        if words and (size >= STRETCH_CHARACTERS or i == end - 1):
            layout.texts.append(lines.stretch(first, i + 1))
            layout.words.append(-1 if divided else words)
            layout.sentences.append(len(sentence_words) - sentences_before)
            layout.documents.append(number)
            layout.line_ranges.append((first, i + 1))
            words, size, divided = 0, 0, False
            first, sentences_before = i + 1, len(sentence_words)


def _find_sentences(
    layout: _Layout, tokens: np.ndarray, lengths: np.ndarray, tokenizer: AlbertTokenizer, language: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the ids of each stretch at its sentences: returns tokens, tokens per sentence, sentences per stretch.

    Pieces never cross a space and each word's first piece begins with "▁", so the n-th word of a stretch begins at its
    n-th such piece. Where SentencePiece's own normaliser sees other spaces than we do the numbers differ; there, and
    where sentences follow each other without a space, the sentences are encoded one by one.
    """
    word_starts = np.flatnonzero(tokenizer.after_space[tokens])
    ends = np.cumsum(lengths)
    words_before = np.searchsorted(word_starts, np.concatenate([[0], ends]))
    counts = np.array(layout.sentences, np.int64)
    agree = np.diff(words_before) == np.array(layout.words, np.int64)
    if agree.all():
        starts = word_starts[np.cumsum(layout.sentence_words) - layout.sentence_words]
        return tokens, np.diff(starts, append=len(tokens)), counts
    token_parts, sentence_parts = [], []
    first_sentences = np.cumsum(counts) - counts
    for i in range(len(counts)):
        if agree[i]:
            part = tokens[ends[i] - lengths[i] : ends[i]]
            words = np.array(layout.sentence_words[first_sentences[i] : first_sentences[i] + counts[i]])
            starts = word_starts[words_before[i] + np.cumsum(words) - words] - (ends[i] - lengths[i])
            sentences = np.diff(starts, append=len(part))
        else:
            part, sentences = tokenizer.encode_normalized(_separate_sentences(layout, i, language))
        token_parts.append(part)
        sentence_parts.append(sentences)
    return np.concatenate(token_parts), np.concatenate(sentence_parts), counts


def _separate_sentences(layout: _Layout, stretch: int, language: str) -> list[str]:
    sentences = []
    for i in range(*layout.line_ranges[stretch]):
        line, start = layout.lines.line(i).decode(), 0
        for length in sentence_lengths(layout.lines.hidden[i], language) if line else ():
            sentences.append(line[start : start + length].strip(" "))
            start += length
    return sentences


def _leave_out_short(
    tokens: np.ndarray, sentences: np.ndarray, owners: np.ndarray, documents: int
) -> EncodedDocuments:
    """Drops sentences without ids and documents that cannot form a pair; `owners` is the document of each sentence."""
    document_tokens = np.bincount(owners, sentences, documents)
    kept = document_tokens >= MIN_DOCUMENT_TOKENS
    if not kept.all():
        tokens = tokens[np.repeat(kept[owners], sentences)]
        sentences, owners = sentences[kept[owners]], owners[kept[owners]]
    owners, sentences = owners[sentences > 0], sentences[sentences > 0]
    document_lengths = np.bincount(owners, minlength=documents)[kept]
    return EncodedDocuments(tokens, sentences, document_lengths, int(documents - kept.sum()))
