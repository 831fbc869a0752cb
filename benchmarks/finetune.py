"""How fast fine-tuning goes, beside transformers:
`python benchmarks/finetune.py --peer_python PEER/bin/python --tokenizer spiece.model --data_dir DATA`.

PEER is a virtual environment with transformers and torch; DATA holds glue/SST-2, glue/MNLI and squad. Both sides train
the same weights on the same sequences, encoded beforehand, in batches of as many examples. Each is a process of its
own; they take turns, a pass at a time. A pass begins with the initial weights and an empty optimizer, and its time is
that of whole steps: making the batches, forward, backward, clipping, AdamW. How the examples of a pass are spread over
its batches, padded or packed, is each side's own; a side is judged by the best of its settings.

What a side is given, and has to say:

- The command is `finetune_SIDE.py FOLDER DTYPE DEVICE [--compile]`, DTYPE being float32 or bfloat16 (of the matrix
  products; parameters and optimizer are float32) and DEVICE cpu or gpu. On a GPU, float32 may be computed in TF32.
- FOLDER/model is in Hugging Face's layout; its config.json has the dropout.
- FOLDER/job.json has the fields of `Job`.
- FOLDER/data.npz has `input_ids`, uint16: all sequences end to end, with [CLS] and [SEP], without padding; `offsets`,
  int64 [sequences + 1]: sequence i is input_ids[offsets[i] : offsets[i + 1]]; `first`, int32 [sequences]: how many of
  its ids are of segment 0; `labels`, int64 [sequences], or for SQuAD `starts` and `ends`, places in the sequence;
  `draws`, int64 [passes, examples]: the sequences of each pass. Pass 0 is to warm up.
- Its first line on stdout is {"about": TEXT, "settings": [NAME, ...], "skipped": {NAME: REASON}}: versions and device,
  what it can do, and what it cannot here.
- Then it reads a line {"setting": NAME, "pass": NUMBER} from stdin for each pass, and answers with
  {"seconds": ..., "loss": ..., "steps": ..., "examples": ..., "tokens": ..., "places": ...}: wall time until the last
  step is done, mean loss over the examples (as they were trained on, with dropout), optimizer steps taken, examples and
  real tokens seen, and places computed, padding included. Going back to the initial weights is not in the time. Every
  shape that will occur must be compiled by the answer to pass 0 of its setting; all draws are known.
- It ends when stdin does. stderr is shown if it ends before.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import Side, environment, ratio_by_round, write_results

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
BATCH_SIZES = {  # the paper's, table 14; on a CPU what fits into memory
    "cpu": {"sst2": 32, "mnli": 32, "squad": 16},
    "gpu": {"sst2": 32, "mnli": 128, "squad": 48},
}
SQUAD_FILES = ("squad/train-v1.1.json.xz", "squad/train-v1.1.json")
SQUAD_LENGTH, SQUAD_STRIDE = 384, 128
RECIPE_EXAMPLES = {"sst2": 20_935 * 32, "mnli": 10_000 * 128, "squad": 3649 * 48}
"""What a fine-tuning by the paper's table 14 trains on in all."""
TINY = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
"""A network to try this script with; its speed says nothing."""


@dataclass(frozen=True)
class Arguments:
    """Measures fine-tuning."""

    peer_python: Path
    """Python of an environment with transformers and torch."""
    tokenizer: Path
    """SentencePiece model, such as the released spiece.model."""
    data_dir: Path
    """Folder with glue/SST-2, glue/MNLI and squad."""
    workloads: tuple[Literal["sst2", "mnli", "squad"], ...] = ("sst2", "mnli", "squad")
    size: Literal["tiny", "base", "large", "xlarge", "xxlarge"] = "base"
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    device: Literal["cpu", "gpu"] | None = None
    """The GPU where nvidia-smi is, by default."""
    batch_size: int | None = None
    """Of all workloads; by default 32 for sst2, 128 for mnli and 48 for squad, on a CPU 32, 32 and 16."""
    examples: int = 512
    """Of a pass, drawn at random from the pool; rounded up to whole batches."""
    pool: int = 4096
    """Training examples encoded: the first of the file; for squad questions, of which come more windows."""
    rounds: int = 5
    compile: bool = False
    """Also with torch.compile, which may take minutes to warm up."""
    peer_settings: tuple[str, ...] = ()
    """Only those of transformers' settings whose names have one of these in them, such as "by length"; all by
    default."""
    threads: int | None = None
    """Cores of each side; all by default. Fewer only on Linux."""
    output: Path = Path("build/finetune.json")


