"""The folder of a run: who owns it, which configuration it belongs to, and what else is kept so that a run can be
understood later. Knows files, nothing of models."""

import fcntl
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, TextIO

from albert_jax.config import differences, save_json
from albert_jax.errors import UserError

CONFIG_FILE, VERSIONS_FILE, LOCK_FILE = "config.json", "versions.json", "lock"
RECORDED_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "sentencepiece",
    "grain",
    "numba",
    "numpy",
)


class RunDirectory:
    """A run's folder, held by this process until `release`."""

    def __init__(self, path: str | Path, config: Any):
        """Creates the folder or takes up the run in it.

        Raises `UserError`, having changed nothing, if it belongs to another configuration, is in use by another
        process, or cannot be written.
        """
        self.path = Path(path)
        self._check_configuration(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = (self.path / LOCK_FILE).open("w")
        except OSError as error:
            raise UserError(
                f"run_dir = {self.path}: cannot be written ({error.strerror}); give another --run_dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"run_dir = {self.path}: another process is training there; wait for it, or give another --run_dir"
            ) from error

    def save_description(self, config: Any) -> None:
        """Writes the resolved configuration and the versions of everything that matters."""
        try:
            save_json(config, self.path / CONFIG_FILE)
            (self.path / VERSIONS_FILE).write_text(json.dumps(versions(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"run_dir = {self.path}: cannot be written ({error.strerror}); make room, or give another --run_dir"
            ) from error

    def _check_configuration(self, config: Any) -> None:
        saved = self.path / CONFIG_FILE
        if not any(self.path.glob("checkpoints/*")):
            return  # nothing has been trained here yet
        if not saved.exists():
            raise UserError(f"run_dir = {self.path}: has checkpoints but no {CONFIG_FILE}; give another --run_dir")
        try:
            lines = differences(json.loads(saved.read_text()), config)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{saved}: cannot be read ({error}); restore it from a copy, or give another --run_dir"
            ) from error
        if lines:
            raise UserError(
                f"run_dir = {self.path}: belongs to a run with another configuration:\n  "
                + "\n  ".join(lines)
                + "\nGive another --run_dir for this one, or set these fields back to continue that one."
            )

    def require_room(self, checkpoint_bytes: int) -> None:
        """Raises `UserError` unless two checkpoints fit: the new one is written before an old one is removed."""
        free = shutil.disk_usage(self.path).free
        if free < 2 * checkpoint_bytes:
            raise UserError(
                f"run_dir = {self.path}: {free / 1e6:,.0f} MB are free, and two checkpoints of "
                f"{checkpoint_bytes / 1e6:,.0f} MB must fit; make room, or give another --run_dir"
            )

    def release(self) -> None:
        """Lets go of the folder, and removes it again if nothing came to be in it."""
        if [path.name for path in self.path.iterdir()] == [LOCK_FILE]:
            shutil.rmtree(self.path)
        self._lock.close()


def versions() -> dict[str, Any]:
    """Versions of Python and of the packages that matter, and the git commit of this code, if it is in a checkout."""
    packages = {}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {"python": platform.python_version(), "packages": packages, **git_commit(Path(__file__).parent)}


def git_commit(directory: Path) -> dict[str, Any]:
    """`commit` and whether tracked files differ from it (`modified`); None where there is no git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(("git", *arguments), cwd=directory, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return run.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "modified": None if status is None else bool(status)}
