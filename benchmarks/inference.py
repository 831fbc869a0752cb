"""How fast texts become completions and embeddings, beside transformers:
`python benchmarks/inference.py --peer_python PEER/bin/python --tokenizer spiece.model --texts SENTENCES.txt`.

PEER is a virtual environment with transformers and torch. All sides have the same weights, texts and cores; each is a
process of its own, and they take turns, a whole pass over the texts at a time. Start-up is the time from nothing to the
first answer. The answers are compared too: a fast wrong one would not count.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
PEERS = {
    "transformers pipeline": "pipeline",
    "transformers pipeline, batches of 16": "batched_pipeline",
    "PyTorch, sorted by length": "pytorch",
}
SMALL_SAMPLE = HERE.parent / "data" / "sample"


@dataclass(frozen=True)
class Arguments:
    """Measures inference."""

    peer_python: Path
    """Python of an environment with transformers and torch."""
    tokenizer: Path
    """SentencePiece model, such as the released spiece.model."""
    texts: Path | None = None
    """A file with one text per line; the sentences of the bundled sample by default."""
    size: str = "base"
    count: int = 256
    """Texts, drawn at random from the file."""
    rounds: int = 5
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    tasks: tuple[str, ...] = ("fill-mask", "embed")
    threads: int = os.cpu_count() or 1
    """Of torch; JAX takes all cores."""
    output: Path = Path("build/inference.json")


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = write_inputs(arguments, work)
        results = [
            compare(arguments, work, texts, task, dtype) for task in arguments.tasks for dtype in arguments.dtypes
        ]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {arguments.output}")


def write_inputs(arguments: Arguments, work: Path) -> list[str]:
    """Random weights with a tokenizer, and texts that all fit and have one [MASK]."""
    import jax

    from albert_jax import AlbertForPreTraining
    from albert_jax.config import albert_config
    from albert_jax.tokenizer import AlbertTokenizer

    jax.config.update("jax_platforms", "cpu")
    tokenizer = AlbertTokenizer.from_file(arguments.tokenizer)
    model = AlbertForPreTraining.from_config(albert_config(arguments.size, 2), tokenizer)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(f"tokenizer = {arguments.tokenizer}: has {tokenizer.vocab_size} pieces, expected 30,000")
    model.save_pretrained(work / "model")
    chooser = random.Random(0)
    candidates = sentences(arguments.texts)
    chooser.shuffle(candidates)
    texts = []
    for text in candidates:
        words = text.split()
        if len(words) >= 3 and 5 <= len(tokenizer.encode(text)) <= 500:
            words[chooser.randrange(1, len(words) - 1)] = "[MASK]"
            texts.append(" ".join(words))
        if len(texts) == arguments.count:
            break
    (work / "fill-mask.json").write_text(json.dumps(texts))
    # A literal [MASK] would be the symbol to transformers and text to us.
    (work / "embed.json").write_text(json.dumps([text.replace("[MASK]", "it") for text in texts]))
    lengths = [len(tokenizer.encode(text)) + 2 for text in texts]
    print(
        f"{len(texts)} texts of {min(lengths)} to {max(lengths)} pieces, median {statistics.median(lengths):.0f}, "
        f"{sum(lengths):,} in all; ALBERT {arguments.size}, {arguments.threads} threads"
    )
    return texts


def sentences(path: Path | None) -> list[str]:
    if path is not None:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    import sentencex

    paragraphs = [line for file in sorted(SMALL_SAMPLE.glob("*.txt")) for line in file.read_text("utf-8").splitlines()]
    return [sentence.strip() for line in paragraphs if line.strip() for sentence in sentencex.segment("en", line)]


class Worker:
    """One side, in its own process."""

    def __init__(self, name: str, command: list[str], threads: int):
        self.name = name
        self.seconds: list[float] = []
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Threads that spin while another side has its turn would slow it down.
            env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self.answer()
        self.startup = time.perf_counter() - start

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: ended without an answer; run by itself: {' '.join(self.process.args)}")
        return line.strip()

    def run(self) -> str:
        """One pass over all texts; the file with its answers."""
        print("run", file=self.process.stdin, flush=True)
        seconds, answers = json.loads(self.answer())
        self.seconds.append(seconds)
        return answers

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(arguments: Arguments, work: Path, texts: list[str], task: str, dtype: str) -> dict:
    rest = [task, dtype, str(work)]
    ours = [sys.executable, str(HERE / "inference_ours.py"), *rest]
    workers = [Worker("albert_jax", ours, arguments.threads)]
    for name, kind in PEERS.items():
        command = [str(arguments.peer_python), str(HERE / "inference_peer.py"), kind, *rest]
        workers.append(Worker(name, command, arguments.threads))
    for worker in workers:  # to every shape compiled, every page touched
        worker.run()
        worker.seconds.clear()
    for _ in range(arguments.rounds):
        answers = [np.load(worker.run()) for worker in workers]
    for worker in workers:
        worker.close()
    print(f"\n{task}, {dtype}, {arguments.rounds} rounds")
    print(f"{'':38}{'median s':>10}{'texts/s':>10}{'spread':>14}{'start s':>9}")
    rows = []
    for worker, answer in zip(workers, answers, strict=True):
        median = statistics.median(worker.seconds)
        spread = f"{min(worker.seconds):.2f}-{max(worker.seconds):.2f}"
        print(f"{worker.name:38}{median:10.2f}{len(texts) / median:10.1f}{spread:>14}{worker.startup:9.1f}")
        rows.append(
            dict(
                name=worker.name,
                seconds=worker.seconds,
                startup=worker.startup,
                agreement=agreement(task, answers[0], answer),
            )
        )
    best = min(statistics.median(worker.seconds) for worker in workers[1:])
    ratio = best / statistics.median(workers[0].seconds)
    print(
        f"albert_jax is {ratio:.2f} times as fast as the best peer; agreement {[row['agreement'] for row in rows[1:]]}"
    )
    return dict(task=task, dtype=dtype, texts=len(texts), ratio=ratio, sides=rows)


def agreement(task: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of completions: share of the same likeliest piece. Of embeddings: largest difference."""
    if task == "fill-mask":
        return round(float((ours == theirs).mean()), 4)
    return float(f"{np.abs(ours - theirs).max():.1e}")


if __name__ == "__main__":
    exit_cleanly(main)
