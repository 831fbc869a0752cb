"""How fast encoded shards become ready batches: `python benchmarks/input_pipeline.py --corpus my_corpus`.

Measured on one pinned core, by processor time, then with two threads reading ahead, by the clock; where the time goes
is measured apart, on the pinned core. Real tokens are the text with [CLS] and [SEP]; places count the padding too.
Without a corpus or text, one of synthetic documents is made, with lengths like Wikipedia's.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from albert_jax.config import DataConfig
from albert_jax.errors import exit_cleanly
from albert_jax.inputs.corpus import TOKENIZER_FOLDER, Corpus, ShardWriter, open_corpus, write_manifest
from albert_jax.inputs.features import Features, empty_features
from albert_jax.inputs.pipeline import PretrainingBatches, read_ahead
from albert_jax.tokenizer import AlbertTokenizer
from data.encode_corpus import encode_corpus

TARGET = 2e6  # tokens per second and core


@dataclass(frozen=True)
class Arguments:
    """Measures the input pipeline."""

    corpus: Path | None = None
    """A corpus of data/encode_corpus.py to read from."""
    text: tuple[str, ...] = ()
    """Else text to encode one from, with `tokenizer`; any source that data/encode_corpus.py takes."""
    tokenizer: Path | None = None
    """SentencePiece model for `text`."""
    sequence_length: int = 512
    batch_sizes: tuple[int, ...] = (256, 4096)
    seconds: float = 10.0
    """How long each case runs, at least."""
    pack_sequences: bool = True
    """Several sequences per row, or one."""
    max_predictions: int | None = None
    """Cap on the predictions of a sequence; Google's is 20."""
    output: Path = Path("build/input_pipeline.json")


@dataclass(frozen=True)
class SyntheticVocabulary:
    """Stands in for a tokenizer: 30,000 pieces, of which about three quarters begin a word."""

    vocab_size: int = 30_000
    pad_id: int = 0
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4
    fingerprint: str = "synthetic"

    @property
    def ordinary_ids(self) -> np.ndarray:
        return np.arange(5, self.vocab_size, dtype=np.int32)

    @property
    def word_starts(self) -> np.ndarray:
        return np.arange(self.vocab_size) % 4 > 0


def open_inputs(arguments: Arguments, temporary: Path) -> tuple[Corpus, AlbertTokenizer | SyntheticVocabulary]:
    """The corpus to read, made in `temporary` where none is given, and what its ids mean."""
    directory = arguments.corpus
    if directory is None and arguments.text:
        directory = encode_corpus(arguments.text, arguments.tokenizer, temporary / "corpus", held_out_fraction=0.0)
    if directory is None:
        directory, tokenizer = write_synthetic_corpus(temporary / "corpus"), SyntheticVocabulary()
    else:
        tokenizer = AlbertTokenizer.load(directory / TOKENIZER_FOLDER)
    return open_corpus(directory, "train", tokenizer_fingerprint=tokenizer.fingerprint, verify=False), tokenizer


def write_synthetic_corpus(directory: Path, documents: int = 6000) -> Path:
    """About 20 million tokens: documents of 3,300 tokens and sentences of 27 on average, as in Wikipedia."""
    directory.mkdir()
    generator = np.random.default_rng(0)
    writer = ShardWriter(directory, "train-00000")
    for _ in range(documents):
        lengths = np.maximum(generator.lognormal(3.1, 0.6, generator.geometric(1 / 122)).astype(int), 2)
        writer.append(generator.integers(5, 30_000, lengths.sum()), lengths, np.array([len(lengths)]))
    write_manifest(
        directory,
        shards={"train": [writer.close()], "held_out": []},
        documents_left_out=0,
        tokenizer={
            "fingerprint": SyntheticVocabulary.fingerprint,
            "vocab_size": SyntheticVocabulary.vocab_size,
        },
        build={},
    )
    return directory


