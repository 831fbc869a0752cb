"""What `--dry_run` tells somebody who plans a run."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from albert_jax.config import (
    AlbertConfig,
    DataConfig,
    MeshConfig,
    PhasesConfig,
    PretrainConfig,
    albert_config,
)
from albert_jax.inputs.corpus import ShardWriter, write_manifest
from albert_jax.report import dry_run_report, si, table

ROOT = Path(__file__).parents[1]
PARAMETERS = {"base": 11_813_810, "large": 17_847_474, "xlarge": 59_021_490, "xxlarge": 223_158_450}


def planned(**fields) -> PretrainConfig:
    known = dict(
        data=DataConfig(("no/such/corpus",), "spiece.model", max_predictions_per_sequence=20),
        model=AlbertConfig(),
        phases=PhasesConfig(),
    )
    return PretrainConfig("runs/test", **(known | fields))


def row(report: str, start: str) -> str:
    (found,) = (line for line in report.splitlines() if line.startswith(start))
    return found


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_are_exact(size, version):
    report = dry_run_report(planned(model=albert_config(size, version)))
    assert f" {PARAMETERS[size]:,} parameters" in row(report, "model")


def test_command_prints_the_plan_in_seconds():
    command = [sys.executable, "pretrain.py", "configs/pretrain/base_v1.py", "--dry_run"]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "11,813,810 parameters" in done.stdout
    assert time.perf_counter() - start < 60  # about 3 on a free machine
    assert not (ROOT / "runs/base_v1").exists()


def test_work_is_tokens_and_flops_per_phase_and_in_all():
    phases = PhasesConfig(steps=(112_500, 12_500), sequence_length=(128, 512))
    lines = dry_run_report(planned(phases=phases)).splitlines()
    first, second, total = lines[lines.index("") + 2 :][:3]
    assert first.split() == "1 112,500 4,096 128 40 59 G 508 M 2.66e+14 3e+19".split()
    assert second.split() == "2 12,500 4,096 512 104 26.2 G 541 M 1.13e+15 1.42e+19".split()
    assert total.split() == "total 125,000 85.2 G 4.41e+19".split()


def test_rows_of_one_sequence_have_googles_places_and_take_less_memory():
    alone = DataConfig(("no/such/corpus",), "spiece.model", max_predictions_per_sequence=20, pack_sequences=False)
    lines = dry_run_report(planned(data=alone)).splitlines()
    assert lines[lines.index("") + 2].split() == "1 125,000 4,096 512 20 262 G 529 M 1.11e+15 1.39e+20".split()
    memory = [float(row(report, "64 x H100").split()[4]) for report in ("\n".join(lines), dry_run_report(planned()))]
    # For each of 64 rows: the logits of 84 more predictions with their gradient, the last block there, and which tokens
    # see each other.
    last_block = 84 * (7 * 768 + 3072) * 2
    expected = 64 * (84 * 30_000 * 8 + 512 * 512 * 4 + last_block) / 1e9
    assert memory[1] - memory[0] == pytest.approx(expected, abs=0.11)


def test_time_is_flops_over_the_assumed_share_of_the_peak():
    # 1.417e20 FLOPs / (8 x 989e12 x 40 %) = 12.44 hours
    assert row(dry_run_report(planned()), "8 x H100").endswith("12h 26m")


def test_accumulation_is_the_least_that_fits():
    report = dry_run_report(planned())
    assert row(report, "1 x H100").split()[3] == "16"
    assert row(report, "8 x H100").split()[3] == "2"
    assert row(report, "64 x H100").split()[3] == "1"


def test_machine_that_cannot_hold_one_row_is_named():
    model = dataclasses.replace(
        albert_config("xxlarge", 2), hidden_size=16384, intermediate_size=65536, num_attention_heads=256
    )
    report = dry_run_report(planned(model=model))
    assert "one row is too much for 16 GB" in row(report, "8 x TPU v5e")


def test_batch_that_a_machine_does_not_divide_is_said():
    report = dry_run_report(planned(phases=PhasesConfig(batch_size=(96,))))
    assert "a batch of 96 does not divide" in row(report, "256 x TPU v5e")


def test_splitting_the_parameters_lowers_the_memory_per_device():
    model = albert_config("xxlarge", 2)

    def memory(mesh: MeshConfig) -> float:
        return float(row(dry_run_report(planned(model=model, mesh=mesh)), "256 x TPU v5e").split()[5])

    assert memory(MeshConfig(fsdp=8)) < memory(MeshConfig()) - 2.0


def test_mesh_that_this_machine_cannot_have_is_said_and_the_rest_is_planned():
    report = dry_run_report(planned(mesh=MeshConfig(data=1024)))
    assert "cannot run this: mesh = data 1024" in row(report, "this machine")
    assert row(report, "8 x H100").endswith("12h 26m")


def test_epochs_are_told_where_the_corpus_exists(tmp_path):
    assert row(dry_run_report(planned()), "corpus").endswith("no/such/corpus does not exist yet")
    shards = {}
    for split in ("train", "held_out"):
        writer = ShardWriter(tmp_path, split)
        writer.append(np.full(1000, 7, np.uint16), np.full(100, 10), np.full(10, 10))
        shards[split] = [writer.close()]
    tokenizer = {"fingerprint": "0" * 64, "vocab_size": 30_000}
    write_manifest(tmp_path, shards=shards, documents_left_out=0, tokenizer=tokenizer, build={})
    data = DataConfig((str(tmp_path),), "spiece.model")
    report = dry_run_report(planned(data=data, phases=PhasesConfig(steps=(3125,), batch_size=(64,))))
    assert row(report, "corpus").endswith(": 1 k tokens, which the run reads about 1.02e+05 times")


def test_numbers_have_three_digits_and_a_unit():
    assert [si(n) for n in (950, 999_600, 12_600_000, 262.144e9, 1.2e12)] == [
        "950",
        "1 M",
        "12.6 M",
        "262 G",
        "1.2 T",
    ]


def test_columns_are_aligned():
    assert table([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]
