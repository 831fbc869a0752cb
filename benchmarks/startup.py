"""How long a run takes to start, and how long a checkpoint stops it: `python benchmarks/startup.py`.

Start-up is from the start of a process to the end of its first step, split into its imports (those of pretrain.py), the
making of the state, compilation of the step, and the step; first with nothing compiled before ("cold"), then with what
JAX's persistent compilation cache kept of that ("cached"). Every round begins with an empty cache.

Then steps run as in pretrain.py, with a checkpoint every few of them into a temporary folder. A save is asynchronous:
printed is how long it holds the loop up, beside the time of a step, and how the steps fare while it is being written.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sides import chosen_device, environment, spread, write_results

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
STAGES = ("imports", "state", "compile", "first step")
SHAPES = {"cpu": "8x128", "gpu": "64x512"}


@dataclass(frozen=True)
class Arguments:
    """Measures start-up and checkpoints."""

    size: Literal["tiny", "base", "large", "xlarge", "xxlarge"] = "base"
    shape: str | None = None
    """Sequences, x, and their length; 8x128 on a CPU, 64x512 on a GPU by default."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """float32 on a CPU, bfloat16 on a GPU by default."""
    device: Literal["cpu", "gpu"] | None = None
    """The GPU where there is one, by default."""
    rounds: int = 3
    """Of starts; each is a cold one and a cached one."""
    saves: int = 3
    """Checkpoints written."""
    steps_between: int = 4
    """Steps from one checkpoint to the next."""
    folder: Path | None = None
    """Where checkpoints are written for the time being: the disk that is measured. The system's temporary folder by
    default."""
    output: Path = Path("build/startup.json")


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__, use_underscores=True)
    for name in ("rounds", "saves", "steps_between"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} = {getattr(arguments, name)}: must be at least 1")
    device = chosen_device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device == "gpu" else "float32")
    shape = arguments.shape or SHAPES[device]
    rows, _, length = shape.partition("x")
    if not (rows.isdigit() and length.isdigit() and int(rows) and int(length)):
        raise UserError(f"shape = {shape}: expected BATCHxLENGTH, such as 8x128")
    if arguments.folder is not None and not arguments.folder.is_dir():
        raise UserError(f"folder = {arguments.folder}: is not a folder")

    job = dict(
        size=arguments.size,
        rows=int(rows),
        length=int(length),
        dtype=dtype,
        saves=arguments.saves,
        steps_between=arguments.steps_between,
    )
    starts: dict[str, list[dict[str, Any]]] = {"cold": [], "cached": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write_batch(Path(folder), job)
        for number in range(arguments.rounds):
            cache = Path(folder) / f"cache-{number}"
            for found in starts.values():
                found.append(start(Path(folder), job | {"saves": 0}, device, cache))
            print(
                f"round {number + 1}: "
                + ", ".join(f"{kind} {sum_of(found[-1]):.1f} s" for kind, found in starts.items())
            )
        saved = start(Path(folder), job, device, cache)
    about = starts["cold"][0]["about"]
    print(f"\nALBERT {arguments.size}, {shape}, {dtype}, {arguments.rounds} rounds; {about}")
    print(f"{'seconds to the end of the first step':38}" + "".join(f"{name:>20}" for name in (*STAGES, "all")))
    for kind, found in starts.items():
        columns = [[one["stages"][name] for one in found] for name in STAGES] + [[sum_of(one) for one in found]]
        print(f"{kind:38}" + "".join(f"{spread(column):>20}" for column in columns))
    print_saves(saved["saves"])
    result = dict(job=job, device=device, about=about, starts=starts, saves=saved["saves"])
    write_results(arguments.output, result)
    print(f"written to {arguments.output}")


def write_batch(folder: Path, job: dict[str, Any]) -> None:
    import jax
    import numpy as np
    from training import synthetic_batch

    jax.config.update("jax_platforms", "cpu")  # the device is for the processes that are measured
    np.savez(folder / "data.npz", **synthetic_batch(job["rows"], job["length"]))


def start(folder: Path, job: dict[str, Any], device: str, cache: Path) -> dict[str, Any]:
    """What a fresh process says of its start."""
    variables = {
        **os.environ,
        "JAX_PLATFORMS": environment(device)["JAX_PLATFORMS"],
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        # All of it: by default what compiles within a second is not worth a file.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    (folder / "job.json").write_text(json.dumps(job | {"started": time.time()}))
    command = [sys.executable, str(HERE / "startup_ours.py"), str(folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-20:])
        raise UserError(f"{' '.join(command)}: ended with code {done.returncode}\n{last}")
    return json.loads(done.stdout.splitlines()[-1])


def sum_of(one: dict[str, Any]) -> float:
    return sum(one["stages"].values())


def print_saves(saves: dict[str, Any]) -> None:
    step, while_writing = (statistics.median(saves[name]) for name in ("undisturbed_steps", "steps_while_writing"))
    blocked = statistics.median(saves["blocked"])
    print(
        f"\na checkpoint of {saves['bytes'] / 1e6:,.0f} MB holds the loop up for {spread(saves['blocked'], '.3f')} s, "
        f"{blocked / step:.2f} steps of {step:.3f} s; steps take {while_writing:.3f} s while it is written, "
        f"{spread(saves['written'], '.2f')} s if the loop waits for it"
    )


if __name__ == "__main__":
    exit_cleanly(main)
