"""Checkpoints: the one place that knows Orbax. Weights, optimizer and position travel together; a checkpoint that was not
written to its end does not exist; the newest few and the best stay."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from albert_jax.errors import UserError

BEST_METRIC = "held_out_loss"


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
        metrics = None if held_out_loss is None else {BEST_METRIC: held_out_loss}
        with _explained(self.directory):
            self._checkpointer.save_async(step, state, force=True, metrics=metrics)

    def load(self, step: int, abstract: Any = None) -> Any:
        """The state of `step`, on the shardings of `abstract`; nested dicts of arrays as they were saved without it."""
        return self._checkpointer.load(step, abstract)

    def load_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone."""
        loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
        with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
            return self._checkpointer.load(step, {"params": abstract_params})["params"]

    def wait(self) -> None:
        with _explained(self.directory):
            self._checkpointer.wait()

    def close(self) -> None:
        with _explained(self.directory):
            self._checkpointer.close()


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turns a full, read-only or forbidden disk into a message; other failures pass."""
    try:
        yield
    except Exception as error:
        # Orbax and TensorStore report the system's error in their own types, so it is recognised by its text.
        text = f"{error} {error.__cause__}"
        reason = next(
            (os.strerror(code) for code in (ENOSPC, EDQUOT, EROFS, EACCES) if os.strerror(code) in text), None
        )
        if reason is None:
            raise
        raise UserError(
            f"{directory}: the checkpoint could not be written ({reason}); make room or permission and run the same "
            "command again: it continues from the last complete checkpoint"
        ) from error
