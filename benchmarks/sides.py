"""What the benchmarks with a peer share: sides, which are processes of their own environments, questions and answers in
lines of JSON, and figures from rounds in which they took turns."""

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albert_jax.errors import UserError


class Side:
    """One side, in its own process: it says one line when it is ready, then a line for each that it is sent."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path):
        self.name, self.log = name, log
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | environment,
        )
        self.ready = self._answer()
        self.startup = time.perf_counter() - start

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer, with the seconds that it took to come as `wall`."""
        start = time.perf_counter()
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer() | {"wall": time.perf_counter() - start}

    def close(self) -> None:
        """Ends it, whatever it is at."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            last = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise UserError(f"{self.name}: ended without an answer: {' '.join(self.process.args)}\n{last}")
        return json.loads(line)


def environment(device: str, threads: int | None = None) -> dict[str, str]:
    """Variables with which two sides share a machine."""
    return {
        "JAX_PLATFORMS": "cuda" if device == "gpu" else "cpu",
        # Both hold the GPU at once.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(threads or cores()),
        # Threads that spin while the other side has its turn would slow it down.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_device(device: str | None) -> str:
    """`device`, by default "gpu" where there is one. Raises `UserError` for one that is not there."""
    present = shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()
    if device == "gpu" and not present:
        raise UserError("device = gpu: there is no NVIDIA GPU here (neither nvidia-smi nor /dev/nvidiactl)")
    return device or ("gpu" if present else "cpu")


def require_python(python: Path | None) -> None:
    if python is not None and shutil.which(str(python)) is None:
        raise UserError(f"peer_python = {python}: is not there, or not a program")


def ratio_by_round(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as fast as theirs ours was, from the seconds of each round."""
    return [their / our for our, their in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def write_results(path: Path, results: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
