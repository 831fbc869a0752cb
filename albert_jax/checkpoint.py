"""Checkpoints: the one place that knows Orbax. Weights, optimizer and position travel together, sealed with the
checksums of all their files, since Orbax keeps none of arrays: a checkpoint that was not written to its end does not
exist, and one that is not as it was written is never read. The newest few and the best stay."""

import hashlib
import inspect
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
CHECKSUMS_FILE = "checksums.json"
"""The seal, written last into a checkpoint's folder: its step, and the size and SHA-256 of every other file."""
DAMAGED_FOLDER = "damaged_checkpoints"
"""Beside the folder of the checkpoints: where `newest_intact` moves what it passes over."""

ADVICE = "make room and run the same command again: it continues from the last complete checkpoint"


class Checkpoints:
    """The numbered checkpoints of one folder, which `newest_intact` has looked through if a run is to be continued.

    Saving and sealing are asynchronous; `close` waits for both. Where several processes share the folder, each makes
    one of these and makes the same calls; the first of them seals.
    """

    def __init__(self, directory: Path, keep: int = 2):
        """Keeps the `keep` newest, and the one with the lowest `BEST_METRIC` among those saved with one.

        Never fewer than the two newest: one before is what there is if the newest is damaged, and while it is not yet
        sealed.
        """
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
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(max(keep, 2)), best]),
            cleanup_tmp_directories=True,
        )
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")
        self._sealing: Future[None] | None = None

    @property
    def latest_step(self) -> int | None:
        """The newest sealed one; a save under way does not count yet. Of several processes, only the first knows by
        `wait` that what it saved is sealed; the others may see that a moment later."""
        return max(_sealed_steps(self.directory), default=None)

    def save(self, step: int, state: Any, held_out_loss: float | None) -> None:
        """Starts writing; the state may be changed as soon as this returns. Raises what the save before it met."""
        judged = held_out_loss is not None and math.isfinite(held_out_loss)
        metrics = {BEST_METRIC: held_out_loss} if judged else None
        self.wait()
        with disk_errors_explained(self.directory, ADVICE):
            response = self._checkpointer.save_async(step, state, force=True, metrics=metrics)
        if jax.process_index() == 0:
            self._sealing = self._sealer.submit(self._seal_when_written, response, step)

    def _seal_when_written(self, response: ocp.AsyncResponse[bool], step: int) -> None:
        response.result()
        _seal(self.directory / str(step))

    def load(self, step: int, abstract: Any = None) -> Any:
        """The state of `step`, on the shardings of `abstract`; without it nested dicts of arrays on the first device.

        Does not verify checksums: `newest_intact` has."""
        try:
            with _told_once():
                return self._checkpointer.load(step, self._whole(step) if abstract is None else abstract)
        except Exception as error:
            others = [other for other in _sealed_steps(self.directory) if other != step]
            way_on = f"to continue from step {max(others)}" if others else "to begin again"
            raise UserError(f"{_damage(self.directory / str(step), error)}; remove that folder {way_on}") from error

    def _whole(self, step: int) -> Any:
        """Of a state saved by whatever mesh, for a device of this one."""
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        saved = ocp.metadata((self.directory / str(step)).absolute()).metadata
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)

    def wait(self) -> None:
        """Returns when everything saved is sealed. Raises what that met, once."""
        sealing, self._sealing = self._sealing, None
        with disk_errors_explained(self.directory, ADVICE):
            self._checkpointer.wait()
            if sealing is not None:
                sealing.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            self._checkpointer.close()


def newest_intact(directory: Path) -> tuple[int | None, list[str]]:
    """Where to continue: the newest checkpoint whose files are all as they were written, and one line for each that is
    not; None if there is no checkpoint, or only the first one, not written to its end.

    Verifies all of them, and moves those that are damaged, or were not written to their end, out of the way, into
    `DAMAGED_FOLDER`. To be called before `Checkpoints` opens the folder, since Orbax reads every checkpoint's metrics
    at that; in one process only, as it has nothing collective. Raises `UserError`, having changed nothing, if there are
    checkpoints but none is intact: whether to train from scratch again is for a person to say.
    """
    checkpoints = _found(directory)
    faults = {checkpoint: _fault(checkpoint) for checkpoint in checkpoints}
    intact = [_step(checkpoint) for checkpoint, fault in faults.items() if fault is None]
    # The second save begins when the first is sealed, so several without any seal are of a program from before seals.
    may_begin = len(checkpoints) <= 1 and not any(_is_sealed(checkpoint) for checkpoint in checkpoints)
    if not intact and not may_begin:
        raise UserError(
            f"{directory}: none of its checkpoints can be continued from: {'; '.join(faults.values())}. Restore one "
            "of them from a copy; or, to train from the first step again, move that folder away or give another "
            "--run_dir"
        )
    lines = []
    for checkpoint in (checkpoint for checkpoint, fault in faults.items() if fault is not None):
        target = _free_name(directory.parent / DAMAGED_FOLDER / checkpoint.name)
        with disk_errors_explained(target.parent, "let it be written: damaged checkpoints are moved there"):
            target.parent.mkdir(exist_ok=True)
            shutil.move(checkpoint, target)
        lines.append(f"{faults[checkpoint]}; passed over, and moved to {target}")
    return max(intact, default=None), lines


