"""A disk that is full or gone makes a run wait, and costs nothing."""

import errno
import os
import re
import subprocess
from functools import partial

import numpy as np
import pytest
from runs import recorded, start, wait_for

from albert_jax.checkpoint import Checkpoints
from albert_jax.errors import DiskError
from albert_jax.tracking import Tracker, read_metrics

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Takes all the room there is; returns the file that does."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


def says(folder, text):
    log = folder / "run" / "log.txt"
    return log.exists() and text in log.read_text()


def assert_same_end(folder, reference):
    ours, expected = (Checkpoints(f / "run" / "checkpoints").load(30)["params"] for f in (folder, reference))
    for name, leaf in flat(expected).items():
        np.testing.assert_array_equal(flat(ours)[name], leaf, err_msg=name)


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    return {name: leaf for key, part in tree.items() for name, leaf in flat(part, f"{prefix}/{key}").items()}


@pytest.mark.slow
def test_a_run_waits_for_room(finished, unstarted, small_disk):
    (unstarted / "run").symlink_to(small_disk)
    process = start(unstarted)
    wait_for(partial(recorded, unstarted, 0), [process])
    ballast = fill(small_disk)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("paused"):
            assert re.search(r"paused     at step \d+: .* waiting up to 1h 00m", line), line
            ballast.unlink()
    assert process.wait(timeout=300) == 0, lines
    assert any(line.startswith("resumed    at step") for line in lines)
    assert_same_end(unstarted, finished)
    kept = [(r["step"], r["train/loss"]) for r in read_metrics(unstarted / "run") if "train/loss" in r]
    assert kept == [(r["step"], r["train/loss"]) for r in read_metrics(finished / "run") if "train/loss" in r]


@pytest.mark.slow
def test_a_run_waits_for_a_folder_that_is_gone(finished, unstarted):
    process = start(unstarted)
    wait_for(partial(recorded, unstarted, 0), [process])
    (unstarted / "run").rename(unstarted / "elsewhere")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("paused"):
            (unstarted / "elsewhere").rename(unstarted / "run")
    assert process.wait(timeout=300) == 0, lines
    assert_same_end(unstarted, finished)


@pytest.mark.slow
def test_a_run_that_waits_in_vain_ends_and_keeps_what_it_has(finished, unstarted, small_disk):
    (unstarted / "run").symlink_to(small_disk)
    process = start(unstarted, "--disk_pause_minutes", 0)
    wait_for(partial(recorded, unstarted, 0), [process])
    ballast = fill(small_disk)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert re.search(r"error: stopped at step \d+ without saving: .*free", output), output
    assert "Traceback" not in output
    ballast.unlink()
    output, _ = (again := start(unstarted)).communicate(timeout=300)
    assert again.returncode == 0, output
    assert_same_end(unstarted, finished)


def test_records_wait_for_a_full_disk_to_the_byte(small_disk, capsys):
    tracker = Tracker(small_disk, step=0, total_steps=10, title="test")
    tracker.record(1, {"train/loss": 1.0}, "one")
    ballast = fill(small_disk)
    for step in range(2, 200):
        tracker.record(step, {"train/loss": 1.0 / step}, "x" * 1000)
    with pytest.raises(DiskError, match=os.strerror(errno.ENOSPC)):
        tracker.flush()
    assert capsys.readouterr().err.count("warning:") == 1
    ballast.unlink()
    tracker.flush()
    tracker.close()
    assert [record["step"] for record in read_metrics(small_disk)] == list(range(1, 200))
    assert (small_disk / "log.txt").read_text() == "one\n" + ("x" * 1000 + "\n") * 198
