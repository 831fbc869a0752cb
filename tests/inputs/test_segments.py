"""Pairs of segments, counted again from the batches and the corpus arrays alone."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from recount import (
    awkward_documents,
    deviation,
    document_of_piece,
    make_batches,
    random_documents,
    read_examples,
    take_examples,
    vocabulary,
    write_corpus,
)

LENGTHS = (8, 16, 64, 128, 512)


def _in_source_order(example):
    return example.second + example.first if example.label else example.first + example.second


def _epoch(batches, tokenizer, corpus):
    """The first examples of training that hold as many tokens as the corpus."""
    examples, read, step = [], 0, 0
    while read < corpus.num_tokens:
        for example in read_examples(batches.batch(step), tokenizer):
            if read < corpus.num_tokens:
                examples.append(example)
                read += len(example.first) + len(example.second)
        step += 1
    return examples


def _assert_each_token_is_read_once(examples, corpus):
    """That the examples are stretches of the source, and cover it without gap or overlap."""
    for number, shard in enumerate(corpus.shards):
        stretches = []
        for example in examples:
            if example.shard == number:
                text = _in_source_order(example)
                assert text == shard.tokens[example.token : example.token + len(text)].tolist()
                first, last = shard.sentences[shard.documents[example.document : example.document + 2]].tolist()
                assert first <= example.token and example.token + len(text) <= last
                stretches.append((example.token, example.token + len(text)))
        stretches.sort()
        assert [begin for begin, _ in stretches] == [0] + [end for _, end in stretches[:-1]]
        assert stretches[-1][1] == len(shard.tokens)


@pytest.mark.parametrize("objective", ["sop", "none"])
@pytest.mark.parametrize("length", LENGTHS)
def test_an_epoch_reads_each_token_of_awkward_documents_once(tmp_path, length, objective):
    documents = awkward_documents(length - 3) + random_documents(10, 800, seed=1)
    tokenizer = vocabulary(len(documents))
    corpus = write_corpus(tmp_path / "corpus", documents, shards=2)
    for seed in (1, 2):
        batches = make_batches(corpus, tokenizer, length=length, seed=seed, objective=objective)
        _assert_each_token_is_read_once(_epoch(batches, tokenizer, corpus), corpus)


def test_an_epoch_reads_each_token_of_every_possible_short_document_once(tmp_path):
    # Up to four sentences of each length that matters at a capacity of 5 tokens: 1,553 documents.
    lengths = (1, 2, 4, 5, 6, 7)
    documents = [list(d) for n in range(1, 5) for d in product(lengths, repeat=n) if sum(d) >= 2]
    tokenizer = vocabulary(len(documents))
    corpus = write_corpus(tmp_path / "corpus", documents)
    batches = make_batches(corpus, tokenizer, length=8, size=1024, short_sequence_probability=0.5)
    _assert_each_token_is_read_once(_epoch(batches, tokenizer, corpus), corpus)


def test_segments_of_real_text_are_neighbours_in_the_source(real_text):
    corpus, tokenizer = real_text
    for length in (64, 512):
        batches = make_batches(corpus, tokenizer, length=length)
        _assert_each_token_is_read_once(_epoch(batches, tokenizer, corpus), corpus)


@pytest.mark.parametrize("length", [16, 128])
def test_segments_meet_between_sentences_where_there_are_two(prose, length):
    corpus, tokenizer = prose
    for example in take_examples(make_batches(corpus, tokenizer, length=length), tokenizer, 2000):
        shard = corpus.shards[example.shard]
        text = _in_source_order(example)
        middle = example.token + len(example.second if example.label else example.first)
        inner = shard.sentences[(shard.sentences > example.token) & (shard.sentences < example.token + len(text))]
        assert middle in inner or len(inner) == 0


def test_a_lone_sentence_is_split_between_words(prose):
    corpus, tokenizer = prose
    split = 0
    for example in take_examples(make_batches(corpus, tokenizer, length=32), tokenizer, 2000):
        shard = corpus.shards[example.shard]
        length = len(example.first) + len(example.second)
        middle = example.token + len(example.second if example.label else example.first)
        inside = shard.tokens[example.token + 1 : example.token + length]
        if middle not in shard.sentences and tokenizer.word_starts[inside].any():
            assert tokenizer.word_starts[shard.tokens[middle]]
            split += 1
    assert split > 100


@pytest.mark.parametrize("objective", ["sop", "nsp"])
@pytest.mark.parametrize("length", [16, 128])
def test_labels_are_balanced(prose, length, objective):
    corpus, tokenizer = prose
    batches = make_batches(corpus, tokenizer, length=length, objective=objective)
    examples = take_examples(batches, tokenizer, 6000)
    assert deviation(sum(example.label for example in examples), len(examples), 0.5) < 4
    assert all(example.counted == 1 for example in examples)


def test_without_an_objective_pairs_are_in_order_and_weigh_nothing(prose):
    corpus, tokenizer = prose
    examples = take_examples(make_batches(corpus, tokenizer, objective="none"), tokenizer, 1000)
    assert all(example.label == 0 and example.counted == 0 for example in examples)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_unrelated_segment_is_of_one_other_document(tmp_path, length):
    documents = awkward_documents(length - 3) + random_documents(10, 800, seed=2)
    tokenizer = vocabulary(len(documents))
    corpus = write_corpus(tmp_path / "corpus", documents)
    tokens = corpus.shards[0].tokens.tobytes()
    labels = Counter()
    for example in take_examples(make_batches(corpus, tokenizer, length=length, objective="nsp"), tokenizer, 3000):
        sources = {document_of_piece(piece) for piece in example.second} - {None}
        own = {document_of_piece(piece) for piece in example.first} - {None}
        assert own <= {example.document}
        assert np.array(example.second, np.uint16).tobytes() in tokens
        if example.label:
            assert len(sources) <= 1 and example.document not in sources
        else:
            assert sources <= {example.document}
            stretch = slice(example.token, example.token + len(example.first) + len(example.second))
            assert example.first + example.second == corpus.shards[0].tokens[stretch].tolist()
        labels[example.label] += 1
    assert min(labels.values()) > 1000


@pytest.mark.parametrize("length", [16, 128])
def test_next_sentence_prediction_reads_every_document_and_each_first_segment_once(prose, length):
    corpus, tokenizer = prose
    batches = make_batches(corpus, tokenizer, length=length, objective="nsp")
    read = [np.zeros(len(shard.tokens), int) for shard in corpus.shards]
    for example in take_examples(batches, tokenizer, batches.epoch(0).size):
        segments = example.first if example.label else example.first + example.second
        read[example.shard][example.token : example.token + len(segments)] += 1
    for shard, counts in zip(corpus.shards, read, strict=True):
        assert counts.max() == 1
        ends = shard.sentences[shard.documents[1:]].astype(int) - 1
        # Only a document's last token can be left, when another segment stood in its place.
        assert set(np.flatnonzero(counts == 0).tolist()) <= set(ends.tolist())


def test_the_end_of_a_pair_does_not_give_an_unrelated_segment_away(real_text):
    corpus, tokenizer = real_text
    full, ends, count = Counter(), Counter(), Counter()
    sentence_ends = {tokenizer.piece_to_id(piece) for piece in '.!?"'}
    for example in take_examples(make_batches(corpus, tokenizer, length=128, objective="nsp"), tokenizer, 2000):
        count[example.label] += 1
        full[example.label] += len(example.original) == 128
        ends[example.label] += example.second[-1] in sentence_ends
    for feature in (full, ends):
        assert abs(feature[0] / count[0] - feature[1] / count[1]) < 0.1


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.9])
def test_a_short_target_is_as_frequent_and_as_long_as_asked(tmp_path, probability):
    # With sentences of one token every chunk has exactly its target length, but for a document's last.
    corpus = write_corpus(tmp_path / "corpus", [[1] * 60_000] * 4)
    batches = make_batches(corpus, vocabulary(4), length=64, short_sequence_probability=probability)
    examples = take_examples(batches, vocabulary(4), batches.epoch(0).size)
    ends = corpus.shards[0].sentences[corpus.shards[0].documents[1:]].tolist()
    lengths = Counter(
        len(example.original) - 3 for example in examples if example.token + len(example.original) - 3 not in ends
    )
    capacity, total = 61, sum(lengths.values())
    assert min(lengths) >= 2 and max(lengths) <= capacity
    for length in range(2, capacity + 1):
        expected = probability / (capacity - 1) + (1 - probability) * (length == capacity)
        if expected in (0, 1):
            assert lengths[length] == total * expected
        else:
            assert deviation(lengths[length], total, expected) < 4


def test_a_chunk_ends_only_where_no_further_sentence_fits_or_it_is_short(prose):
    corpus, tokenizer = prose
    stopped_early, chances = 0, 0
    for example in take_examples(make_batches(corpus, tokenizer, length=128), tokenizer, 4000):
        shard = corpus.shards[example.shard]
        end = example.token + len(example.original) - 3
        document_end = shard.sentences[shard.documents[example.document + 1]]
        if end == document_end or end not in shard.sentences:
            continue
        following = int(shard.sentences[np.searchsorted(shard.sentences, end) + 1])
        chances += 1
        stopped_early += following - example.token <= 125
    # A tenth of the targets are short; the longest of these end where there is no room anyway.
    assert 0.04 < stopped_early / chances < 0.1


def test_the_split_is_uniform_over_the_sentence_boundaries(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [[10] * 30_000] * 2)
    batches = make_batches(corpus, vocabulary(2), length=63, short_sequence_probability=0.0)
    middles = Counter(
        len(example.second if example.label else example.first)
        for example in take_examples(batches, vocabulary(2), batches.epoch(0).size)
    )
    total = sum(middles.values())
    assert set(middles) == {10, 20, 30, 40, 50}
    assert all(deviation(count, total, 0.2) < 4 for count in middles.values())
