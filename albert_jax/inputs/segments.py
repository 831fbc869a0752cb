"""How documents become pairs of segments: the walk over a document's sentences that gives each epoch its examples.

An epoch reads every document once, from its first sentence to its last, in chunks of whole sentences; a chunk is split
into two segments, which sentence-order prediction shows in order or swapped. Where a chunk starts names its random
stream, so any example can be made again from (seed, epoch, shard, token) alone.
"""

from typing import NamedTuple

import numpy as np

from albert_jax.inputs.kernels import kernel
from albert_jax.inputs.random import derive, draw, draw_below, stream

SENTENCE_ORDER, NEXT_SENTENCE, NO_OBJECTIVE = 0, 1, 2
OBJECTIVES = {"sop": SENTENCE_ORDER, "nsp": NEXT_SENTENCE, "none": NO_OBJECTIVE}

SPECIAL_TOKENS = 3
"""[CLS] A [SEP] B [SEP]."""


class BrokenOffsets(Exception):
    """A shard's offsets lead out of it: its files are not those that were opened. What reads them is compiled, and
    would read whatever lies beyond."""


class Text(NamedTuple):
    """A shard as the kernels see it; see `albert_jax.inputs.corpus.Shard`."""

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray


class Rules(NamedTuple):
    """What decides the segments."""

    capacity: int
    """Most tokens of both segments together: the sequence length less `SPECIAL_TOKENS`."""
    short_probability: float
    objective: int
    word_starts: np.ndarray
    """bool [V]: pieces that begin a word."""


class Pair(NamedTuple):
    """First segment tokens[a:a_end], second tokens[b:b_end], label 1 where they are swapped (or, for next-sentence
    prediction, unrelated); then where the document's next chunk starts: a sentence and a token."""

    a: int
    a_end: int
    b: int
    b_end: int
    label: int
    next_sentence: int
    next_token: int


@kernel
def make_pair(text: Text, rules: Rules, document: int, sentence: int, token: int, key: np.uint64) -> Pair:
    """The pair of the chunk that starts at `token`, in sentence `sentence` of `document`.

    The chunk takes whole sentences up to the target length: `capacity`, or with `short_probability` a uniform smaller
    one (paper, section 4.1; drawn for each chunk, where Google's code draws once for a pass over the document). A
    sentence that would not fit starts the next chunk, so that nothing is cut off and segments are true neighbours;
    Google's code overfills and truncates. Two segments need two sentences: a short target is exceeded for the second
    one. Where there is only one (the document's last, or one that is too long to be joined by another), it is split
    between two words; Google's code would fill up from another document, which is next-sentence prediction (its issue
    234). The paper's objective is followed: consecutive segments of one document, always. No chunk leaves a lone token
    at the document's end, which could not become a pair: one with room takes it along, a full one leaves it company.

    Raises `BrokenOffsets` before it reads a token beyond the text, and for segments that are empty or too long.
    """
    sentences = text.sentences
    state = stream(derive(key, token))
    last = np.int64(text.documents[document + 1])
    if not sentence < last < len(sentences):
        raise BrokenOffsets
    document_end = np.int64(sentences[last])
    if not token < document_end <= len(text.tokens):
        raise BrokenOffsets
    target = rules.capacity
    if draw(state) < rules.short_probability:
        target = 2 + draw_below(state, rules.capacity - 1)

    end, stop = sentence + 1, np.int64(sentences[sentence + 1])
    while end < last and sentences[end + 1] - token <= rules.capacity:
        if stop - token >= target and end - sentence >= 2:
            break
        end += 1
        stop = np.int64(sentences[end])
    if document_end - stop == 1:
        if document_end - token <= rules.capacity:
            end, stop = last, document_end
        elif sentences[end - 1] - token >= 2:
            end -= 1
            stop = np.int64(sentences[end])

    lone_start = sentences[sentence + 1] - token == 1
    if stop - token > rules.capacity or stop - token < 2 or document_end - stop == 1:
        # A sentence that is too long, perhaps after one of a single token: as much of it as there is room for.
        longest = min(token + rules.capacity, document_end - 2)
        stop = _last_word_start(text.tokens, rules.word_starts, token + 2, longest)
        end = sentence + lone_start
        middle_sentence = end
        if lone_start:
            middle = token + 1
        else:
            middle = _random_word_start(text.tokens, rules.word_starts, token + 1, stop, state)
    elif stop > document_end:
        raise BrokenOffsets
    elif end - sentence >= 2:
        middle_sentence = sentence + 1 + draw_below(state, end - sentence - 1)
        middle = np.int64(sentences[middle_sentence])
    else:
        middle_sentence = sentence
        middle = _random_word_start(text.tokens, rules.word_starts, token + 1, stop, state)

    if not token < middle < stop <= document_end or stop - token > rules.capacity:
        raise BrokenOffsets
    random_half = draw(state) < 0.5
    if rules.objective == NEXT_SENTENCE and random_half:
        first = middle - token
        b, b_end = _other_segment(text, rules, document, rules.capacity - first, target - first, state)
        # What was to be the second segment is still unread.
        return Pair(token, middle, b, b_end, 1, middle_sentence, middle)
    if rules.objective == SENTENCE_ORDER and random_half:
        return Pair(middle, stop, token, middle, 1, end, stop)
    return Pair(token, middle, middle, stop, 0, end, stop)


