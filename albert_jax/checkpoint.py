"""Checkpoints: the one place that knows Orbax. Weights, optimizer and position travel together; a checkpoint that was
not written to its end does not exist; the newest few and the best stay."""

import inspect
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from albert_jax.errors import UserError, disk_errors_explained

# Orbax's threads log the traceback of every error that they also hand on to us, several times over.
logging.getLogger("absl").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

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
            with _told_once():
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
            _require_shapes(directory / str(chosen), checkpointer.metadata(chosen).metadata["params"], abstract)
            with _told_once(), ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
                return chosen, checkpointer.load(chosen, {"params": abstract})["params"]
        except UserError:
            raise
        except Exception as error:
            others = ", ".join(str(other) for other in steps if other != chosen)
            advice = f"; there are also {others}" if others else ""
            raise UserError(_damage(directory / str(chosen), error) + advice) from error


def _require_shapes(checkpoint: Path, stored: Any, wanted: Any) -> None:
    """Raises `UserError` naming the first parameter that is not there, or is of another shape."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

    found = shapes(stored)
    for path, shape in shapes(wanted).items():
        if found.get(path) != shape:
            what = f"{path} of shape {found[path]}" if path in found else f"no {path}"
            raise UserError(
                f"{checkpoint}: holds {what}, the run's configuration makes it {shape}; they do not belong together, "
                "restore the configuration"
            )


@contextmanager
def _told_once() -> Iterator[None]:
    """Where one array cannot be read, Orbax gives up the others, and these print tracebacks of their own on standard
    error, from threads and at any time later. The error that is raised says enough."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        is_echo = inspect.iscoroutine(unraisable.object) or "loop is closed" in str(unraisable.exc_value)
        if not is_echo:
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before  # not after an error: the threads are still at it


def _damage(checkpoint: Path, error: Exception) -> str:
    error = error.__cause__ or error  # Orbax's own says only that none of its ways of reading worked
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    return f"{checkpoint}: this checkpoint is damaged or not ours ({reason})"
