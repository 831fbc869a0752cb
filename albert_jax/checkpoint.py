"""Checkpoints: the one place that knows Orbax. Weights, optimizer and position travel together; a checkpoint that was
not written to its end does not exist; the newest few and the best stay."""

import logging
import math
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from albert_jax.errors import UserError, disk_errors_explained

# Orbax's threads log the traceback of every error that they also hand on to us, several times over.
logging.getLogger("absl").setLevel(logging.CRITICAL)

BEST_METRIC = "held_out_loss"

ADVICE = "make room and run the same command again: it continues from the last complete checkpoint"


class Checkpoints:
    """The numbered checkpoints of one folder. Saving is asynchronous; `close` waits for it."""

    def __init__(self, directory: Path, keep: int = 1):
        """Keeps the `keep` newest, and the one with the lowest `BEST_METRIC` among those saved with one."""
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[BEST_METRIC],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self.directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return latest.step if latest else None

    def save(self, step: int, state: Any, held_out_loss: float | None) -> None:
        """Starts writing; the state may be changed as soon as this returns. Raises what the save before it met."""
        judged = held_out_loss is not None and math.isfinite(held_out_loss)
        metrics = {BEST_METRIC: held_out_loss} if judged else None
        with disk_errors_explained(self.directory, ADVICE):
            self._checkpointer.save_async(step, state, force=True, metrics=metrics)

    def load(self, step: int, abstract: Any = None) -> Any:
        """The state of `step`, on the shardings of `abstract`; nested dicts of arrays as they were saved without it."""
        try:
            return self._checkpointer.load(step, abstract)
        except Exception as error:
            others = [checkpoint.step for checkpoint in self._checkpointer.checkpoints if checkpoint.step != step]
            way_on = f"to continue from step {max(others)}" if others else "to begin again"
            raise UserError(f"{_damage(self.directory / str(step), error)}; remove that folder {way_on}") from error

    def wait(self) -> None:
        with disk_errors_explained(self.directory, ADVICE):
            self._checkpointer.wait()

    def close(self) -> None:
        with disk_errors_explained(self.directory, ADVICE):
            self._checkpointer.close()


def read_params(directory: Path, step: int | None, abstract: Any) -> tuple[int, Any]:
    """The parameters alone of a step, by default the newest, and that step. Changes nothing in the folder, which a run
    may be writing to."""
    with ocp.training.Checkpointer(directory.absolute(), cleanup_tmp_directories=False) as checkpointer:
        steps = sorted(checkpoint.step for checkpoint in checkpointer.checkpoints)
        if not steps:
            raise UserError(f"{directory}: holds no complete checkpoint yet")
        if step is not None and step not in steps:
            raise UserError(f"{directory}: has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        chosen = steps[-1] if step is None else step
        loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
        try:
            with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
                return chosen, checkpointer.load(chosen, {"params": abstract})["params"]
        except Exception as error:
            others = ", ".join(str(other) for other in steps if other != chosen)
            advice = f"; there are also {others}" if others else ""
            raise UserError(_damage(directory / str(chosen), error) + advice) from error


def _damage(checkpoint: Path, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    return f"{checkpoint}: this checkpoint is damaged or not ours ({reason})"
