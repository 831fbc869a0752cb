"""Compiled code is kept for the next start, and never used where it is not this code."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from albert_jax.inputs import kernels

ADDENDS = """
from albert_jax.inputs.kernels import kernel

@kernel
def addend():
    return 1
"""
SUMS = """
from albert_jax.inputs.addends import addend
from albert_jax.inputs.kernels import kernel

@kernel
def sum_up(number):
    return number + addend()
"""
PROGRAM = """
from albert_jax.inputs.sums import sum_up
print(sum_up(40), *sum_up.stats.cache_hits.values())
"""


@pytest.fixture
def inputs(tmp_path):
    """A package of two files with kernels, for which nothing was compiled."""
    folder = tmp_path / "package" / "albert_jax" / "inputs"
    folder.mkdir(parents=True)
    shutil.copy(kernels.__file__, folder)
    (folder / "addends.py").write_text(ADDENDS)
    (folder / "sums.py").write_text(SUMS)
    return folder


def run(inputs, **variables):
    """What a new process says, "41" or "41 1" if it read the code for it."""
    command = [sys.executable, "-c", PROGRAM]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=inputs.parents[1], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_compiled_code_serves_the_next_process(inputs):
    assert run(inputs) == "41"
    assert run(inputs) == "41 1"


def test_a_change_in_a_called_file_is_compiled(inputs):
    assert run(inputs) == "41"
    called = inputs / "addends.py"
    times = called.stat()
    called.write_text(ADDENDS.replace("1", "2"))
    os.utime(called, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(inputs) == "42"


def test_settings_of_the_compiler_are_heeded(inputs):
    run(inputs)
    assert run(inputs, NUMBA_BOUNDSCHECK="1") == "41"


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2]])
def test_damaged_files_are_compiled_again(inputs, damage):
    run(inputs)
    for path in inputs.rglob("*.nb?"):
        path.write_bytes(damage(path.read_bytes()))
    assert run(inputs) == "41"
    assert run(inputs) == "41 1"


def test_processes_that_start_together_leave_code_for_the_next(inputs):
    with ThreadPoolExecutor() as together:
        assert set(together.map(run, [inputs] * 4)) <= {"41", "41 1"}
    assert run(inputs) == "41 1"


def test_without_a_folder_to_write_it_is_compiled_at_every_start(inputs, tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = dict(PYTHONPYCACHEPREFIX=str(tmp_path / "file"), XDG_CACHE_HOME=str(tmp_path / "file"))
    assert [run(inputs, **nowhere) for _ in range(2)] == ["41", "41"]


def test_where_the_package_cannot_be_written_the_user_has_a_cache(inputs, tmp_path):
    (tmp_path / "file").write_text("")
    places = dict(PYTHONPYCACHEPREFIX=str(tmp_path / "file"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert [run(inputs, **places) for _ in range(2)] == ["41", "41 1"]
    assert list((tmp_path / "cache" / "albert_jax").iterdir())
