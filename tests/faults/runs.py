"""Runs as processes of their own, for faults to be done to."""

import os
import subprocess
import sys
import time
from pathlib import Path

from albert_jax.tracking import read_metrics

ROOT = Path(__file__).parents[2]


def start(folder, *options, devices=1):
    """`pretrain.py` on so many host-platform devices."""
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(ROOT / "pretrain.py"), "config.py", *map(str, options)],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, processes, seconds=200):
    """Until something holds while all of the processes go on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, [process.communicate()[0] for process in ended]
        time.sleep(0.02)
    raise AssertionError("it does not come to that")


def recorded(folder, step):
    """Whether the run's record has come to `step`."""
    return any(record["step"] >= step for record in read_metrics(folder / "run"))
