"""A start that benchmarks/startup.py measures: `startup_ours.py FOLDER`."""

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    importlib.import_module("pretrain")
    imported = time.time()

    import jax
    import numpy as np
    from training import about, network, training

    from albert_jax.config import ComputeConfig

    data = dict(np.load(folder / "data.npz"))
    began = time.time()
    whole = training(network(job["size"]), ComputeConfig(dtype=job["dtype"]), data, accumulation=1)
    with jax.set_mesh(whole.mesh):
        state = jax.block_until_ready(whole.create())
        created = time.time()
        step, _ = whole.compile()
        compiled = time.time()
        state, outcome = step(state, whole.batch, 0)
        outcome.loss.block_until_ready()
        stages = {
            "imports": imported - job["started"],
            "state": created - began,
            "compile": compiled - created,
            "first step": time.time() - compiled,
        }
        saves = None
        if job["saves"]:
            with tempfile.TemporaryDirectory(dir=folder) as directory:
                loop = Loop(lambda state: step(state, whole.batch, 0), state)
                saves = measure_saves(loop, Path(directory), job["saves"], job["steps_between"])
    print(json.dumps(dict(stages=stages, about=about(), saves=saves)))


class Loop:
    """A state, and the steps that change it."""

    def __init__(self, step: Any, state: Any):
        self.step, self.state = step, state

    def take(self, count: int) -> list[float]:
        """Seconds of each of so many steps, each waited for."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self.state, outcome = self.step(self.state)
            outcome.loss.block_until_ready()
            seconds.append(time.perf_counter() - start)
        return seconds


def measure_saves(loop: Loop, directory: Path, saves: int, steps_between: int) -> dict[str, Any]:
    """Saves begin when the step before is done: pretrain.py looks at its loss first."""
    from albert_jax.checkpoint import Checkpoints
    from albert_jax.trees import tree_bytes

    checkpoints = Checkpoints(directory, keep=1)
    undisturbed, while_writing, blocked, written = loop.take(steps_between), [], [], []
    for number in range(saves):
        start = time.perf_counter()
        checkpoints.save(2 * number, loop.state, None)
        blocked.append(time.perf_counter() - start)
        while_writing += loop.take(steps_between)
        checkpoints.wait()
        undisturbed += loop.take(1)
        # And one with nothing beside it, for the time that writing takes.
        start = time.perf_counter()
        checkpoints.save(2 * number + 1, loop.state, None)
        checkpoints.wait()
        written.append(time.perf_counter() - start)
    checkpoints.close()
    return dict(
        bytes=tree_bytes(loop.state),
        undisturbed_steps=undisturbed,
        steps_while_writing=while_writing,
        blocked=blocked,
        written=written,
    )


if __name__ == "__main__":
    main()
