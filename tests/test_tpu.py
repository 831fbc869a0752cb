"""The pretraining step, compiled for TPUs that are not there: it fits, computes what it should, and moves what it must.

Needs libtpu: pip install -e ".[tpu]". Alone: pytest -m tpu"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "tpu_aot.py"

pytestmark = pytest.mark.tpu
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    # Without the suite's XLA_FLAGS, which change what is compiled.
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | environment
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=variables, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Base on four devices, at 4 rows for each: what was found in the compiled step."""
    output = tmp_path_factory.mktemp("tpu") / "found.json"
    size = ("--sizes", "base", "--topologies", "v5e:2x2", "--batch_size", "16", "--accumulation", "1")
    finished = run(*size, "--output", str(output))
    assert finished.returncode == 0, finished.stderr
    return json.loads(output.read_text())["programs"][0]


@needs_libtpu
def test_the_step_fits_into_a_device(program):
    assert 0 < program["memory_bytes"] < program["device_memory_bytes"]


@needs_libtpu
def test_products_are_those_counted_by_hand_and_what_rematerialisation_repeats(program):
    assert program["product_flops"] + program["kernel_flops"] == pytest.approx(program["expected_flops"], rel=0.03)
    assert program["unknown_loops"] == 0


@needs_libtpu
def test_devices_exchange_the_gradients_once_and_nothing_else(program):
    assert set(program["collectives"]) == {"all-reduce"}
    # The gradients of the word embeddings' two uses are summed apart, and those of the last layer from the others'.
    assert 1.0 <= program["collectives"]["all-reduce"]["bytes"] / program["gradient_bytes"] <= 1.5


@needs_libtpu
def test_every_layer_but_the_last_runs_the_attention_kernel_once_forwards_and_once_backwards(program):
    runs = program["kernels"]
    assert {name.split("_segmented")[0]: count for name, count in runs.items()} == {
        "splash_mha_fwd": 11,
        "splash_mha_dkv": 11,
    }


@needs_libtpu
def test_an_unknown_topology_is_one_message():
    finished = run("--topologies", "v5e:3x77")
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("error: topologies = v5e:3x77: libtpu knows no such topology")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_there_is_one_message():
    finished = run()
    assert (finished.returncode, finished.stderr) == (
        2,
        'error: libtpu is not installed: it compiles for TPUs; pip install -e ".[tpu]"\n',
    )
