"""All that is asked of one GPU, in one command: `python benchmarks/gpu.py --peer_python PEER/bin/python`.

In turn: numerics.py (is the step the CPU's?), then for each size train_step.py (tokens per second beside torch.compile,
MFU, with the targets) and parts.py (which parts are farthest from their floors), and a summary. Each can be run by
itself; each is a process of its own here, so that what one leaves in the GPU's memory is gone. Results are written as
they come, into the folder `output`. Where the device's time is short, ask for one size at a time, and let
JAX_COMPILATION_CACHE_DIR name a folder that outlives the command; XLA_FLAGS are heeded too.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sides import chosen_device, require_python
from train_step import OURS, TARGETS, best

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
ROWS = {"tiny": 64, "base": 128, "large": 64, "xlarge": 32, "xxlarge": 16}
"""Sequences of 512 whose parts are measured: enough to fill the GPU, and their inputs all fit at once."""


@dataclass(frozen=True)
class Arguments:
    """Measures everything on a GPU."""

    peer_python: Path | None = None
    """Python of an environment with transformers and torch for CUDA; without it only we are measured."""
    sizes: tuple[Literal["tiny", "base", "large", "xlarge", "xxlarge"], ...] = ("base", "large", "xlarge", "xxlarge")
    shapes: tuple[str, ...] = ("autox512",)
    """Of the steps; see train_step.py."""
    batch_size: int = 512
    """Sequences of a step's batch where the shape is auto."""
    attention: tuple[str, ...] = ()
    remat: tuple[str, ...] = ("none", "matmuls")
    parts_shape: str | None = None
    """Of the parts; by default sequences of 512, 128 of them for base, 64 for large, 32 for xlarge, 16 for xxlarge."""
    rounds: int = 5
    seconds: float = 3.0
    """Of a pass of steps, about."""
    device: Literal["cpu", "gpu"] = "gpu"
    """"cpu" is to try this script with."""
    output: Path = Path("build/gpu")


def main() -> int:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True)
    device = chosen_device(arguments.device)
    require_python(arguments.peer_python)
    output = arguments.output
    peer = [] if arguments.peer_python is None else ["--peer_python", str(arguments.peer_python)]
    common = ["--device", device]

    smallest = arguments.sizes[0]
    command = ["numerics.py", *common, "--size", smallest, "--output", str(output / "numerics.json")]
    agrees = call([*command, *(["--shape", "2x32"] if smallest == "tiny" else [])]) == 0
    steps, parts = {}, {}
    for size in arguments.sizes:
        path = output / f"train_step_{size}.json"
        command = ["train_step.py", *common, *peer, "--sizes", size, "--shapes", *arguments.shapes]
        command += ["--dtypes", "bfloat16", "--batch_size", str(arguments.batch_size), "--remat", *arguments.remat]
        command += ["--attention", *arguments.attention] if arguments.attention else []
        command += ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds), "--output", str(path)]
        if call(command) == 0:
            steps[size] = json.loads(path.read_text())[0]
        path = output / f"parts_{size}.json"
        command = ["parts.py", *common, *peer, "--size", size, "--dtype", "bfloat16", "--output", str(path)]
        command += ["--shape", arguments.parts_shape or f"{ROWS[size]}x512", "--rounds", str(arguments.rounds)]
        command += ["--seconds", str(min(0.2, arguments.seconds / 10))]
        if call(command) == 0:
            parts[size] = json.loads(path.read_text())
    print_summary(arguments, steps, parts)
    failed = [
        f"{what} {size}"
        for what, found in (("train_step", steps), ("parts", parts))
        for size in arguments.sizes
        if size not in found
    ]
    if failed:
        raise UserError(f"{', '.join(failed)}: did not end well; see above")
    return 0 if agrees else 1


def call(command: list[str]) -> int:
    """Runs one of the scripts beside this one, which prints for itself."""
    print(f"\n---- {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]], check=False).returncode


def print_summary(arguments: Arguments, steps: dict[str, Any], parts: dict[str, Any]) -> None:
    print(
        f"\n{'':9}{'tokens/s':>11}{'peer':>11}{'ratio':>7}{'target':>8}{'first':>7}{'MFU':>7}{'target':>8}{'first':>7}"
    )
    for size, result in steps.items():
        ours = best(result["rows"], OURS)
        compiled = result["comparisons"].get("torch.compile")
        peer = [row for row in result["rows"] if compiled and row["setting"] == compiled["setting"]]
        target = TARGETS.get(size)
        cells = [
            f"{ours['tokens_per_second']:,.0f}",
            f"{peer[0]['tokens_per_second']:,.0f}" if peer else "",
            f"{compiled['ratio']:.2f}" if compiled else "",
            *(("", "") if target is None else (f"{target.ratio:.2f}", f"{target.first_ratio:.2f}")),
            "" if ours["mfu"] is None else f"{ours['mfu']:.1%}",
            *(("", "") if target is None else (f"{target.mfu:.0%}", f"{target.first_mfu:.0%}")),
        ]
        print(
            f"{size:9}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (11, 11, 7, 8, 7, 7, 8, 7), strict=True))
        )
    for size, result in parts.items():
        farthest = list(result["beyond_floor"].items())[:3]
        named = ", ".join(f"{name} {seconds / result['step_seconds']:.1%}" for name, seconds in farthest)
        print(f"{size:9}of the step beyond the floors: {named}")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    exit_cleanly(main)
