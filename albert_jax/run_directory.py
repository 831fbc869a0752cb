"""The folder of a run: who owns it, which configuration it belongs to, and what else is kept so that a run can be
understood later. Knows files, nothing of models."""

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, TextIO

from albert_jax.config import differences, save_json
from albert_jax.errors import DiskError, UserError

CONFIG_FILE, MODEL_FILE, VERSIONS_FILE, LOCK_FILE = "config.json", "model.json", "versions.json", "lock"
TOKENIZER_FOLDER, DATA_FILE = "tokenizer", "data.json"
RESULT_FILE = "result.json"
"""What a finished fine-tuning run found; its checkpoints are gone then."""
ADVICE = "make room there, or give another --run_dir"
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
    """A run's folder, held until `release` by the one of its processes that `owns` it; the others only know it."""

    def __init__(self, path: str | Path, config: Any, owns: bool = True):
        """Creates the folder or takes up the run in it.

        Raises `UserError`, having changed nothing, if it belongs to another configuration, is in use by another
        process, or cannot be written.
        """
        self.path = Path(path)
        self._check_configuration(config)
        self._owns, self._created = owns, owns and not self.path.exists()
        if not owns:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = (self.path / LOCK_FILE).open("w")
        except OSError as error:
            for place in (self.path, *self.path.parents):
                if os.path.lexists(place) and not place.is_dir():
                    raise UserError(
                        f"run_dir = {self.path}: {place} is in the way, which is no folder; move it, or give another "
                        "--run_dir"
                    ) from error
            raise UserError(f"run_dir = {self.path}: cannot be written ({error.strerror}); {ADVICE}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"run_dir = {self.path}: another process is training there; wait for it, or give another --run_dir"
            ) from error

    def save_description(self, config: Any, model: Any, tokenizer: Any, data: dict[str, str]) -> None:
        """Writes the resolved configuration, the model's, if any, the tokenizer, the fingerprints `data` of what is
        read, and the versions of everything that matters.

        Of a finished run, all stays as it was. Raises `UserError` if the run in this folder was trained on other data:
        its own paths may have new contents.
        """
        record = self.path / DATA_FILE
        if self._holds_a_run() and record.exists():
            before = json.loads(record.read_text())
            changed = [name for name in data if before.get(name) != data[name]]
            if changed:
                raise UserError(
                    f"run_dir = {self.path}: the run there was trained with another {' and '.join(changed)} than is "
                    "now at that path; restore it, or give another --run_dir"
                )
        if (self.path / RESULT_FILE).exists():
            return
        record.write_text(json.dumps(data, indent=2) + "\n")
        save_json(config, self.path / CONFIG_FILE)
        if model is not None:
            save_json(model, self.path / MODEL_FILE)
        (self.path / VERSIONS_FILE).write_text(json.dumps(versions(), indent=2) + "\n")
        tokenizer.save(self.path / TOKENIZER_FOLDER)

    def _holds_a_run(self) -> bool:
        return any(self.path.glob("checkpoints/*")) or (self.path / RESULT_FILE).exists()

    def _check_configuration(self, config: Any) -> None:
        saved = self.path / CONFIG_FILE
        if not self._holds_a_run():
            return  # nothing has been trained here yet
        if not saved.exists():
            raise UserError(
                f"run_dir = {self.path}: holds a trained model but no {CONFIG_FILE}; give another --run_dir"
            )
        try:
            before = json.loads(saved.read_text())
            if not isinstance(before, dict):
                raise ValueError("not an object")
            lines = differences(before, config)
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

    def require_room(self, state_bytes: int, checkpoints: int = 1) -> None:
        """Raises `DiskError` unless so many new checkpoints of a state fit, so that none is begun in vain."""
        try:
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise DiskError(f"run_dir = {self.path}: cannot be reached ({error.strerror})") from error
        needed = checkpoints * (1.1 * state_bytes + 2**20)  # Orbax's own files, and the records beside
        if free < needed:
            raise DiskError(
                f"run_dir = {self.path}: {free / 1e6:,.1f} MB are free, but the next {checkpoints} checkpoint(s) need "
                f"{needed / 1e6:,.1f} MB; {ADVICE}"
            )

    def release(self) -> None:
        """Lets go of the folder; one that was created for a run that never began is removed again."""
        if not self._owns:
            return
        own = {LOCK_FILE, CONFIG_FILE, MODEL_FILE, VERSIONS_FILE, DATA_FILE, TOKENIZER_FOLDER}
        if self._created and own.issuperset(path.name for path in self.path.iterdir()):
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
