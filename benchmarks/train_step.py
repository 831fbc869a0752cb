"""How fast a pretraining step is, beside transformers:
`python benchmarks/train_step.py --peer_python PEER/bin/python`, and with `--device gpu --sizes base large xlarge
xxlarge` what the project wants of an H100, beside what it gets.

PEER is a virtual environment with transformers and torch; without it we are measured alone. A step is a whole one:
masked-LM and sentence-order loss of all parts of a batch, gradients, clipping, and LAMB, or AdamW on the peer's side,
since torch has no LAMB. Both sides start from the same weights and see the same sequences, full rows of which 15 % of
the tokens are predicted; there is no dropout. Before anything is timed, their losses of the first step have to agree.
Each side is a process of its own; they take turns, a pass of some steps at a time, and a side is judged by the best of
its settings. Data is on the device beforehand.

Printed for each size, type and shape: tokens per second (median and range of the rounds); MFU, of the data sheet's peak
where the device is known and the type is bfloat16, and of the fastest matrix product that either side measured in the
same run; memory (on a CPU the process's peak, on a GPU what the compiler plans for us and torch's peak); seconds to
compile; and how many times as fast as the peer we are, by round. Model FLOPs are the same for both: what the network
needs with the head at the predictions only, nothing recomputed.
"""

import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import Side, chosen_device, environment, ratio_by_round, require_python, spread, write_results

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
OURS, PEER = "albert_jax", "transformers"
SHAPES = {"cpu": ("8x128", "4x512"), "gpu": ("autox512",)}
MOST_TOKENS = 65_536  # of a part; more are no faster on any chip
MEMORY_SHARE = 0.45  # of a GPU, for each side; ours is XLA_PYTHON_CLIENT_MEM_FRACTION


class Target(NamedTuple):
    """What an H100 is to reach at 512 tokens in bfloat16: tokens per second over those of torch.compile, and MFU of 989
    TFLOP/s; and what comes first."""

    ratio: float
    mfu: float
    first_ratio: float
    first_mfu: float


TARGETS = {
    "base": Target(1.5, 0.48, 1.25, 0.40),
    "large": Target(1.4, 0.53, 1.18, 0.45),
    "xlarge": Target(1.25, 0.64, 1.12, 0.58),
    "xxlarge": Target(1.12, 0.70, 1.03, 0.64),
}


@dataclass(frozen=True)
class Arguments:
    """Measures whole pretraining steps."""

    peer_python: Path | None = None
    """Python of an environment with transformers and torch; without it only we are measured."""
    sizes: tuple[Literal["tiny", "base", "large", "xlarge", "xxlarge"], ...] = ("base",)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | None = None
    """Both on a CPU, bfloat16 on a GPU by default."""
    shapes: tuple[str, ...] | None = None
    """Sequences of a part of the batch, x, and their length, such as 8x128; for autox512 each setting finds the largest
    power of two of up to 65,536 tokens that fits. 8x128 and 4x512 on a CPU, autox512 on a GPU by default."""
    accumulation: int = 1
    """Parts of a batch; not for auto, where the batch is of `batch_size`."""
    batch_size: int = 512
    """Sequences of a batch where the shape is auto."""
    attention: tuple[str, ...] = ()
    """Settings of ours: values of `compute.attention`; its default if none."""
    remat: tuple[str, ...] = ("none", "matmuls")
    """Settings of ours: values of `compute.remat`."""
    packed: bool = False
    """Ours as pretrain.py packs rows by default: a row still holds one sequence, but could hold more, and attention
    asks which token belongs to which."""
    peer_attention: tuple[Literal["sdpa", "eager"], ...] = ("sdpa",)
    compile: bool = False
    """Also the peer with torch.compile, which may take minutes to warm up; always on a GPU."""
    compile_modes: tuple[str, ...] = ("default",)
    """Of torch.compile, such as max-autotune-no-cudagraphs."""
    device: Literal["cpu", "gpu"] | None = None
    """The GPU where there is one, by default."""
    rounds: int = 5
    seconds: float = 3.0
    """How long a pass is, about, and at least one step."""
    threads: int | None = None
    """Cores of each side; all by default. Fewer only on Linux."""
    output: Path = Path("build/train_step.json")