@dataclass(frozen=True)
class Job:
    """What both sides do, beside the data and the weights."""

    workload: str
    kind: Literal["classification", "answers"]
    """which head; "answers" has the mean of both cross-entropies as its loss, each over the sequence's own places"""
    labels: int
    batch_size: int
    """examples of a step"""
    max_length: int
    """of any sequence"""
    pad_id: int
    learning_rate: float
    """at step k of n, from 0: times min(k / warmup_steps, (n - k) / (n - warmup_steps))"""
    warmup_steps: int
    recipe_steps: int
    """optimizer steps of the published recipe, of which a pass is a sample: for what is worth preparing"""
    weight_decay: float = 0.01
    """decoupled, as AdamW's; of matrices only, not of biases and LayerNorm"""
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 1.0
    """of the gradient of all parameters together"""


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    for name in ("examples", "pool", "rounds"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} = {getattr(arguments, name)}: must be at least 1")
    device = arguments.device or ("gpu" if shutil.which("nvidia-smi") else "cpu")
    if arguments.threads is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in arguments.workloads:
            work = Path(folder) / workload
            work.mkdir()
            job, tokens = write_inputs(arguments, workload, device, work)
            results += [compare(arguments, work, job, tokens, dtype, device) for dtype in arguments.dtypes]
    write_results(arguments.output, results)
    print(f"written to {arguments.output}")


# ---- what both sides read