@kernel
def _last_word_start(tokens: np.ndarray, word_starts: np.ndarray, low: int, high: int) -> int:
    """The last word start in [low, high], or `high` where no word starts."""
    for position in range(high, low - 1, -1):
        if word_starts[tokens[position]]:
            return position
    return high


@kernel
def _random_word_start(tokens: np.ndarray, word_starts: np.ndarray, low: int, high: int, state: np.ndarray) -> int:
    """A uniformly random word start in [low, high), or any position where no word starts."""
    count = 0
    for position in range(low, high):
        count += word_starts[tokens[position]]
    if count == 0:
        return low + draw_below(state, high - low)
    chosen = draw_below(state, count)
    for position in range(low, high):
        if word_starts[tokens[position]]:
            if chosen == 0:
                return position
            chosen -= 1
    return low


@kernel
def _other_segment(
    text: Text, rules: Rules, document: int, room: int, wanted: int, state: np.ndarray
) -> tuple[int, int]:
    """Sentences of another document of the shard, from a random one that fits on, until `wanted` tokens, at most
    `room`.

    They are whole like those of a true second segment: cut ones would give the label away. Only where no sentence of
    the document fits is one cut, before a word.
    """
    documents, sentences = text.documents, text.sentences
    other = draw_below(state, len(documents) - 2)
    other += other >= document
    first, last = np.int64(documents[other]), np.int64(documents[other + 1])
    if not first < last < len(sentences):
        raise BrokenOffsets
    chosen = first + draw_below(state, last - first)
    for _ in range(last - first):
        if sentences[chosen + 1] - sentences[chosen] <= room:
            break
        chosen = chosen + 1 if chosen + 1 < last else first
    start, end = np.int64(sentences[chosen]), chosen + 1
    while end < last and sentences[end] - start < wanted and sentences[end + 1] - start <= room:
        end += 1
    stop = np.int64(sentences[end])
    if not start < stop <= len(text.tokens):
        raise BrokenOffsets
    if stop - start > room:
        stop = _last_word_start(text.tokens, rules.word_starts, start + 1, start + room)
    return start, stop


@kernel
def plan(
    text: Text, rules: Rules, key: np.uint64, documents: np.ndarray, sentences: np.ndarray, tokens: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Walks over the whole shard and writes where each example starts, and how many tokens it has with its special
    ones, into the four arrays, as far as they reach.

    Returns how many examples there are of each length, int64 [sequence length + 1]; called with empty arrays it only
    counts.
    """
    counts = np.zeros(rules.capacity + SPECIAL_TOKENS + 1, np.int64)
    count = 0
    for document in range(len(text.documents) - 1):
        sentence, last = np.int64(text.documents[document]), np.int64(text.documents[document + 1])
        if not sentence < last < len(text.sentences):
            raise BrokenOffsets
        token = np.int64(text.sentences[sentence])
        # A lone token at the end is left unread only where next-sentence prediction put another segment in its place.
        while sentence < last and text.sentences[last] - token >= 2:
            pair = make_pair(text, rules, document, sentence, token, key)
            length = pair.a_end - pair.a + pair.b_end - pair.b + SPECIAL_TOKENS
            if count < len(tokens):
                documents[count], sentences[count], tokens[count] = document, sentence, token
                lengths[count] = length
            count += 1
            counts[length] += 1
            sentence, token = pair.next_sentence, pair.next_token
    return counts
