"""The pretraining step, compiled for TPUs that are not there: it fits, computes what it should, and moves what it must.

Needs libtpu: pip install -e ".[tpu]". Alone: pytest -m "tpu and not slow" for base on four devices, in a minute or two;
with the slow ones every size at the paper's batch on every topology, in half an hour."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albert_jax.compiler_options import OPTIONS

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


def compiled(output: Path, *arguments: str) -> dict:
    """What was found in the one program that the arguments name."""
    finished = run(*arguments, "--output", str(output))
    assert finished.returncode == 0, finished.stderr
    return json.loads(output.read_text())["programs"][0]


def base_of_four(output: Path, parts: int) -> dict:
    """Base on four devices, at 4 rows for each in every part."""
    sizes = ("--batch_size", str(16 * parts), "--accumulation", str(parts))
    return compiled(output, "--sizes", "base", "--topologies", "v5e:2x2", *sizes)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return base_of_four(tmp_path_factory.mktemp("tpu") / "found.json", parts=1)


@pytest.fixture(scope="module")
def accumulating(tmp_path_factory):
    return base_of_four(tmp_path_factory.mktemp("tpu") / "found.json", parts=2)


def flops(program: dict) -> float:
    return program["product_flops"] + program["kernel_flops"]


@needs_libtpu
def test_the_step_fits_into_a_device(program):
    assert 0 < program["memory_bytes"] < program["device_memory_bytes"]


@needs_libtpu
def test_products_are_those_counted_by_hand_and_what_rematerialisation_repeats(program):
    assert flops(program) == pytest.approx(program["expected_flops"], rel=0.03)
    assert program["unknown_loops"] == 0


@needs_libtpu
def test_devices_exchange_the_gradients_once_and_nothing_else(program):
    assert set(program["collectives"]) == {"all-reduce"}
    reduced = program["collectives"]["all-reduce"]
    # The gradients of the word embeddings' two uses are summed apart: 30,000 x 128 numbers of 2 bytes more.
    assert reduced["bytes"] == pytest.approx(program["expected_reduced_bytes"], rel=1e-3)
    assert reduced["bytes"] < 1.2 * program["gradient_bytes"]
    assert reduced["runs"] <= 4


@needs_libtpu
def test_with_accumulation_the_parameters_with_two_uses_are_exchanged_in_every_part_and_others_once(accumulating):
    # A thousandth is less than the position embeddings. Compilers that move their all-reduce out of the loop as well
    # (libtpu 0.0.42 to 0.0.48, openxla/xla issue 49143) lose the parts of all devices but the first.
    reduced = accumulating["collectives"]["all-reduce"]
    assert reduced["bytes"] == pytest.approx(accumulating["expected_reduced_bytes"], rel=1e-3)
    assert reduced["runs"] <= 6


@needs_libtpu
def test_every_layer_but_the_last_runs_the_attention_kernel_once_forwards_and_once_backwards(program):
    runs = program["kernels"]
    assert {name.split("_segmented")[0]: count for name, count in runs.items()} == {
        "splash_mha_fwd": 11,
        "splash_mha_dkv": 11,
    }


@needs_libtpu
def test_the_compiler_knows_the_options_of_the_step():
    code = (
        "import jax, sys; sys.path[:0] = ['benchmarks', '.']; import tpu_aot\n"
        "from albert_jax.compiler_options import OPTIONS\n"
        "from jax.sharding import NamedSharding, PartitionSpec\n"
        "mesh = tpu_aot.topology_mesh('v5e:2x2', 1, 1)\n"
        "x = jax.ShapeDtypeStruct((8,), 'float32', sharding=NamedSharding(mesh, PartitionSpec('data')))\n"
        "for options in (OPTIONS['tpu'], {'xla_tpu_no_such_option': True}):\n"
        "    jax.jit(lambda x: x + 1, compiler_options=options).lower(x).compile()\n"
        "    print('accepted', options)"
    )
    variables = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.stdout.splitlines() == [f"accepted {OPTIONS['tpu']}"], finished.stderr
    assert "No such compile option: 'xla_tpu_no_such_option'" in finished.stderr


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:16x16", "v5p:4x4x4", "v6e:4x4", "v5e:4x4"])
@pytest.mark.parametrize("size", ["base", "large", "xlarge", "xxlarge"])
def test_every_size_at_the_papers_batch_fits_and_is_what_was_counted_by_hand(tmp_path, size, topology):
    program = compiled(tmp_path / "found.json", "--sizes", size, "--topologies", topology)
    assert program["batch_size"] == 4096
    assert program["memory_bytes"] < program["device_memory_bytes"]
    assert flops(program) == pytest.approx(program["expected_flops"], rel=0.03)
    assert set(program["collectives"]) == {"all-reduce"}
    reduced = program["collectives"]["all-reduce"]["bytes"]
    assert reduced == pytest.approx(program["expected_reduced_bytes"], rel=1e-3)
    assert program["kernels"]
    assert set(program["kernels"].values()) == {program["expected_kernels"]}


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