def write_inputs(arguments: Arguments, workload: str, device: str, work: Path) -> tuple[Job, list[int]]:
    """Random weights, sequences and draws; the job, and the real tokens of each pass."""
    import jax

    from albert_jax import AlbertForQuestionAnswering, AlbertForSequenceClassification
    from albert_jax.config import AlbertConfig, albert_config
    from albert_jax.tokenizer import AlbertTokenizer

    # The device is for the sides.
    jax.config.update("jax_platforms", "cpu")
    tokenizer = AlbertTokenizer.from_file(arguments.tokenizer)
    config = AlbertConfig(**TINY) if arguments.size == "tiny" else albert_config(arguments.size, 2)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(
            f"tokenizer = {arguments.tokenizer}: has {tokenizer.vocab_size} pieces, expected {config.vocab_size}"
        )
    batch_size = arguments.batch_size or BATCH_SIZES[device][workload]
    steps = -(-arguments.examples // batch_size)
    if workload == "squad":
        sequences, targets = squad_sequences(arguments, tokenizer)
        labels, max_length, learning_rate = 2, SQUAD_LENGTH, 5e-5  # paper, table 14
        model = AlbertForQuestionAnswering.from_config(config, tokenizer)
    else:
        sequences, targets, labels, max_length, learning_rate = glue_sequences(arguments, workload, tokenizer)
        model = AlbertForSequenceClassification.from_config(config, tokenizer, labels=labels)
    model.save_pretrained(work / "model")
    count = len(sequences)
    if count < steps * batch_size:
        raise UserError(
            f"pool = {arguments.pool}: gives {count} sequences of {workload}, but a pass takes {steps * batch_size}; "
            "raise it, or lower examples"
        )
    generator = np.random.default_rng(0)
    draws = np.stack([generator.permutation(count)[: steps * batch_size] for _ in range(arguments.rounds + 1)])
    lengths = np.array([len(sequence.input_ids) for sequence in sequences])
    np.savez(
        work / "data.npz",
        input_ids=np.concatenate([sequence.input_ids for sequence in sequences]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        first=np.array([sequence.first for sequence in sequences], np.int32),
        draws=draws,
        **{name: np.array(values, np.int64) for name, values in targets.items()},
    )
    job = Job(
        workload=workload,
        kind="answers" if workload == "squad" else "classification",
        labels=labels,
        batch_size=batch_size,
        max_length=max_length,
        pad_id=tokenizer.pad_id,
        learning_rate=learning_rate,
        warmup_steps=max(1, steps // 10),
        recipe_steps=RECIPE_EXAMPLES[workload] // batch_size,
    )
    (work / "job.json").write_text(json.dumps(asdict(job), indent=2))
    print(
        f"\n{workload}: {count:,} sequences of {lengths.min()} to {lengths.max()} ids, median "
        f"{np.median(lengths):.0f}; a pass is {steps} steps of {batch_size}; ALBERT {arguments.size}, {device}"
    )
    return job, lengths[draws].sum(axis=1).tolist()


def glue_sequences(arguments: Arguments, task: str, tokenizer: Any) -> tuple[list, dict, int, int, float]:
    from albert_jax.tasks.examples import encode_texts
    from albert_jax.tasks.glue import get_task, read_glue

    settings = get_task(task).hyperparameters
    examples = read_glue(task, "train", arguments.data_dir / "glue")[: arguments.pool]
    sequences = encode_texts(examples, tokenizer, settings.max_length).sequences
    labels = [example.label for example in examples]
    return sequences, {"labels": labels}, len(get_task(task).labels), settings.max_length, settings.learning_rate


def squad_sequences(arguments: Arguments, tokenizer: Any) -> tuple[list, dict]:
    from albert_jax.tasks.squad import build_features, read_squad

    found = [path for name in SQUAD_FILES if (path := arguments.data_dir / name).is_file()]
    if not found:
        raise UserError(f"data_dir = {arguments.data_dir}: has none of {', '.join(SQUAD_FILES)}")
    features = build_features(
        read_squad(found[0])[: arguments.pool], tokenizer, training=True, max_length=SQUAD_LENGTH, stride=SQUAD_STRIDE
    )
    return features, {"starts": [f.start for f in features], "ends": [f.end for f in features]}


# ---- the comparison


def compare(arguments: Arguments, work: Path, job: Job, tokens: list[int], dtype: str, device: str) -> dict:
    threads = arguments.threads or os.cpu_count() or 1
    rest = [str(work), dtype, device]
    ours = [sys.executable, str(HERE / "finetune_ours.py"), *rest]
    peer = [str(arguments.peer_python), str(HERE / "finetune_peer.py"), *rest, *["--compile"] * arguments.compile]
    sides: list[Side] = []
    try:
        for name, command in (("albert_jax", ours), ("transformers", peer)):
            sides.append(Side(name, command, environment(device, threads), work / f"{name}.log"))
        wanted = arguments.peer_settings or ("",)
        cases = [
            (side, setting)
            for side in sides
            for setting in side.ready["settings"]
            if side.name == "albert_jax" or any(part in setting for part in wanted)
        ]
        if not any(side.name == "transformers" for side, _ in cases):
            raise UserError(f"peer_settings = {wanted}: transformers has {', '.join(sides[1].ready['settings'])}")
        answers: dict[tuple[Side, str], list[dict]] = {case: [] for case in cases}
        for number in range(arguments.rounds + 1):
            for side, setting in cases:
                answer = side.ask({"setting": setting, "pass": number})
                require_same_work(f"{side.name}, {setting}", answer, arguments, job, tokens[number])
                answers[side, setting].append(answer)
    finally:
        for side in sides:
            side.close()

    rows = [summary(side, setting, answers[side, setting]) for side, setting in cases]
    print_table(f"{job.workload}, {dtype}, batches of {job.batch_size}, {arguments.rounds} rounds", rows)
    for side in sides:
        print(f"{side.name}: {side.ready['about']}, ready after {side.startup:.1f} s")
        for setting, reason in side.ready["skipped"].items():
            print(f"{side.name}: without {setting}: {reason}")
    best = [max((row for row in rows if row["side"] == side.name), key=lambda row: row["rate"]) for side in sides]
    by_round = ratio_by_round(best[0]["seconds"], best[1]["seconds"])
    ratio = best[0]["rate"] / best[1]["rate"]
    print(
        f"albert_jax ({best[0]['setting']}) is {ratio:.2f} times as fast as transformers ({best[1]['setting']}), "
        f"{min(by_round):.2f}-{max(by_round):.2f} by round; largest difference in a pass's loss "
        f"{loss_difference(best):.1e}"
    )
    return dict(
        job=asdict(job),
        size=arguments.size,
        dtype=dtype,
        device=device,
        threads=threads,
        examples=answers[cases[0]][0]["examples"],
        tokens=tokens[1:],
        ratio=ratio,
        ratio_by_round=by_round,
        best=[row["setting"] for row in best],
        loss_difference=loss_difference(best),
        sides=[dict(name=s.name, about=s.ready["about"], startup=s.startup, skipped=s.ready["skipped"]) for s in sides],
        rows=rows,
    )


def require_same_work(who: str, answer: dict, arguments: Arguments, job: Job, tokens: int) -> None:
    steps = -(-arguments.examples // job.batch_size)
    expected = dict(steps=steps, examples=steps * job.batch_size, tokens=tokens)
    found = {name: answer[name] for name in expected}
    if found != expected or not np.isfinite(answer["loss"]):
        raise UserError(f"{who}: did {found} with loss {answer['loss']}, expected {expected}: not the same work")


def summary(side: Side, setting: str, answers: list[dict]) -> dict:
    """The warm-up apart, what the passes of a setting took."""
    warmup, *timed = answers
    seconds = [answer["seconds"] for answer in timed]
    median = statistics.median(seconds)
    examples = timed[0]["examples"]
    tokens, places = (sum(answer[name] for answer in timed) for name in ("tokens", "places"))
    return dict(
        side=side.name,
        setting=setting,
        seconds=seconds,
        rate=examples / median,
        rates=[examples / one for one in seconds],
        tokens_per_second=statistics.median(answer["tokens"] / answer["seconds"] for answer in timed),
        padding=1 - tokens / places,
        losses=[answer["loss"] for answer in timed],
        warmup_seconds=warmup["wall"],
    )


def print_table(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    print(f"{'':44}{'examples/s':>11}{'spread':>16}{'tokens/s':>11}{'padding':>9}{'loss':>9}{'warm-up s':>11}")
    for row in rows:
        spread = f"{min(row['rates']):.1f}-{max(row['rates']):.1f}"
        print(
            f"{row['side'] + ', ' + row['setting']:44}{row['rate']:11.1f}{spread:>16}"
            f"{row['tokens_per_second']:11,.0f}{row['padding']:9.1%}{statistics.mean(row['losses']):9.4f}"
            f"{row['warmup_seconds']:11.1f}"
        )


def loss_difference(best: list[dict]) -> float:
    """The largest over the passes; batches and dropout differ, so it is small, not zero."""
    return max(abs(mine - theirs) for mine, theirs in zip(best[0]["losses"], best[1]["losses"], strict=True))


if __name__ == "__main__":
    exit_cleanly(main)
