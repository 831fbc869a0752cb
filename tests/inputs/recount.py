"""Small corpora with awkward documents, and a count of what batches hold, by code of its own."""

import lzma
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from albert_jax.config import DataConfig
from albert_jax.inputs.corpus import Corpus, ShardWriter, open_corpus, write_manifest
from albert_jax.inputs.features import Features
from albert_jax.inputs.pipeline import PretrainingBatches

PIECES_PER_DOCUMENT = 40
CONTINUATIONS = 12  # of those, the last ones


@dataclass(frozen=True)
class Vocabulary:
    """What batches need of a tokenizer. The control pieces are not 0 to 4: nobody may rely on that."""

    word_starts: np.ndarray
    vocab_size: int
    pad_id: int = 7
    unk_id: int = 0
    cls_id: int = 9
    sep_id: int = 3
    mask_id: int = 5

    @property
    def special_ids(self) -> tuple[int, ...]:
        return tuple(sorted((self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)))

    @property
    def ordinary_ids(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.vocab_size), self.special_ids).astype(np.int32)


def vocabulary(documents: int) -> Vocabulary:
    """Each document has 40 pieces of its own, which tell where a segment is from; 0 to 9 are common."""
    size = 10 + documents * PIECES_PER_DOCUMENT
    place = (np.arange(size) - 10) % PIECES_PER_DOCUMENT
    return Vocabulary(word_starts=place < PIECES_PER_DOCUMENT - CONTINUATIONS, vocab_size=size)


def document_of_piece(piece: int) -> int | None:
    return None if piece < 10 else (piece - 10) // PIECES_PER_DOCUMENT


def awkward_documents(capacity: int) -> list[list[int]]:
    """Sentence lengths of documents that have once been, or could be, handled wrongly at this capacity."""
    c = capacity
    few = [[2], [1, 1], [1, 1, 1], [5], [1, 5, 1], [1, 1, 5, 1, 1], [4, 4], [1, 1, 2], [2, 1]]
    exact = [
        [c],
        [c, 1],
        [c, 1, 1],
        [1, c],
        [1, c - 1],
        [1, c - 1, 1],
        [1, c - 1, 1, 5],
        [c - 1, 1, 1],
        [c + 1],
    ]
    long = [
        [3 * c + 2],
        [1, 2 * c, 1],
        [1, 1, 2 * c + 1, 1, 1],
        [2 * c, 1],
        [2 * c + 1],
        [2 * c + 2],
        [1, c + 1, 1],
    ]
    mixed = [[1, c + 7, 1, c + 9, 1], [c, c, c], [c + 1, c + 1, 1], [7, c, 7, 2 * c, 7], [c - 2, 1, 1, 1]]
    many = [[1] * (3 * c), [3] * (2 * c), [9] * 60, [23] * 40]
    return few + exact + long + mixed + many


