"""Which tokens are masked, and by what: whole-word n-grams, 80 % [MASK], 10 % random, 10 % kept (paper, section
4.1)."""

from typing import NamedTuple

import numpy as np

from albert_jax.inputs.kernels import kernel
from albert_jax.inputs.random import draw, draw_below

SPAN_TRIES = 8
"""Random places tried for an n-gram before all places are listed; at 15 % nearly every first one is free."""


class MaskRules(NamedTuple):
    """What decides the masks."""

    probability: float
    """Share of a sequence's tokens, [CLS] and [SEP] counted, that is predicted."""
    cap: int
    """Most predictions of a sequence (Google's max_predictions_per_seq), 0 for none."""
    max_ngram: int
    mask_id: int
    ordinary_ids: np.ndarray
    """int32: the pieces that may replace a token."""
    rank: np.ndarray
    """int32 [V]: place of each piece in `ordinary_ids`, -1 for special ones, which are never masked."""
    word_starts: np.ndarray
    """bool [V]: pieces that begin a word."""


@kernel
def mask_sequence(
    ids: np.ndarray, length: int, rules: MaskRules, state: np.ndarray, positions: np.ndarray, labels: np.ndarray,
    ngram_counts: np.ndarray, replacement_counts: np.ndarray,
) -> int:  # fmt: skip
    """Masks the first `length` of `ids` in place and returns how many positions it chose.

    `positions` and `labels` get the chosen places in ascending order with their original pieces; their length is the
    most there can be. `ngram_counts` [max_ngram] counts n-grams by length, `replacement_counts` [3] the tokens replaced
    by [MASK], by a random piece, and kept.

    n-grams are drawn with p(n) proportional to 1/n and laid at uniformly random free places until 15 % of the tokens
    are chosen. They are runs of whole words, never touch each other (so that at most `max_ngram` words in a row are
    masked, as the paper says) and never cross [SEP]; in Google's code they may do both, when chance has it. The last
    n-gram may end beyond 15 %, and the goal is set so much lower that 15 % is the mean; so the realised lengths follow
    p(n) without bias, where Google's code prefers short n-grams by fitting them to what is left. A cap below 15 % is
    Google's, and is filled in their way: what does not fit is drawn shorter.
    """
    begins, ends = np.empty(length, np.int32), np.empty(length, np.int32)
    words = _find_words(ids, length, rules, begins, ends)
    if words == 0:
        return 0
    taken = np.zeros(words, np.bool_)
    room = len(positions)
    goal = rules.probability * length - _mean_excess(begins, ends, words, rules.max_ngram)
    goal = np.floor(goal + draw(state))
    if rules.cap > 0:
        goal = min(goal, float(rules.cap))
    harmonic = 0.0
    for n in range(1, rules.max_ngram + 1):
        harmonic += 1.0 / n

    total = 0
    while total == 0 or total < goal:
        n, below = 1, draw(state) * harmonic
        while n < rules.max_ngram and below >= 1.0 / n:
            below -= 1.0 / n
            n += 1
        first = -1
        while n >= 1 and first < 0:
            first = _find_place(begins, ends, words, taken, n, room - total, state)
            n -= first < 0
        if first < 0:
            break
        taken[first : first + n] = True
        total += ends[first + n - 1] - begins[first]
        ngram_counts[n - 1] += 1

    count = 0
    for word in range(words):
        if taken[word]:
            for position in range(begins[word], ends[word]):
                positions[count], labels[count] = position, ids[position]
                ids[position] = _replacement(ids[position], rules, state, replacement_counts)
                count += 1
    return count


@kernel
def _find_words(ids: np.ndarray, length: int, rules: MaskRules, begins: np.ndarray, ends: np.ndarray) -> int:
    """Writes the token range of every word and returns their number. Special pieces belong to none and part words."""
    words, inside = 0, False
    for position in range(length):
        if rules.rank[ids[position]] < 0:
            inside = False
            continue
        if inside and not rules.word_starts[ids[position]]:
            ends[words - 1] = position + 1
            continue
        begins[words], ends[words] = position, position + 1
        words += 1
        inside = True
    return words


@kernel
def _mean_excess(begins: np.ndarray, ends: np.ndarray, words: int, max_ngram: int) -> float:
    """How many tokens beyond a goal the first n-gram to reach it ends, on average: E[S^2] / 2 E[S] - 1/2 for n-grams of
    S tokens (renewal theory). n has E[n] = N / h and E[n^2] = N (N + 1) / 2 h with h = 1 + 1/2 + ... + 1/N."""
    harmonic, mean, square = 0.0, 0.0, 0.0
    for n in range(1, max_ngram + 1):
        harmonic += 1.0 / n
    for word in range(words):
        size = ends[word] - begins[word]
        mean += size / words
        square += size * size / words
    mean_n = max_ngram / harmonic
    mean_n_square = max_ngram * (max_ngram + 1) / 2 / harmonic
    span_square = mean_n * (square - mean * mean) + mean_n_square * mean * mean
    return span_square / (2 * mean_n * mean) - 0.5


@kernel
def _find_place(
    begins: np.ndarray, ends: np.ndarray, words: int, taken: np.ndarray, n: int, room: int, state: np.ndarray
) -> int:
    """A uniformly random word at which an n-gram of at most `room` tokens can be laid, or -1."""
    if n > words:
        return -1
    for _ in range(SPAN_TRIES):
        first = draw_below(state, words - n + 1)
        if _is_free(begins, ends, words, taken, first, n, room):
            return first
    count = 0
    for first in range(words - n + 1):
        count += _is_free(begins, ends, words, taken, first, n, room)
    if count == 0:
        return -1
    chosen = draw_below(state, count)
    for first in range(words - n + 1):
        if _is_free(begins, ends, words, taken, first, n, room):
            if chosen == 0:
                return first
            chosen -= 1
    return -1


@kernel
def _is_free(
    begins: np.ndarray, ends: np.ndarray, words: int, taken: np.ndarray, first: int, n: int, room: int
) -> bool:
    """Whether words [first, first + n) are one run, untaken, fit, and touch no taken word."""
    last = first + n - 1
    if ends[last] - begins[first] > room:
        return False
    for word in range(first, last + 1):
        if taken[word] or (word > first and begins[word] != ends[word - 1]):
            return False
    if first > 0 and taken[first - 1] and ends[first - 1] == begins[first]:
        return False
    return not (last + 1 < words and taken[last + 1] and begins[last + 1] == ends[last])


@kernel
def _replacement(piece: int, rules: MaskRules, state: np.ndarray, counts: np.ndarray) -> int:
    """What stands in for a masked token, decided for each token by itself, as in Google's code."""
    chance = draw(state)
    if chance < 0.8:
        counts[0] += 1
        return rules.mask_id
    if chance < 0.9:
        counts[1] += 1
        other = draw_below(state, len(rules.ordinary_ids) - 1)
        return rules.ordinary_ids[other + (other >= rules.rank[piece])]
    counts[2] += 1
    return piece
