"""Compiles functions of numbers and arrays to machine code, once for all starts.

numba's own cache looks at the file of the compiled function alone: a change in what that function calls or inlines
from another file does not reach it, and of two processes that save at the same moment one may find the other's code
under its own argument types. Here compiled code is kept in a folder named by the contents of all files beside this
one, so kernels may take functions and constants from no others; and it is read and written under a lock. What goes
wrong with the cache costs the time to compile and nothing else.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from filelock import FileLock

LOCK_SECONDS = 10.0
P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled at its first call with arguments of some types, unless an earlier process has done so.

    Other threads of Python run meanwhile (nogil).
    """
    if _FOLDER is None:
        return numba.njit(nogil=True)(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_FOLDER)
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    finally:
        numba.config.CACHE_DIR = before
    if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT
        compiled._cache = _Cache(compiled._cache, _FOLDER / "lock")
    return compiled


class _Cache:
    """numba's cache of one function, under a lock, and without errors."""

    def __init__(self, cache: Any, lock: Path):
        self._cache, self._lock = cache, FileLock(lock, timeout=LOCK_SECONDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            with self._lock:
                return self._cache.load_overload(signature, target)
        except Exception:  # a damaged file raises whatever it likes; without the index it is written again
            with suppress(Exception), self._lock:
                self._cache.flush()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with suppress(Exception), self._lock:  # a full disk, or a folder that is gone
            self._cache.save_overload(signature, data)


def _folder() -> Path | None:
    """Where compiled code is kept: beside Python's own, or else with the user's; None where neither can be written."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for name, value in sorted(os.environ.items()):
        if name.startswith("NUMBA_"):  # some change what is compiled
            digest.update(f"{name}={value}\n".encode())
    parents = [Path(importlib.util.cache_from_source(__file__)).parent]
    with suppress(RuntimeError):  # a user of a container may have no home
        parents.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "albert_jax")
    for parent in parents:
        folder = parent / f"kernels-{digest.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock", timeout=LOCK_SECONDS):
                return folder
        except (OSError, NotImplementedError):  # read-only, or a file system without locks
            continue
    return None


_FOLDER = _folder()