def random_documents(count: int, tokens: int, seed: int) -> list[list[int]]:
    """Documents of prose: sentences of 1 to 60 tokens, documents of 50 to `tokens`."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        sentences, wanted = [], generator.integers(50, tokens)
        while sum(sentences) < wanted:
            sentences.append(int(generator.integers(1, 61)))
        documents.append(sentences)
    return documents


def pieces_of(document: int, length: int, awkward: bool, generator: np.random.Generator) -> np.ndarray:
    """Words of one to three pieces, mostly, with unknown pieces in each third document; where it is to be
    awkward, words of many pieces in each fifth document and no word start in each seventh."""
    base = 10 + document * PIECES_PER_DOCUMENT
    starts, continuations = PIECES_PER_DOCUMENT - CONTINUATIONS, CONTINUATIONS
    continued = generator.random(length) < (0.9 if awkward and document % 5 == 4 else 0.25)
    if awkward and document % 7 == 6:
        continued[:] = True
    pieces = np.where(
        continued,
        starts + generator.integers(0, continuations, length),
        generator.integers(0, starts, length),
    )
    unknown = (generator.random(length) < 0.1) & (document % 3 == 2)
    return np.where(unknown, 0, base + pieces)


def write_corpus(
    directory: Path, documents: list[list[int]], *, shards: int = 1, awkward: bool = True, seed: int = 0
) -> Corpus:
    """Documents with these sentence lengths, dealt to the shards one after the other in equal runs."""
    generator = np.random.default_rng(seed)
    texts = [
        (pieces_of(number, sum(sentences), awkward, generator), sentences) for number, sentences in enumerate(documents)
    ]
    return write_texts(directory, texts, vocabulary(len(documents)).vocab_size, shards)


def write_texts(directory: Path, texts: list[tuple[np.ndarray, list[int]]], vocab_size: int, shards: int) -> Corpus:
    directory.mkdir()
    records = []
    for number, part in enumerate(np.array_split(np.arange(len(texts)), shards)):
        writer = ShardWriter(directory, f"train-{number:05d}")
        for index in part:
            pieces, sentences = texts[index]
            writer.append(np.asarray(pieces, np.uint16), np.array(sentences), np.array([len(sentences)]))
        records.append(writer.close())
    write_manifest(
        directory,
        shards={"train": records, "held_out": []},
        documents_left_out=0,
        tokenizer={"fingerprint": "none", "vocab_size": vocab_size},
        build={},
    )
    return open_corpus(directory, "train", tokenizer_fingerprint=None, verify=True)


def write_real_text(directory: Path, paths: list[Path], tokenizer, characters: int) -> Corpus:
    """The first characters of each file, in documents of at most 40 lines; a sentence ends at a full stop."""
    texts, lines = [], []
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in [*file.read(characters).split("\n"), ""]:
                if line.strip():
                    lines.append(line)
                if lines and (not line.strip() or len(lines) == 40):
                    sentences = [s for text in lines for s in re.split(r"(?<=[.!?]) +", text)]
                    encoded = [ids for ids in tokenizer.encode_batch(sentences) if len(ids)]
                    lines = []
                    if sum(map(len, encoded)) >= 2:
                        texts.append((np.concatenate(encoded), list(map(len, encoded))))
    return write_texts(directory, texts, tokenizer.vocab_size, shards=2)


def make_batches(
    corpus, tokenizer, *, length=64, size=64, seed=1, objective="sop", pack_sequences=False, **settings
) -> PretrainingBatches:
    """With one sequence per row unless told otherwise; test_packed_batches.py finds these again in packed rows."""
    config = DataConfig(
        corpus=("recount",), tokenizer="", sentence_objective=objective, pack_sequences=pack_sequences, **settings
    )
    return PretrainingBatches(corpus, tokenizer, config, sequence_length=length, batch_size=size, seed=seed)


@dataclass(frozen=True)
class Example:
    """One row of a batch that is not packed, told by its arrays alone."""

    shown: list[int]
    """Without padding, as the model sees it."""
    original: list[int]
    """The same with its masks undone."""
    first: list[int]
    second: list[int]
    label: int
    counted: float
    positions: list[int]
    ngram_counts: list[int]
    replacement_counts: list[int]
    shard: int
    document: int
    token: int


def read_examples(features: Features, tokenizer) -> list[Example]:
    """The rows of a batch; asserts what must hold of any row."""
    examples = []
    for row in range(len(features.input_ids)):
        fields = {name: array[row].tolist() for name, array in features._asdict().items()}
        length = sum(fields["attention_mask"])
        width = len(fields["input_ids"])
        padding = width - length
        assert fields["attention_mask"] == [True] * length + [False] * padding
        assert fields["input_ids"][length:] == [tokenizer.pad_id] * padding
        count = int(sum(fields["masked_lm_weights"]))
        places = len(fields["masked_lm_weights"])
        assert fields["masked_lm_weights"] == [1.0] * count + [0.0] * (places - count)
        assert fields["masked_lm_positions"][count:] == fields["masked_lm_labels"][count:] == [0] * (places - count)
        positions = fields["masked_lm_positions"][:count]
        assert all(a < b for a, b in pairwise(positions)), "ascending, no place twice"
        assert all(position < length for position in positions)
        shown = fields["input_ids"][:length]
        original = list(shown)
        for position, piece in zip(positions, fields["masked_lm_labels"], strict=False):
            original[position] = piece
        assert original[0] == tokenizer.cls_id and original[-1] == tokenizer.sep_id
        assert original.count(tokenizer.sep_id) == 2 and original.count(tokenizer.cls_id) == 1
        middle = original.index(tokenizer.sep_id)
        assert fields["token_type_ids"] == [0] * (middle + 1) + [1] * (length - middle - 1) + [0] * padding
        shard, document, token = fields["origin"]
        examples.append(
            Example(
                shown=shown,
                original=original,
                first=original[1:middle],
                second=original[middle + 1 : -1],
                label=fields["sentence_order_labels"],
                counted=fields["sentence_order_weights"],
                positions=positions,
                ngram_counts=fields["ngram_counts"],
                replacement_counts=fields["replacement_counts"],
                shard=shard,
                document=document,
                token=token,
            )
        )
    return examples


def take_examples(batches: PretrainingBatches, tokenizer, count: int) -> list[Example]:
    """The first `count` examples of training."""
    steps = range(-(-count // batches.batch_size))
    examples = [example for step in steps for example in read_examples(batches.batch(step), tokenizer)]
    return examples[:count]


def words_of(example: Example, tokenizer) -> list[tuple[int, int]]:
    """Begin and end of every word that may be masked, in the original sequence."""
    words, special, parted = [], set(tokenizer.special_ids), True
    for position, piece in enumerate(example.original):
        if piece in special:
            parted = True
        elif parted or tokenizer.word_starts[piece]:
            words.append((position, position + 1))
            parted = False
        else:
            words[-1] = (words[-1][0], position + 1)
    return words


def masked_runs(example: Example, tokenizer) -> list[int]:
    """Lengths in words of the runs of masked words; asserts that only whole words are masked."""
    chosen, runs, previous_end = set(example.positions), [], -1
    for begin, end in words_of(example, tokenizer):
        inside = [position in chosen for position in range(begin, end)]
        assert all(inside) or not any(inside), "whole words only"
        if not inside[0]:
            continue
        if begin == previous_end:
            runs[-1] += 1
        else:
            runs.append(1)
        previous_end = end
    return runs


def deviation(count: float, trials: float, probability: float) -> float:
    """By how many standard deviations a binomial count is off."""
    return abs(count - trials * probability) / np.sqrt(trials * probability * (1 - probability))