@dataclass(frozen=True)
class Job:
    """What both sides do, beside the data and the weights."""

    size: str
    dtype: str
    device: str
    microbatch: int | None
    """None: the largest that fits, from `largest` down"""
    largest: int
    attention: tuple[str, ...]
    remat: tuple[str, ...]
    peer_attention: tuple[str, ...]
    compile_modes: tuple[str, ...]
    products: tuple[tuple[int, int, int], ...]
    """rows, inner size and columns of what may be the fastest matrix product"""
    ceiling_seconds: float
    """how long each is repeated"""
    memory_share: float = MEMORY_SHARE


def main() -> None:
    import tyro

    run(tyro.cli(Arguments, description=__doc__, use_underscores=True))


def run(arguments: Arguments) -> list[dict[str, Any]]:
    """All comparisons, printed and written one by one; the results."""
    for name in ("accumulation", "batch_size", "rounds"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} = {getattr(arguments, name)}: must be at least 1")
    device = chosen_device(arguments.device)
    require_python(arguments.peer_python)
    shapes = [parse_shape(arguments, text) for text in arguments.shapes or SHAPES[device]]
    dtypes = arguments.dtypes or (("bfloat16",) if device == "gpu" else ("float32", "bfloat16"))
    if arguments.threads is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    results = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_model(size, Path(folder) / "model")
            for text, (microbatch, sequences, length) in zip(arguments.shapes or SHAPES[device], shapes, strict=True):
                write_data(Path(folder) / "data.npz", sequences, length, arguments.packed)
                for dtype in dtypes:
                    job = make_job(arguments, size, dtype, device, microbatch, sequences, length)
                    results.append(compare(arguments, Path(folder), job, text, sequences, length))
                    write_results(arguments.output, results)
    print(f"written to {arguments.output}")
    return results


def parse_shape(arguments: Arguments, text: str) -> tuple[int | None, int, int]:
    """(sequences of a part, None for auto; of the batch; length)."""
    batch, _, length = text.rpartition("x")
    if not length.isdigit() or not (batch.isdigit() or batch == "auto") or "0" in (batch, length):
        raise UserError(f"shapes = {text}: expected BATCHxLENGTH, such as 8x128 or autox512")
    if batch == "auto":
        if arguments.batch_size & (arguments.batch_size - 1):
            raise UserError(f"batch_size = {arguments.batch_size}: must be a power of two for the shape {text}")
        return None, arguments.batch_size, int(length)
    return int(batch), int(batch) * arguments.accumulation, int(length)


# ---- what both sides read


def write_model(size: str, folder: Path) -> None:
    """Random weights in Hugging Face's layout."""
    import jax
    from training import network

    from albert_jax.pretrained import AlbertForPreTraining

    jax.config.update("jax_platforms", "cpu")  # the device is for the sides
    AlbertForPreTraining.from_config(network(size)).save_pretrained(folder)


def write_data(path: Path, sequences: int, length: int, packed: bool) -> None:
    """A batch, with its labels as transformers wants them beside ours."""
    from training import synthetic_batch

    arrays = synthetic_batch(sequences, length, packed=packed)
    labels = np.full(arrays["input_ids"].shape, -100, np.int64)
    rows, places = np.nonzero(arrays["masked_lm_weights"])
    labels[rows, arrays["masked_lm_positions"][rows, places]] = arrays["masked_lm_labels"][rows, places]
    # One pair fills each row, also where rows could hold several.
    order = arrays["sentence_order_labels"].reshape(sequences, -1)[:, 0].astype(np.int64)
    np.savez(path, **arrays, peer_labels=labels, peer_sentence_order_label=order)


