"""The benchmarks of training in their tiniest form: that they run and say what they promise. Their figures say nothing
here."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ("--device", "cpu", "--rounds", "1")


def run(script: str, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What a benchmark prints, on standard output and standard error."""
    # One device, as on a user's machine; without LLVM's optimisation compilation takes half the time.
    variables = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, f"{script} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def peer_python() -> str:
    """Python of the peer's environment: ALBERT_JAX_PEER_PYTHON, or this one if it has what it takes."""
    named = os.environ.get("ALBERT_JAX_PEER_PYTHON")
    here = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if named is None and not here:
        pytest.skip("needs torch and transformers: here, or where ALBERT_JAX_PEER_PYTHON is")
    return named or sys.executable


def test_train_step_reports_speed_and_memory_of_our_settings(tmp_path):
    output = tmp_path / "steps.json"
    shape = ("--shapes", "2x32", "--accumulation", "2", "--dtypes", "float32", "--seconds", "0.01")
    printed, _ = run("train_step.py", *TINY, *shape, "--sizes", "tiny", "--output", str(output))
    assert "ALBERT tiny, float32, 2x32, batches of 4 sequences" in printed
    [result] = json.loads(output.read_text())
    assert result["comparisons"] == {}
    assert len(result["rows"]) == 2  # remat none and matmuls
    for row in result["rows"]:
        assert row["tokens_per_second"] > 0
        assert row["mfu_of_ceiling"] > 0
        assert row["memory"] > 1e7


@pytest.mark.peer
def test_train_step_and_parts_stand_beside_the_peer(tmp_path):
    peer = ("--peer_python", peer_python())
    output = tmp_path / "steps.json"
    # Rows as training packs them; the peer's are the same without.
    shape = ("--shapes", "autox32", "--batch_size", "4", "--packed", "--seconds", "0.01")
    shape += ("--dtypes", "float32", "--remat", "none")
    printed, _ = run("train_step.py", *TINY, *peer, *shape, "--sizes", "tiny", "--output", str(output))
    assert "times as fast as transformers" in printed
    [result] = json.loads(output.read_text())
    assert result["largest_loss_difference"] <= 1e-4
    assert result["comparisons"]["best peer"]["ratio"] > 0

    output = tmp_path / "parts.json"
    run("parts.py", *TINY, *peer, "--size", "tiny", "--shape", "2x32", "--seconds", "0.001", "--output", str(output))
    parts = {part["name"]: part for part in json.loads(output.read_text())["parts"]}
    assert {name for name, part in parts.items() if "peer_seconds" not in part["both"]} == {
        "whole step",
        "2 layers with embeddings and heads",
        "1 layers with embeddings and heads",
    }


def test_parts_of_a_step_add_up_to_it(tmp_path):
    output = tmp_path / "parts.json"
    arguments = ("--size", "tiny", "--shape", "2x32", "--seconds", "0.001", "--output", str(output))
    printed, _ = run("parts.py", *TINY, *arguments)
    assert "farthest from their floors" in printed
    result = json.loads(output.read_text())
    assert result["ceiling_flops"] > 0 and result["copy_bandwidth"] > 0
    for part in result["parts"]:
        assert part["both"]["seconds"] > 0 and part["both"]["floor"] > 0
    # What is beyond the floors, and the floors, are the step, whatever the parts take.
    total = sum(result["beyond_floor"].values()) + result["sum_of_floors"]
    assert total == pytest.approx(result["step_seconds"])


def test_startup_splits_a_start_and_times_saves(tmp_path):
    output = tmp_path / "startup.json"
    arguments = ("--size", "tiny", "--shape", "2x32", "--saves", "1", "--steps_between", "1", "--output", str(output))
    printed, _ = run("startup.py", *TINY, *arguments, "--folder", str(tmp_path))
    assert "holds the loop up" in printed
    result = json.loads(output.read_text())
    for kind in ("cold", "cached"):
        [one] = result["starts"][kind]
        assert all(seconds > 0 for seconds in one["stages"].values())
    assert result["saves"]["bytes"] > 1e7


def test_numerics_agree_with_themselves(tmp_path):
    arguments = ("--size", "tiny", "--shape", "2x32", "--output", str(tmp_path / "numerics.json"))
    run("numerics.py", "--device", "cpu", *arguments)
    result = json.loads((tmp_path / "numerics.json").read_text())
    assert result["agrees"]
    for case in result["cases"]:
        assert case["gradient_difference"] < (1e-4 if "float32" in case["name"] else 0.05), case["name"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
@pytest.mark.parametrize("script", ["gpu.py", "train_step.py", "parts.py", "startup.py", "numerics.py"])
def test_without_a_gpu_the_message_says_so(script):
    _, error = run(script, "--device", "gpu", code=2)
    assert error.strip().splitlines() == [
        "error: device = gpu: there is no NVIDIA GPU here (neither nvidia-smi nor /dev/nvidiactl)"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train_step.py", "--shapes", "8by128"), "shapes = 8by128: expected BATCHxLENGTH"),
        (("train_step.py", "--shapes", "autox32", "--batch_size", "12"), "batch_size = 12: must be a power of two"),
        (("train_step.py", "--peer_python", "nowhere/python"), "peer_python = nowhere/python: is not there"),
        (("parts.py", "--shape", "8x"), "shape = 8x: expected BATCHxLENGTH"),
        (("startup.py", "--saves", "0"), "saves = 0: must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(arguments, message):
    script, *rest = arguments
    _, error = run(script, "--device", "cpu", *rest, code=2)
    assert message in error
    assert len(error.strip().splitlines()) == 1
