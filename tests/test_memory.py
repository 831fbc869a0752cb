"""What the C library is told about freed memory has an effect on this process's own."""

import ctypes
import os
import subprocess
import sys

import pytest

from albert_jax.memory import give_back_free_memory
from albert_jax.tracking import host_memory

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")

FAULTS_OF_A_STEP = """
import resource, sys
from albert_jax.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: ((x @ x.T) @ x + jnp.sin(x @ x.T) @ x).sum())  # products of 64 MB
x = jnp.ones((4000, 8))
for _ in range(3):
    step(x).block_until_ready()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # while other threads still find their places, a step may not fit where the last one was
"""


def test_memory_that_was_freed_in_pieces_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size = 60_000  # small enough for the heap whatever its threshold has become
    pieces = [libc.malloc(size) for _ in range(2000)]
    for piece in pieces:
        ctypes.memset(piece, 1, size)
    for piece in pieces[::2]:  # the others hold the heap together
        libc.free(piece)
    before = host_memory()
    give_back_free_memory()
    given_back = before - host_memory()
    for piece in pieces[1::2]:
        libc.free(piece)
    assert given_back > 0.8 * 1000 * (size - 4096)


def test_a_step_finds_the_memory_of_the_step_before():
    def faults(how):
        command = [sys.executable, "-c", FAULTS_OF_A_STEP, how]
        one_device = os.environ | {"XLA_FLAGS": ""}
        return int(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=one_device).stdout
        )

    assert faults("keep") < 0.2 * faults("give back")
