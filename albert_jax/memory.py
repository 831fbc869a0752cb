"""What the C library does with memory that is freed. Only glibc can be told; elsewhere these do nothing."""

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def give_back_free_memory() -> None:
    """Returns to the system what was freed; a few hundredths of a second. What compiling, evaluating and saving leave
    in pieces is else counted as this process's for hours, growing now and falling then, and hides what really grows."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def keep_freed_memory() -> None:
    """Keeps what a training step frees for the next, until it is given back as above. To be called before JAX's first
    computation begins its threads.

    Large arrays go back to the system by default when they are freed, and come again page by page, each emptied: on a
    CPU a twentieth of a fine-tuning step (LOG.md).
    """
    set_option = _of_glibc("mallopt")
    if set_option is not None:
        # One heap for all threads, since only the first one holds arrays of any size; for large arrays too; never cut.
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            set_option(option, value)


def _of_glibc(name: str):
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    # Other C libraries have a mallopt that does nothing, or other things; none has malloc_trim.
    return getattr(library, name) if hasattr(library, "malloc_trim") else None