def read_params(directory: Path, step: int | None, abstract: Any) -> tuple[int, Any, list[str]]:
    """The parameters alone of a step, by default the newest intact one; that step; and one line for each damaged
    checkpoint that was passed over. Changes nothing in the folder, which a run may be writing to.

    Of a run from before there were seals, where no checkpoint has one, the newest is read as it is.
    """
    sealed = _sealed_steps(directory)
    steps = sealed or _steps(_found(directory))
    if not steps:
        raise UserError(f"{directory}: holds no complete checkpoint yet")
    if step is not None and step not in steps:
        raise UserError(f"{directory}: has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")

    faults = []
    for chosen in reversed(steps) if step is None else [step]:
        others = ", ".join(str(other) for other in steps if other != chosen)
        advice = f"; there are also {others}" if others else ""
        fault = _fault(directory / str(chosen)) if sealed else None
        if fault is None:
            break
        faults.append(fault)
    else:
        whole = f"{directory}: all checkpoints are damaged: {'; '.join(faults)}"
        raise UserError(whole if step is None else f"{faults[0]}; this checkpoint is damaged{advice}")

    checkpoint = (directory / str(chosen)).absolute()
    loading = ocp.options.PyTreeOptions.Loading(partial_load=True)
    try:
        _require_shapes(checkpoint, ocp.metadata(checkpoint).metadata["params"], abstract)
        with _told_once(), ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=loading)):
            return chosen, ocp.load(checkpoint, {"params": abstract})["params"], faults
    except UserError:
        raise
    except Exception as error:
        raise UserError(_damage(checkpoint, error) + advice) from error


# ---- what is there, and whether it is as it was written


def _found(directory: Path) -> list[Path]:
    """Everything in the folder that is or was a checkpoint, newest first; not what Orbax is still writing."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _step(path) is not None or _is_sealed(path)]
    return sorted(found, key=lambda path: (_step(path) or 0, path.name), reverse=True)


def _step(checkpoint: Path) -> int | None:
    """The step that a folder is named after."""
    name = checkpoint.name
    return int(name) if name.isascii() and name.isdigit() and str(int(name)) == name else None


def _is_sealed(checkpoint: Path) -> bool:
    return (checkpoint / CHECKSUMS_FILE).exists()


def _sealed_steps(directory: Path) -> list[int]:
    return _steps(filter(_is_sealed, _found(directory)))


def _steps(checkpoints: Iterable[Path]) -> list[int]:
    return sorted(step for step in map(_step, checkpoints) if step is not None)


def _free_name(path: Path) -> Path:
    """`path`, or if that exists `path-1`, `path-2`, ..."""
    free, number = path, 0
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _seal(checkpoint: Path) -> None:
    """Writes `CHECKSUMS_FILE`, whole or not at all."""
    temporary = checkpoint / f"{CHECKSUMS_FILE}.tmp"
    with temporary.open("wb") as file:
        file.write(_encoded(_contents(checkpoint)))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(checkpoint / CHECKSUMS_FILE)
    folder = os.open(checkpoint, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut could undo the renaming
    finally:
        os.close(folder)


def _contents(checkpoint: Path) -> dict[str, Any]:
    """What `CHECKSUMS_FILE` holds, from the folder's name and files as they are now."""
    own = {CHECKSUMS_FILE, f"{CHECKSUMS_FILE}.tmp"}
    names = sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if not path.is_dir())
    files = {}
    for name in names:
        if name not in own:
            with (checkpoint / name).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                files[name] = {"bytes": file.tell(), "sha256": sha256}
    return {"step": _step(checkpoint), "files": files}


def _encoded(contents: dict[str, Any]) -> bytes:
    return (json.dumps(contents, indent=1) + "\n").encode()


def _fault(checkpoint: Path) -> str | None:
    """One line on what is not as it was written, with the file's name; None if all is, byte for byte."""
    try:
        if not _is_sealed(checkpoint):
            return f"{checkpoint}: was not written to its end, it has no {CHECKSUMS_FILE}"
        written, contents = (checkpoint / CHECKSUMS_FILE).read_bytes(), _contents(checkpoint)
    except PermissionError:
        raise  # nothing is said of the checkpoint by that
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror})"
    return None if written == _encoded(contents) else _difference(checkpoint, written, contents)


def _difference(checkpoint: Path, written: bytes, contents: dict[str, Any]) -> str:
    """The first difference between a checkpoint's seal and its contents."""
    damaged_seal = f"{checkpoint / CHECKSUMS_FILE}: is damaged itself"
    try:
        sealed = json.loads(written)
        if sealed["step"] != contents["step"]:
            return f"{checkpoint}: belongs to step {sealed['step']}"
        then, now = sealed["files"], contents["files"]
        for name in then:
            if name not in now:
                return f"{checkpoint / name}: is missing"
            size, before = now[name]["bytes"], then[name]["bytes"]
            if size != before:
                return f"{checkpoint / name}: {'truncated, ' * (size < before)}{size} bytes instead of {before}"
        for name in now:
            if name not in then:
                return f"{checkpoint / name}: is no part of this checkpoint"
            if now[name]["sha256"] != then[name]["sha256"]:
                return f"{checkpoint / name}: its sha256 is not the recorded one"
    except (ValueError, LookupError, TypeError):  # no JSON, or of another form
        return damaged_seal
    return damaged_seal


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
