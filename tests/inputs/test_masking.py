"""Masks, counted again from the batches alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from recount import (
    awkward_documents,
    deviation,
    make_batches,
    masked_runs,
    random_documents,
    take_examples,
    vocabulary,
    words_of,
    write_corpus,
)

from albert_jax.inputs.masking import MaskRules, mask_sequence
from albert_jax.inputs.random import key_of, stream
from albert_jax.objectives import batch_statistics, summarize
from albert_jax.tasks.pretraining import STATISTICS, device_fields


@pytest.fixture(scope="module", params=["synthetic", "real"])
def text(request):
    """Each test on made-up and on real text."""
    return request.getfixturevalue("prose" if request.param == "synthetic" else "real_text")


@pytest.fixture(scope="module")
def examples(text):
    """About 100,000 masked tokens."""
    corpus, tokenizer = text
    return take_examples(make_batches(corpus, tokenizer, length=512), tokenizer, 1500)


def _shares(max_ngram: int) -> np.ndarray:
    weights = 1 / np.arange(1, max_ngram + 1)
    return weights / weights.sum()


@pytest.mark.parametrize("length", [8, 16, 64, 512])
def test_awkward_sequences_are_masked_by_whole_words_and_never_at_special_pieces(tmp_path, length):
    documents = awkward_documents(length - 3) + random_documents(10, 800, seed=4)
    tokenizer = vocabulary(len(documents))
    corpus = write_corpus(tmp_path / "corpus", documents)
    special = set(tokenizer.special_ids)
    for max_ngram in (1, 3, 8):
        batches = make_batches(corpus, tokenizer, length=length, max_ngram=max_ngram)
        for example in take_examples(batches, tokenizer, 1500):
            runs = masked_runs(example, tokenizer)
            assert all(example.original[position] not in special for position in example.positions)
            assert max(runs, default=0) <= max_ngram
            assert [runs.count(n) for n in range(1, max_ngram + 1)] == example.ngram_counts
            shortest = min((end - begin for begin, end in words_of(example, tokenizer)), default=np.inf)
            assert example.positions or shortest > batches.predictions


def test_masked_words_are_whole_and_their_runs_are_the_ngrams(text, examples):
    _, tokenizer = text
    for example in examples:
        runs = masked_runs(example, tokenizer)
        assert [runs.count(n) for n in (1, 2, 3)] == example.ngram_counts
        assert len(runs) == sum(example.ngram_counts)


def test_fifteen_percent_of_the_tokens_are_masked(text):
    corpus, tokenizer = text
    for length in (32, 128, 512):
        batches = make_batches(corpus, tokenizer, length=length, seed=length)
        sequences = take_examples(batches, tokenizer, 2000)
        excess = np.array([len(example.positions) - 0.15 * len(example.original) for example in sequences])
        # The shortest sequences get more, one word at least.
        excess = excess[[len(example.original) >= 20 for example in sequences]]
        error = excess.std() / np.sqrt(len(excess))
        assert abs(excess.mean()) < 4 * error + 0.05


def test_replacements_are_80_10_10_percent_token_by_token(text, examples):
    _, tokenizer = text
    counts = np.zeros(3, int)
    for example in examples:
        for position in example.positions:
            shown, original = example.shown[position], example.original[position]
            counts[0 if shown == tokenizer.mask_id else 2 if shown == original else 1] += 1
    assert counts.tolist() == np.sum([example.replacement_counts for example in examples], 0).tolist()
    assert all(deviation(n, counts.sum(), p) < 4 for n, p in zip(counts, (0.8, 0.1, 0.1), strict=True))


def test_the_treatment_of_a_token_does_not_depend_on_its_neighbour(text, examples):
    _, tokenizer = text
    both = pairs = 0
    for example in examples:
        for one, two in zip(example.positions, example.positions[1:], strict=False):
            if two == one + 1:
                pairs += 1
                both += example.shown[one] == example.shown[two] == tokenizer.mask_id
    assert deviation(both, pairs, 0.64) < 4


def test_what_is_not_masked_is_shown_as_it_is(examples):
    for example in examples:
        places = set(range(len(example.shown))) - set(example.positions)
        assert all(example.shown[place] == example.original[place] for place in places)


@pytest.mark.parametrize("max_ngram", [1, 2, 3, 5])
def test_ngram_lengths_follow_one_over_n(text, max_ngram):
    corpus, tokenizer = text
    batches = make_batches(corpus, tokenizer, length=512, max_ngram=max_ngram, seed=max_ngram)
    runs = [run for example in take_examples(batches, tokenizer, 600) for run in masked_runs(example, tokenizer)]
    for n, share in enumerate(_shares(max_ngram), 1):
        assert share == 1 or deviation(runs.count(n), len(runs), share) < 4


def test_a_random_piece_is_uniform_over_the_ordinary_ones_and_differs(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_documents(5, 60_000, seed=1))
    tokenizer = vocabulary(5)
    counts = np.zeros(tokenizer.vocab_size, int)
    for example in take_examples(make_batches(corpus, tokenizer, length=512), tokenizer, 1500):
        for position in example.positions:
            piece = example.shown[position]
            if piece not in (tokenizer.mask_id, example.original[position]):
                counts[piece] += 1
    assert counts[list(tokenizer.special_ids)].sum() == 0
    counts = counts[tokenizer.ordinary_ids]
    expected = counts.sum() / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # A piece never replaces itself, and frequent ones are masked more: expectations differ by below 0.5 %.
    assert expected > 30 and abs(chi_square - (len(counts) - 1)) < 4 * np.sqrt(2 * len(counts))


@pytest.mark.parametrize("length", [64, 128, 512])
def test_a_cap_is_kept_and_filled(text, length):
    corpus, tokenizer = text
    batches = make_batches(corpus, tokenizer, length=length, max_predictions_per_sequence=20)
    examples = take_examples(batches, tokenizer, 500)
    assert batches.predictions == 20
    assert max(len(example.positions) for example in examples) <= 20
    long = [example for example in examples if 0.15 * len(example.original) > 25]
    filled = sum(len(example.positions) == 20 for example in long)
    assert bool(long) == (length == 512) and filled == len(long)


def test_the_places_for_predictions_suffice(text, examples):
    corpus, tokenizer = text
    places = make_batches(corpus, tokenizer, length=512).predictions
    assert places == 80
    assert np.mean([len(example.positions) == places for example in examples]) < 0.02


def _mask_plain_sequences(count: int, words: int, max_ngram: int) -> np.ndarray:
    """How often each of the one-piece words of two equal segments is masked."""
    vocab_size = 100
    rank = np.arange(vocab_size, dtype=np.int32) - 5
    rank[:5] = -1
    rules = MaskRules(0.15, 0, max_ngram, 4, np.arange(5, vocab_size, dtype=np.int32), rank, np.ones(vocab_size, bool))
    length = 2 * words + 3
    original = np.full(length, 50, np.int32)
    original[[0, words + 1, length - 1]] = 2, 3, 3
    hits = np.zeros(length, int)
    for index in range(count):
        positions, labels = np.zeros(length, np.int32), np.zeros(length, np.int32)
        found = mask_sequence(
            original.copy(), length, rules, stream(key_of(9, index)), positions, labels,
            np.zeros(max_ngram, np.int32), np.zeros(3, np.int32),
        )  # fmt: skip
        hits[positions[:found]] += 1
    return hits


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_every_word_is_as_likely_to_be_masked_but_for_the_ends_of_segments(max_ngram):
    count, words = 8000, 60
    hits = _mask_plain_sequences(count, words, max_ngram)
    assert hits[[0, words + 1, 2 * words + 2]].sum() == 0
    first, second = hits[1 : words + 1], hits[words + 2 : -1]
    inner = np.concatenate([first[8:-8], second[8:-8]])
    mean = inner.mean()
    # Which words are masked together is not independent, which only narrows the counts.
    assert np.abs(inner - mean).max() < 4 * np.sqrt(mean)
    ends = np.array([first[0], first[-1], second[0], second[-1]])
    # An n-gram can hold a word at an end in 1 place only, elsewhere in n, which is 18/11 on average.
    shortfall = 1 - ends / mean
    assert np.all(np.abs(shortfall - {1: 0.0, 3: 0.33}[max_ngram]) < 4 / np.sqrt(mean) + 0.03)
    assert deviation(ends[:2].sum(), ends.sum(), 0.5) < 4


def test_logged_statistics_agree_with_the_recount(text):
    corpus, tokenizer = text
    batches = make_batches(corpus, tokenizer, length=128, size=256)
    features = {name: jnp.asarray(array) for name, array in device_fields(batches.batch(3)).items()}
    logged = summarize(
        {name: float(value) for name, value in batch_statistics(*(features[name] for name in STATISTICS)).items()}
        | dict(mlm_loss=0.0, mlm_hits=0.0, mlm_weight=1.0, sop_loss=0.0, sop_hits=0.0, sop_weight=256.0)
    )
    examples = take_examples(batches, tokenizer, 4 * 256)[3 * 256 :]
    tokens = sum(len(example.original) for example in examples)
    masked = [(e.shown[p], e.original[p]) for e in examples for p in e.positions]
    runs = [run for example in examples for run in masked_runs(example, tokenizer)]
    replaced = sum(shown == tokenizer.mask_id for shown, _ in masked)
    kept = sum(shown == original for shown, original in masked)
    recount = dict(
        mask_rate=len(masked) / tokens,
        padding=1 - tokens / (256 * 128),
        swapped=sum(example.label for example in examples) / 256,
        mask_replaced=replaced / len(masked),
        kept=kept / len(masked),
        random_replaced=1 - (replaced + kept) / len(masked),
        **{f"ngram_{n}": runs.count(n) / len(runs) for n in (1, 2, 3)},
    )
    assert {name: logged[name] for name in recount} == pytest.approx(recount, abs=1e-6)
