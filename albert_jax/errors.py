"""What a user did wrong, said once.

Every script runs its `main` through `exit_cleanly`, so a bad field, file or option ends with one message that names
it and how to fix it, exit code 2 and no traceback; a bug in our own code still shows its traceback.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EIO, ENOSPC, ENOTCONN, EROFS, ESTALE
from typing import NoReturn

DISK_ERRORS = (ENOSPC, EDQUOT, EROFS, EACCES, EIO, ESTALE, ENOTCONN)
LONGEST_MESSAGE = 2000


class UserError(Exception):
    """Bad input. The message names the field or file, what was found, and the fix.

    What it quotes may be of strangers: characters that command a terminal are spelled out, and of a message of more
    than `LONGEST_MESSAGE` characters the middle is left out."""

    def __init__(self, message: str):
        shown = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in message)
        if len(shown) > LONGEST_MESSAGE:
            shown = f"{shown[: LONGEST_MESSAGE - 600]} ... {shown[-500:]}"
        super().__init__(shown)


class DiskError(UserError):
    """A disk that is full, gone, or may not be written to: it may be better later."""


@contextmanager
def disk_errors_explained(place: object, advice: str) -> Iterator[None]:
    """Turns a full, vanished, read-only or forbidden disk into a `DiskError`; other failures pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Orbax and TensorStore report the system's error in types of their own, so it is recognised by its text too.
        text = f"{error} {error.__cause__}"
        reasons = (os.strerror(code) for code in DISK_ERRORS)
        reason = next((reason for reason in reasons if reason in text), None)
        if reason is None:
            raise
        raise DiskError(f"{place}: cannot be written ({reason}); {advice}") from error


def exit_cleanly(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and exits: its return value (None is 0), 2 after a `UserError`, 130 after Ctrl-C."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; without this Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.stdout.flush()
    sys.exit(code)
