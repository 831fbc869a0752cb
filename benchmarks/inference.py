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
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import Side, environment, write_results

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
    write_results(arguments.output, results)
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


def compare(arguments: Arguments, work: Path, texts: list[str], task: str, dtype: str) -> dict:
    rest = [task, dtype, str(work)]
    ours = [sys.executable, str(HERE / "inference_ours.py"), *rest]
    commands = {"albert_jax": ours}
    for name, kind in PEERS.items():
        commands[name] = [str(arguments.peer_python), str(HERE / "inference_peer.py"), kind, *rest]
    sides: list[Side] = []
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for number, (name, command) in enumerate(commands.items()):
            sides.append(Side(name, command, environment("cpu", arguments.threads), work / f"side-{number}.log"))
        for side in sides:  # to every shape compiled, every page touched
            side.ask({})
        for _ in range(arguments.rounds):
            passes = []
            for side in sides:
                passes.append(side.ask({}))
                seconds[side.name].append(passes[-1]["seconds"])
            answers = [np.load(one["answers"]) for one in passes]
    finally:
        for side in sides:
            side.close()
    print(f"\n{task}, {dtype}, {arguments.rounds} rounds")
    print(f"{'':38}{'median s':>10}{'texts/s':>10}{'spread':>14}{'start s':>9}")
    rows = []
    for side, answer in zip(sides, answers, strict=True):
        times = seconds[side.name]
        median = statistics.median(times)
        spread = f"{min(times):.2f}-{max(times):.2f}"
        print(f"{side.name:38}{median:10.2f}{len(texts) / median:10.1f}{spread:>14}{side.startup:9.1f}")
        rows.append(
            dict(
                name=side.name,
                seconds=times,
                startup=side.startup,
                agreement=agreement(task, answers[0], answer),
            )
        )
    mine, *peers = (statistics.median(times) for times in seconds.values())
    ratio = min(peers) / mine
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