def make_job(
    arguments: Arguments, size: str, dtype: str, device: str, microbatch: int | None, sequences: int, length: int
) -> Job:
    from training import network, product_shapes

    tokens = (microbatch or sequences) * length
    return Job(
        size=size,
        dtype=dtype,
        device=device,
        microbatch=microbatch,
        largest=min(sequences, max(1, 2 ** (MOST_TOKENS // length).bit_length() // 2)),
        attention=arguments.attention,
        remat=arguments.remat,
        peer_attention=arguments.peer_attention,
        compile_modes=arguments.compile_modes if arguments.compile or device == "gpu" else (),
        products=tuple(product_shapes(network(size), tokens, device == "gpu")),
        ceiling_seconds=min(0.3, arguments.seconds / 4),
    )


# ---- the comparison


def compare(arguments: Arguments, work: Path, job: Job, shape: str, sequences: int, length: int) -> dict[str, Any]:
    (work / "job.json").write_text(json.dumps(asdict(job)))
    commands = {OURS: [sys.executable, str(HERE / "train_step_ours.py"), str(work)]}
    if arguments.peer_python is not None:
        commands[PEER] = [str(arguments.peer_python), str(HERE / "train_step_peer.py"), str(work)]
    sides: list[Side] = []
    try:
        for name, command in commands.items():
            sides.append(Side(name, command, environment(job.device, arguments.threads), work / f"{name}.log"))
        ceilings = [[side.ask({"ceiling": True})] for side in sides]
        cases, failed = warm_up(sides)
        require_same_losses(job, cases)
        steps = {}
        for case, first in cases.items():
            seconds = take(case, 1)["seconds"]
            steps[case] = max(1, round(arguments.seconds / seconds))
            first["passes"] = []
        for _ in range(arguments.rounds):
            for case, first in cases.items():
                first["passes"].append(take(case, steps[case]))
        for side, found in zip(sides, ceilings, strict=True):
            found.append(side.ask({"ceiling": True}))
    finally:
        for side in sides:
            side.close()

    best_ceilings = [max(found, key=lambda one: one["flops"]) for found in ceilings]
    ceiling = max(one["flops"] for one in best_ceilings)
    peak = peak_flops(job, sides[0].ready["device_kind"])
    flops = flops_per_sequence(job, work, length)
    rows = [summary(case, first, length, flops, peak, ceiling) for case, first in cases.items()]
    print(
        f"\nALBERT {job.size}, {job.dtype}, {shape}{' packed' * arguments.packed}, batches of {sequences} sequences, "
        f"{arguments.rounds} rounds"
    )
    print_table(rows)
    for side, found in zip(sides, best_ceilings, strict=True):
        print(
            f"{side.name}: {side.ready['about']}; fastest product {found['flops'] / 1e12:.3g} TFLOP/s {found['shape']}"
        )
        for setting, reason in side.ready["skipped"].items():
            print(f"{side.name}: without {setting}: {reason}")
    for name, setting, reason in failed:
        print(f"{name}: without {setting}: {reason}")
    result = dict(
        job=asdict(job),
        shape=shape,
        packed=arguments.packed,
        sequences=sequences,
        length=length,
        flops_per_sequence=flops,
        peak_flops=peak,
        ceilings=ceilings,
        sides=[dict(name=side.name, startup=side.startup, **side.ready) for side in sides],
        failed=failed,
        rows=rows,
        largest_loss_difference=largest_difference(cases),
    )
    ours = best(rows, OURS)
    result["comparisons"] = comparisons = {
        what: compared(ours, best(theirs, PEER))
        for what, theirs in (
            ("best peer", rows),
            ("torch.compile", [row for row in rows if "compiled" in row["setting"]]),
        )
        if any(row["side"] == PEER for row in theirs)
    }
    if comparisons:
        one = comparisons["best peer"]
        print(
            f"{OURS} ({ours['setting']}) is {spread(one['by_round'])} times as fast as {PEER} ({one['setting']}); "
            f"losses of the first step differ by {result['largest_loss_difference']:.1e}"
        )
    if job.device == "gpu" and job.dtype == "bfloat16" and job.size in TARGETS:
        result["targets"] = print_targets(job.size, ours, comparisons.get("torch.compile"))
    return result


def warm_up(sides: list[Side]) -> tuple[dict[tuple[Side, str], dict[str, Any]], list[tuple[str, str, str]]]:
    """What each setting says after its first steps, compiled; and those that could not, with the reason."""
    cases, failed = {}, []
    for side in sides:
        for setting in side.ready["settings"]:
            first = side.ask({"setting": setting})
            if "failed" in first:
                failed.append((side.name, setting, first["failed"]))
            else:
                cases[side, setting] = first
    for name in {side.name for side in sides} - {side.name for side, _ in cases}:
        raise UserError(f"{name}: no setting works: {failed}")
    return cases, failed


def require_same_losses(job: Job, cases: dict[tuple[Side, str], dict[str, Any]]) -> None:
    # Float32 on a GPU is TF32 on both sides.
    tolerance = 5e-2 if job.dtype == "bfloat16" else 5e-3 if job.device == "gpu" else 1e-4
    if not largest_difference(cases) <= tolerance:
        found = ", ".join(
            f"{side.name}, {setting}: {first['first_loss']:.6f}" for (side, setting), first in cases.items()
        )
        raise UserError(f"the losses of the first step differ by more than {tolerance}: {found}: not the same work")


def largest_difference(cases: dict[tuple[Side, str], dict[str, Any]]) -> float:
    losses = [first["first_loss"] for first in cases.values()]
    return float(np.ptp(losses))


def take(case: tuple[Side, str], steps: int) -> dict[str, Any]:
    side, setting = case
    answer = side.ask({"setting": setting, "steps": steps})
    if "failed" in answer:
        raise UserError(f"{side.name}, {setting}: {answer['failed']}")
    return answer


def peak_flops(job: Job, device_kind: str) -> float | None:
    """The data sheet's, which are for bfloat16."""
    from albert_jax.flops import PEAK_FLOPS

    found = [peak for name, peak in PEAK_FLOPS.items() if name.lower() in device_kind.lower()]
    return found[0] if found and job.dtype == "bfloat16" else None


def flops_per_sequence(job: Job, work: Path, length: int) -> float:
    from training import network

    from albert_jax.flops import training_flops_per_sequence

    predictions = int(np.load(work / "data.npz")["masked_lm_weights"][0].sum())
    return training_flops_per_sequence(network(job.size), length, predictions)


def summary(
    case: tuple[Side, str], first: dict[str, Any], length: int, flops: float, peak: float | None, ceiling: float
) -> dict[str, Any]:
    side, setting = case
    per_sequence = [one["seconds"] / one["sequences"] for one in first["passes"]]
    rate = 1 / statistics.median(per_sequence)
    return dict(
        side=side.name,
        setting=setting,
        microbatch=first["microbatch"],
        attention=first.get("attention"),
        seconds_per_sequence=per_sequence,
        step_seconds=statistics.median(one["seconds"] / one["steps"] for one in first["passes"]),
        cpu_step_seconds=statistics.median(one["cpu_seconds"] / one["steps"] for one in first["passes"]),
        tokens_per_second=length * rate,
        rates=[length / one for one in per_sequence],
        mfu=None if peak is None else flops * rate / peak,
        mfu_of_ceiling=flops * rate / ceiling,
        memory=first["memory"],
        allocator_peak=first.get("allocator_peak"),
        compile_seconds=first["compile_seconds"],
        first_loss=first["first_loss"],
        losses=[one["loss"] for one in first["passes"]],
    )


def best(rows: list[dict[str, Any]], side: str) -> dict[str, Any]:
    return max((row for row in rows if row["side"] == side), key=lambda row: row["tokens_per_second"])


def compared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    by_round = ratio_by_round(ours["seconds_per_sequence"], theirs["seconds_per_sequence"])
    return dict(ours=ours["setting"], setting=theirs["setting"], by_round=by_round, ratio=statistics.median(by_round))


def print_table(rows: list[dict[str, Any]]) -> None:
    columns = ("part", "tokens/s", "range", "step s", "CPU s", "MFU", "of ceiling", "GB", "compile s")
    print(f"{'':54}" + "".join(f"{name:>{width}}" for name, width in zip(columns, WIDTHS, strict=True)))
    for row in rows:
        cells = (
            str(row["microbatch"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{min(row['rates']):,.0f}-{max(row['rates']):,.0f}",
            f"{row['step_seconds']:.3f}",
            f"{row['cpu_step_seconds']:.3f}",
            "" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['mfu_of_ceiling']:.1%}",
            "" if row["memory"] is None else f"{row['memory'] / 1e9:.2f}",
            f"{row['compile_seconds']:.1f}",
        )
        setting = row["setting"].replace("attention auto", f"attention auto ({row['attention']})")
        named = f"{row['side']}, {setting}"
        print(f"{named:54}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)))


WIDTHS = (6, 12, 20, 9, 9, 8, 12, 8, 11)


def print_targets(size: str, ours: dict[str, Any], compiled: dict[str, Any] | None) -> dict[str, Any]:
    """What was wanted beside what was reached."""
    target = TARGETS[size]
    reached = {"tokens/s over torch.compile": (compiled and compiled["ratio"], target.first_ratio, target.ratio)}
    reached["MFU of the data sheet"] = (ours["mfu"], target.first_mfu, target.mfu)
    for what, (value, first, goal) in reached.items():
        shown = "not measured" if value is None else f"{value:.3f}"
        verdict = "" if value is None else "target" if value >= goal else "first gate" if value >= first else "below"
        print(f"{size:8} {what:28} {shown:>12}   target {goal:.2f}, first gate {first:.2f}   {verdict}")
    return {what: dict(value=value, first_gate=first, target=goal) for what, (value, first, goal) in reached.items()}


if __name__ == "__main__":
    exit_cleanly(main)
