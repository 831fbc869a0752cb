"""Runs as processes of their own, for faults to be done to."""

import os
import subprocess
import sys
from pathlib import Path

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