def measure(features: Iterable[Features], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Reads batches for that long, after a first one that compiles and plans."""
    features = iter(features)
    next(features)
    tokens = places = rows = count = 0
    start, started = clock(), time.perf_counter()
    while time.perf_counter() - started < seconds:
        batch = next(features)
        tokens += np.count_nonzero(batch.attention_mask)
        places += batch.attention_mask.size
        rows += len(batch.attention_mask)
        count += 1
    elapsed = clock() - start
    return dict(
        real_tokens_per_s=tokens / elapsed,
        places_per_s=places / elapsed,
        rows_per_s=rows / elapsed,
        share_of_real_tokens=tokens / places,
        batches=count,
        seconds=elapsed,
    )


def split_costs(batches: PretrainingBatches, seconds: float) -> dict[str, float]:
    """Nanoseconds per place: making an epoch's plan, finding a batch's examples in the shuffled epoch, and
    allocating its arrays; the rest of `batch` is the kernel that copies the tokens and masks them. And making the plan
    in nanoseconds per example."""
    rows = batches.batch_size
    plans = []
    for number in (1, 2, 3):
        started = time.process_time()
        batches.epoch(number)
        plans.append(time.process_time() - started)
    plan_cost = min(plans) / (batches.epoch(3).size * batches.sequence_length)
    first_epoch = batches.epoch(0)

    def per_place(work, budget: float = seconds / 3) -> float:
        count, started = 0, time.process_time()
        while (elapsed := time.process_time() - started) < budget:
            work(count)
            count += 1
        return elapsed / (count * rows * batches.sequence_length)

    def find(step: int) -> None:
        places = [batches.locate((step * rows + row) % first_epoch.size)[1] for row in range(rows)]
        first_epoch.examples_of(np.array(places))

    shuffle = per_place(find)
    maximum_ngram = batches.batch(0).ngram_counts.shape[1]
    allocate = per_place(
        lambda step: empty_features(
            rows, batches.sequence_length, batches.predictions, maximum_ngram, 0, batches.sequences
        )
    )
    # Within epoch 0, so that no plan is made.
    whole = per_place(lambda step: batches.batch(step % max(1, first_epoch.size // rows)))
    return dict(
        plan_per_example=min(plans) * 1e9 / batches.epoch(3).examples,
        plan=plan_cost * 1e9,
        shuffle=shuffle * 1e9,
        allocate=allocate * 1e9,
        fill=(whole - allocate) * 1e9 - shuffle * 1e9,
    )


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as temporary:
        corpus, tokenizer = open_inputs(arguments, Path(temporary))
        config = DataConfig(
            ("synthetic",),
            "",
            max_predictions_per_sequence=arguments.max_predictions,
            pack_sequences=arguments.pack_sequences,
        )
        cases = []
        for batch_size in arguments.batch_sizes:

            def make(batch_size: int = batch_size) -> PretrainingBatches:
                return PretrainingBatches(
                    corpus,
                    tokenizer,
                    config,
                    sequence_length=arguments.sequence_length,
                    batch_size=batch_size,
                    seed=0,
                )

            os.sched_setaffinity(0, {min(cores)})
            one = measure(map(make().batch, range(2**31)), arguments.seconds, time.process_time)
            costs = split_costs(make(), arguments.seconds)
            cases.append(dict(batch_size=batch_size, threads=1, cores=1, **one, nanoseconds_per_place=costs))
            os.sched_setaffinity(0, cores)
            ahead = read_ahead(make(), start=0, stop=2**31, rows=None, threads=2, prefetch=4)
            two = measure(ahead, arguments.seconds, time.perf_counter)
            cases.append(dict(batch_size=batch_size, threads=2, cores=min(2, len(cores)), **two))
        report = dict(
            sequence_length=arguments.sequence_length,
            pack_sequences=arguments.pack_sequences,
            corpus_tokens=corpus.num_tokens,
            corpus_documents=corpus.num_documents,
            source="corpus" if arguments.corpus else "text" if arguments.text else "synthetic",
            processor=platform.processor() or platform.machine(),
            cores=len(cores),
            target_tokens_per_s_per_core=TARGET,
            cases=cases,
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    print(f"written to {arguments.output}")


def print_table(report: dict) -> None:
    length = report["sequence_length"]
    packed = "packed with sequences" if report["pack_sequences"] else "of one sequence"
    print(f"{report['corpus_tokens']:,} tokens of {report['source']}, rows of {length} places, {packed}")
    columns = (
        "batch",
        "threads",
        "M real tokens/s",
        "k rows/s",
        "real",
        "per core",
        "plan",
        "shuffle",
        "allocate",
        "fill",
    )
    print(" | ".join(columns) + "   (the last four in ns per place, one core)")
    for case in report["cases"]:
        costs = case["nanoseconds_per_place"] if case["threads"] == 1 else {}
        cells = [
            str(case["batch_size"]),
            str(case["threads"]),
            f"{case['real_tokens_per_s'] / 1e6:.2f}",
            f"{case['rows_per_s'] / 1e3:.1f}",
            f"{case['share_of_real_tokens']:.1%}",
            f"{case['real_tokens_per_s'] / case['cores'] / 1e6:.2f}",
            *(f"{costs[name]:.1f}" if costs else "" for name in columns[6:]),
        ]
        print(" | ".join(cell.rjust(len(column)) for cell, column in zip(cells, columns, strict=True)))


if __name__ == "__main__":
    exit_cleanly(main)
