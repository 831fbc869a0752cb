"""What a file must be before it is opened, and how large before it is held in memory: many are of strangers."""

import os
import stat
from errno import EACCES
from pathlib import Path

from albert_jax.errors import UserError

MAX_JSON_BYTES = 2**24
"""Of a configuration, an index or a manifest; parsed, the worst of this length takes 400 MB."""


def require_file(path: Path, at_most: int | None = None) -> None:
    """Raises `UserError` unless `path` is a file, of no more than so many bytes. A pipe would be waited for without
    end, and a device read without end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise UserError(f"{path}: is {kind}, expected a file; put the right one there")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read ({os.strerror(EACCES)})")
    if at_most is not None and status.st_size > at_most:
        raise UserError(f"{path}: {status.st_size:,} bytes, more than such a file ever has ({at_most:,})")


def read_file(path: Path, at_most: int | None = None) -> bytes:
    """The content of a file, after `require_file`."""
    require_file(path, at_most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
