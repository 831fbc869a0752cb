"""Several processes are one run: the same batches and losses, one set of files, and none of them waits for the dead."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from runs import recorded, start, wait_for

from albert_jax import distributed
from albert_jax.checkpoint import Checkpoints
from albert_jax.distributed import DistributedOptions
from albert_jax.errors import UserError
from albert_jax.tracking import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STEPS = 30
PATIENCE = 900  # seconds; four processes on one busy core have taken more than 300


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_together(folder, count, *options, devices=1):
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            folder,
            *("--distributed.coordinator_address", address),
            *("--distributed.num_processes", count, "--distributed.process_id", number),
            *options,
            devices=devices,
        )
        for number in range(count)
    ]


def ended(processes):
    """(exit status, output) of each, in their order."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def losses(folder):
    return {
        (record["step"], name): value
        for record in read_metrics(folder / "run")
        for name, value in record.items()
        if name in ("train/loss", "train/gradient_norm", "held_out/loss")
    }


def assert_same_curve(folder, reference):
    ours, expected = losses(folder), losses(reference)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [(2, 4, ("--mesh.fsdp", 2, "--mesh.tensor", 2)), (4, 2, ("--mesh.fsdp", 4)), (2, 1, ())],
)
def test_processes_train_like_one(finished, unstarted, count, devices, mesh):
    results = ended(start_together(unstarted, count, *mesh, devices=devices))
    assert [code for code, _ in results] == [0] * count, results
    assert_same_curve(unstarted, finished)
    outputs = [output for _, output in results]
    assert f"of {count} processes" in outputs[0]
    assert "the [" in outputs[0].splitlines()[-1], "completions come last"
    assert all("step" not in output for output in outputs[1:]), "one speaks for all"
    assert {path.name for path in (unstarted / "run").iterdir()} == {path.name for path in (finished / "run").iterdir()}


def test_all_stop_where_one_is_asked_to_and_another_fleet_goes_on(finished, unstarted):
    processes = start_together(unstarted, 2, devices=2)
    wait_for(partial(recorded, unstarted, 5), processes)
    processes[1].send_signal(signal.SIGTERM)
    results = ended(processes)
    assert [code for code, _ in results] == [0, 0], results
    step = int(re.search(r"stopped    on SIGTERM at step (\d+), saved", results[0][1])[1])
    assert step < STEPS
    alone = start(unstarted, "--mesh.tensor", 2, devices=4)
    output, _ = alone.communicate(timeout=PATIENCE)
    assert alone.returncode == 0, output
    assert f"continued from step {step}" in output
    assert_same_curve(unstarted, finished)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_of_a_killed_process_end_and_the_run_goes_on(finished, unstarted, victim):
    processes = start_together(unstarted, 2)
    wait_for(partial(recorded, unstarted, 15), processes)
    processes[victim].kill()
    killed = time.monotonic()
    results = ended(processes)
    assert time.monotonic() - killed < distributed.HEARTBEAT_SECONDS + 30
    code, output = results[1 - victim]
    assert code in (distributed.EXIT_PEER_LOST, -signal.SIGABRT), output
    assert "gone or out of reach" in output or "another task died" in output
    results = ended(start_together(unstarted, 2))
    assert [code for code, _ in results] == [0, 0], results
    assert re.search("continued from step [12]0", results[0][1])
    assert_same_curve(unstarted, finished)
    state, reference = (Checkpoints(f / "run" / "checkpoints").load(STEPS) for f in (unstarted, finished))
    for found, expected in zip(*(map(np.asarray, leaves(tree)) for tree in (state, reference)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def leaves(tree):
    return [leaf for part in tree.values() for leaf in leaves(part)] if isinstance(tree, dict) else [tree]


def test_a_process_with_other_options_ends_all(unstarted):
    address = f"127.0.0.1:{free_port()}"
    common = ("--distributed.coordinator_address", address, "--distributed.num_processes", 2)
    rate = ("--optimizer.peak_learning_rate", 0.5)
    results = ended(
        [
            start(unstarted, *common, "--distributed.process_id", 0),
            start(unstarted, *common, "--distributed.process_id", 1, *rate),
        ]
    )
    assert [code for code, _ in results] == [2, 2], results
    message = "optimizer.peak_learning_rate = 0.5: is another in process 0"
    assert f"error: process 1 of 2 cannot go on: {message}" in results[0][1]
    assert f"error: {message}" in results[1][1]
    assert not (unstarted / "run").exists()


def test_what_one_process_finds_wrong_ends_all_with_one_message(unstarted):
    (unstarted / "run").mkdir()
    (unstarted / "run" / "lock").mkdir()  # only the process that writes meets it
    results = ended(start_together(unstarted, 2))
    assert [code for code, _ in results] == [2, 2], results
    assert "error: run_dir = run: cannot be written" in results[0][1]
    assert "error: process 0 of 2 cannot go on: run_dir = run: cannot be written" in results[1][1]
    assert "Traceback" not in results[0][1] + results[1][1]


SLURM = {"SLURM_JOB_ID": "{port}", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
WHO = """
import jax
from albert_jax import distributed
distributed.start(distributed.DistributedOptions())
print("process", jax.process_index(), "of", jax.process_count(), distributed.share_text(f"I am {jax.process_index()}"))
"""


def test_slurm_needs_no_options():
    job = str(os.getpid())  # JAX takes the port from it
    environment = {name: value.format(port=job) for name, value in SLURM.items()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WHO],
            env=os.environ | environment | {"SLURM_PROCID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    for number, (code, output) in enumerate(ended(processes)):
        assert code == 0, output
        assert f"process {number} of 2 ['I am 0', 'I am 1']" in output


@pytest.mark.parametrize(
    ("environment", "together"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),  # the batch script itself, outside srun
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "8"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_several_processes_are_recognised(monkeypatch, environment, together):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched_together() == together


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("host:1", 2, None), "--distributed.process_id: is missing"),
        ((None, 2, 0), "--distributed.coordinator_address: is missing"),
        (("host", 2, 0), "--distributed.coordinator_address = 'host': must be host:port"),
        (("host:99999", 2, 0), "must be host:port"),
        (("host:1", 2, 2), "--distributed.process_id = 2: must be 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_named(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        DistributedOptions(*fields)


def test_a_port_in_use_is_named():
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        address = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"coordinator_address = {address}: process 0 cannot listen there"):
            distributed.start(DistributedOptions(address, 2, 0))


def test_the_record_is_whole_after_all_this(finished):
    for line in (finished / "run" / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
