"""How fast the corpus encoder is beside the bare SentencePiece encoder: `python benchmarks/encode_corpus.py`.

ours: the whole of `data/encode_corpus.py` as a user runs it: reading the file, normalising, splitting
sentences, encoding, choosing the held-out documents, hashing and writing the shards. bare:
`SentencePieceProcessor.encode(line)`, a plain loop over the same lines in memory, already normalised and
lower-cased, ids thrown away; "bare, batch" gives it 1,000 lines a call, which is the fastest way it has. Each
of as many processes encodes its share of the lines. Both sides are timed from the first job to the last
result in processes that are up and warm, and take turns in one run; ratios are of medians. On a machine with
other work the ratio of processor time is the one to trust.
"""

import json
import lzma
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from albert_jax.errors import UserError, exit_cleanly
from albert_jax.inputs.corpus import SPLITS, ShardRecord, write_manifest
from albert_jax.tokenizer import AlbertTokenizer
from data.building import ItemJob, encoder_of_items
from data.sources import parse_source, plan_items

BATCH_LINES = 1_000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Arguments:
    """Compares the corpus encoder with the bare SentencePiece encoder."""

    text: tuple[Path, ...] = (SHARED / "text/wikipedia/wiki_00.txt.xz", SHARED / "text/books/books_00.txt.xz")
    """Text files, plain or .xz: one paragraph per line, a blank line between documents."""
    tokenizer: Path = SHARED / "albert_fixtures/spiece.model"
    """The SentencePiece model."""
    megabytes: int = 20
    """How much to take of each file."""
    processes: int = len(os.sched_getaffinity(0))
    """Processes on either side."""
    rounds: int = 7
    """How often each side runs."""
    output: Path = Path("encode_corpus.json")
    """Where the figures go."""


def read_start(path: Path, size: int) -> str:
    """The documents in the first `size` characters of a file."""
    if not path.exists():
        raise UserError(f"{path}: no such text; give your own with --text")
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
        return file.read(size).rpartition("\n\n")[0]


def work(connection: Any, model: Path, output: str) -> None:
    """One process, of either side: runs what it is told, and says when it is done."""
    tokenizer = AlbertTokenizer.from_file(model)
    job = ItemJob(output, tokenizer, "en", 0.005, 0)
    encode_item = encoder_of_items(job)
    processor = tokenizer._processor
    lines: list[str] = []
    while message := connection.recv():
        kind, value = message
        result: Any = None
        start = time.process_time()
        if kind == "lines":
            lines = [normal for line in value if (normal := tokenizer.normalize(line))]
            result = sum(map(len, lines))
        elif kind == "forget":
            encode_item = encoder_of_items(job)  # no word seen yet, as at the start of a build
        elif kind == "bare":
            for line in lines:
                processor.encode(line)
        elif kind == "bare, batch":
            for first in range(0, len(lines), BATCH_LINES):
                processor.encode(lines[first : first + BATCH_LINES], num_threads=1)
        else:
            result = encode_item(value, lambda report: None)
        connection.send((result, time.process_time() - start))


def run_all(connections: list[Any], jobs: list[Any]) -> tuple[float, list[Any]]:
    """Hands out jobs as processes get free; seconds on the clock, and results with their processor
    seconds."""
    start = time.perf_counter()
    waiting, results = list(reversed(jobs)), []
    busy = []
    for connection in connections:
        if waiting:
            connection.send(waiting.pop())
            busy.append(connection)
    while busy:
        for connection in multiprocessing.connection.wait(busy):
            results.append(connection.recv())
            if waiting:
                connection.send(waiting.pop())
            else:
                busy.remove(connection)
    return time.perf_counter() - start, results


def measure(arguments: Arguments, folder: Path) -> tuple[int, dict[str, list[float]], dict[str, list[float]]]:
    """Bytes of text, and for each side by name the seconds of every round: on the clock, and of all
    processors."""
    text = "\n\n".join(read_start(path, arguments.megabytes << 20) for path in arguments.text)
    (folder / "text.txt").write_text(text, "utf-8")
    (folder / "corpus" / "progress").mkdir(parents=True)
    items = plan_items([parse_source(str(folder / "text.txt"))], [])
    context = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(arguments.processes):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, arguments.tokenizer, str(folder / "corpus")), daemon=True)
        process.start()
        connections.append(ours)
    lines = text.split("\n")
    for i, connection in enumerate(connections):
        connection.send(("lines", lines[i :: len(connections)]))
    for connection in connections:
        connection.recv()
    seconds: dict[str, list[float]] = {"bare": [], "bare, batch": [], "ours": []}
    processor_seconds: dict[str, list[float]] = {side: [] for side in seconds}
    # The first round, not counted, compiles what is compiled and fills the caches.
    for number in range(arguments.rounds + 1):
        for side, times in seconds.items():
            if side == "ours":
                run_all(connections, [("forget", None)] * len(connections))
                taken, results = run_all(connections, [("item", item) for item in items])
                start = time.perf_counter()
                finish(folder / "corpus", [marker for marker, _ in results])
                taken += time.perf_counter() - start
            else:
                taken, results = run_all(connections, [(side, None)] * len(connections))
            if number:
                times.append(taken)
                processor_seconds[side].append(sum(busy for _, busy in results))
    for connection in connections:
        connection.send(None)
    return len(text.encode()), seconds, processor_seconds


def finish(corpus: Path, markers: list[Any]) -> None:
    """What the builder does at the end: the manifest over all shards."""
    shards: dict[str, list[ShardRecord]] = {split: [r for m in markers for r in m.shards[split]] for split in SPLITS}
    write_manifest(corpus, shards=shards, documents_left_out=0, tokenizer={}, build={})


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        size, seconds, processor_seconds = measure(arguments, Path(folder))
    clock, busy = (
        {side: statistics.median(times) for side, times in figures.items()} for figures in (seconds, processor_seconds)
    )
    table = Table(title=f"{size / 1e6:.0f} MB of text, {arguments.processes} processes, {arguments.rounds} rounds")
    for column in ("side", "median s", "MB/s", "ours beside it", "processor s", "ours beside it"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for side in seconds:
        table.add_row(
            side,
            f"{clock[side]:.2f}",
            f"{size / 1e6 / clock[side]:.1f}",
            f"{clock[side] / clock['ours']:.1%}",
            f"{busy[side]:.2f}",
            f"{busy[side] / busy['ours']:.1%}",
        )
    Console().print(table)
    result = {
        "bytes": size,
        "processes": arguments.processes,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "speed_beside_bare": clock["bare"] / clock["ours"],
        "speed_beside_bare_by_processor_time": busy["bare"] / busy["ours"],
        "speed_beside_batch_by_processor_time": busy["bare, batch"] / busy["ours"],
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    exit_cleanly(main)
