"""`pretrain.py` as a user runs it: from raw text to a trained model, stopped, killed, resumed, and fed nonsense."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import pretrain
from albert_jax.checkpoint import Checkpoints
from albert_jax.errors import exit_cleanly
from albert_jax.tracking import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = """
from albert_jax.config import *

def get_config():
    return PretrainConfig(
        run_dir="run",
        data=DataConfig(sources=("text/*.txt",), tokenizer="vocab/spiece.model", corpus=("corpus",),
                        held_out_fraction=0.2),
        model=AlbertConfig(vocab_size=150, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=0.1),
        phases=PhasesConfig(steps=(200, 100), sequence_length=(16, 32), batch_size=(8,)),
        optimizer=OptimizerConfig(peak_learning_rate=0.01, warmup_steps=30),
        compute=ComputeConfig(dtype="float32", remat="none"),
        log_every=20, evaluate_every=50, evaluate_sequences=16, checkpoint_every=50, keep_checkpoints=2,
        sample_sentences=("the [MASK] of the wind",),
    )
"""
SPEED = re.compile("speed/")


def command(*options, config="config.py"):
    return [sys.executable, str(ROOT / "pretrain.py"), *([config] if config else []), *map(str, options)]


def environment():
    # One device, as on a laptop: not the suite's eight.
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def run(folder, *options, config="config.py"):
    return subprocess.run(
        command(*options, config=config),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def final_state(folder, step=300):
    return Checkpoints(folder / "run" / "checkpoints").load(step)


def lasting_metrics(folder):
    """The record without what a clock measured."""
    return [
        {name: value for name, value in record.items() if not SPEED.match(name)}
        for record in read_metrics(folder / "run")
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with text and a configuration."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstw" for b in "aeiou"]
    words = ["the", "of", "wind"] + ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(300)]
    for file in range(2):
        documents = []
        for _ in range(15):
            paragraphs = (
                " ".join(" ".join(rng.choice(words, rng.integers(3, 9))).capitalize() + "." for _ in range(5))
                for _ in range(4)
            )
            documents.append("\n".join(paragraphs))
        (folder / "text" / f"{file}.txt").write_text("\n\n".join(documents) + "\n")
    (folder / "config.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def finished(workplace):
    """The run that nothing interrupted."""
    result = run(workplace)
    assert result.returncode == 0, result.stderr
    (workplace / "output.txt").write_text(result.stdout)
    return workplace


@pytest.fixture
def unstarted(finished, tmp_path):
    """The same vocabulary and corpus, and no run yet."""
    for name in ("text", "vocab", "corpus"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "config.py", tmp_path)
    return tmp_path


def interrupt(folder, number, step=110):
    """Starts the run and sends it a signal once its record has passed `step`; returns (exit status, output)."""
    process = subprocess.Popen(
        command(), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        records = folder / "run" / "metrics.jsonl"
        if records.exists() and any(f'"step": {s},' in records.read_text() for s in range(step, step + 40)):
            break
        time.sleep(0.01)
    assert process.poll() is None, f"ended before it could be interrupted:\n{process.stdout.read()}"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_the_whole_path_runs_and_learns(finished):
    output = (finished / "output.txt").read_text()
    losses = [record["held_out/mlm_loss"] for record in read_metrics(finished / "run") if "held_out/mlm_loss" in record]
    assert len(losses) == 7
    assert losses[-1] < losses[0] - 0.2
    assert "the [" in output.splitlines()[-1], "completions come last"


def test_the_run_directory_tells_what_ran(finished):
    folder = finished / "run"
    assert json.loads((folder / "config.json").read_text())["optimizer"]["warmup_steps"] == 30
    assert json.loads((folder / "versions.json").read_text())["packages"]["jax"] == jax.__version__
    assert json.loads((folder / "model.json").read_text())["hidden_size"] == 16
    assert list((folder / "tensorboard").glob("events*"))
    assert (folder / "tokenizer" / "spiece.model").exists()
    assert "step     300/300" in (folder / "log.txt").read_text()


def test_the_newest_checkpoints_and_the_best_are_kept(finished):
    records = {r["step"]: r["held_out/loss"] for r in read_metrics(finished / "run") if "held_out/loss" in r}
    best = min((step for step in records if step > 0), key=records.get)
    kept = {int(path.name) for path in (finished / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {250, 300, best}


def test_the_data_statistics_are_logged(finished):
    record = next(r for r in read_metrics(finished / "run") if "train/mask_rate" in r)
    assert 0.1 < record["train/mask_rate"] < 0.3
    assert record["train/ngram_1"] + record["train/ngram_2"] + record["train/ngram_3"] == pytest.approx(1)
    assert record["train/mask_replaced"] + record["train/random_replaced"] + record["train/kept"] == pytest.approx(1)
    assert 0 <= record["train/padding"] < 1
    assert record["train/sequences_per_row"] > 1
    assert 0 < record["train/swapped"] < 1


def test_a_run_of_single_rows_is_judged_by_the_same_sequences(finished, unstarted, monkeypatch):
    steps = ("--phases.steps", 4, 2, "--optimizer.warmup_steps", 2, "--log_every", 2)
    monkeypatch.chdir(unstarted)
    monkeypatch.setattr(sys, "argv", command("--data.pack_sequences", "False", *steps)[1:])
    assert pretrain.main() is None
    packed, alone = (read_metrics(folder / "run") for folder in (finished, unstarted))
    for name in ("loss", "mlm_loss", "sop_loss", "mask_rate", "swapped"):
        assert alone[0][f"held_out/{name}"] == pytest.approx(packed[0][f"held_out/{name}"], rel=1e-5)
    assert alone[1]["train/sequences_per_row"] == 1
    assert alone[1]["train/padding"] > next(r["train/padding"] for r in packed if "train/padding" in r)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_run_resumes_bit_for_bit(finished, unstarted, number):
    status, output = interrupt(unstarted, number)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 0, output
        assert f"on {number.name} at step" in output
    result = run(unstarted)
    assert result.returncode == 0, result.stderr
    assert "continued from step" in result.stdout
    expected, resumed = final_state(finished), final_state(unstarted)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    assert lasting_metrics(unstarted) == lasting_metrics(finished)


def test_a_finished_run_is_not_trained_again(finished):
    before = lasting_metrics(finished)
    result = run(finished)
    assert result.returncode == 0
    assert "continued from step 300" in result.stdout
    assert lasting_metrics(finished) == before


def test_accumulation_may_change_between_starts(finished, unstarted):
    interrupt(unstarted, signal.SIGTERM)
    assert run(unstarted, "--phases.accumulation", 2, "--data.threads", 1).returncode == 0
    last, expected = read_metrics(unstarted / "run")[-1], read_metrics(finished / "run")[-1]
    assert last["held_out/loss"] == pytest.approx(expected["held_out/loss"], rel=1e-4)


def assert_refused(result, message):
    assert result.returncode == 2, result.stdout + result.stderr
    assert re.search(message, result.stderr, re.DOTALL), result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_of_another_configuration_is_refused_with_the_differences(finished):
    before = sorted(path.name for path in (finished / "run").rglob("*"))
    result = run(finished, "--seed", 7, "--optimizer.beta_1", 0.8)
    assert_refused(result, r"another configuration:\n  .*seed: 0 -> 7.*Give another --run_dir")
    assert "optimizer.beta_1: 0.9 -> 0.8" in result.stderr
    assert sorted(path.name for path in (finished / "run").rglob("*")) == before


def test_a_second_process_is_refused(unstarted):
    first = subprocess.Popen(command(), cwd=unstarted, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        while not (unstarted / "run" / "metrics.jsonl").exists():
            time.sleep(0.02)
            assert first.poll() is None
        assert_refused(run(unstarted), "another process is training there")
    finally:
        first.terminate()
        first.communicate()


@pytest.fixture
def refused(unstarted, monkeypatch, capsys):
    """Runs pretrain.py's own entry in this process, which saves the seconds of a new one; its status and message."""

    def run_here(*options):
        monkeypatch.chdir(unstarted)
        monkeypatch.setattr(sys, "argv", command(*options)[1:])
        with pytest.raises(SystemExit) as exit_:
            exit_cleanly(pretrain.main)
        output = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, exit_.value.code, output.out, output.err)

    return run_here


BAD_INPUT = {
    "a misspelt option": (["--optimizer.peak_learning_rat", "1"], "Perhaps you meant.*peak_learning_rate"),
    "a value of the wrong type": (["--seed", "x"], "invalid|int"),
    "an impossible mesh": (["--mesh.data", "3"], r"mesh = data 3 .* this run has 8"),
    "a batch that does not divide": (
        ["--phases.accumulation", "3"],
        r"phases.batch_size = 8: must be a multiple",
    ),
    "a missing corpus": (["--data.corpus", "nowhere", "--data.sources"], "nowhere"),
    "a missing tokenizer": (["--data.tokenizer", "no.model", "--data.sources"], "no.model"),
    "another vocabulary size": (
        ["--model.vocab_size", "151", "--data.sources"],
        "model.vocab_size = 151.*has 150",
    ),
    "a vocabulary that 16 bits cannot hold": (
        ["--model.vocab_size", "70000"],
        "model.vocab_size = 70000.*65,536",
    ),
    "a corpus of another tokenizer": (["--data.do_lower_case", "False", "--data.sources"], "token"),
    "sequences beyond the positions": (["--phases.sequence_length", "64"], "max_position_embeddings = 32"),
    "text that is not there": (["--data.sources", "no/*.txt", "--data.corpus", "new"], "no/"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_message(unstarted, refused, case):
    options, message = BAD_INPUT[case]
    assert_refused(refused(*options), message)
    assert not (unstarted / "run").exists()


def test_a_missing_configuration_names_the_nearest(unstarted):
    assert_refused(run(ROOT, config="configs/pretrain/sampel.py"), "did you mean configs/pretrain/sample.py")


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_shard_is_refused(unstarted, refused, damage):
    shard = next((unstarted / "corpus").glob("train-*.tokens"))
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:-2])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    else:
        shard.unlink()
    assert_refused(refused("--data.sources"), shard.name)
    assert not (unstarted / "run").exists()


def test_a_run_directory_without_room_for_two_checkpoints_is_refused(refused, unstarted, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert_refused(refused("--data.sources"), r"0.0 MB are free, but the next 2 checkpoint\(s\) need")
    assert not (unstarted / "run").exists()


def test_a_run_that_diverges_stops_and_keeps_its_checkpoints(unstarted, refused):
    options = ("--optimizer.peak_learning_rate", 1e30, "--optimizer.max_gradient_norm", 1e30)
    result = refused(
        *options, "--data.sources", "--checkpoint_every", 1, "--evaluate_every", 1, "--keep_checkpoints", 1
    )
    assert_refused(result, r"training has diverged: .* not finite, after going back 3 times")
    losses = [r["held_out/loss"] for r in read_metrics(unstarted / "run") if r.get("held_out/loss") is not None]
    assert len(losses) >= 2, "something finite was there to keep"
    assert any((unstarted / "run" / "checkpoints").iterdir())


@pytest.fixture
def copied(finished, unstarted):
    """A finished run to damage."""
    shutil.copytree(finished / "run", unstarted / "run")
    return unstarted / "run"


def test_a_run_does_not_continue_on_another_corpus(copied, unstarted, refused):
    manifest = unstarted / "corpus" / "manifest.json"
    before = (copied / "data.json").read_text()
    (copied / "data.json").write_text(before.replace('"corpus": "', '"corpus": "0'))
    assert_refused(refused("--data.sources"), "was trained with another corpus than is now at that path")
    assert manifest.exists()


def truncate(checkpoint):
    for file in (checkpoint / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:10])


def test_a_damaged_checkpoint_is_passed_over_and_written_again(finished, copied, unstarted):
    truncate(copied / "checkpoints" / "300")
    result = run(unstarted)
    assert result.returncode == 0, result.stderr
    assert re.search(r"damaged    run/checkpoints/300/\S+: truncated, 10 bytes instead of \d+; .* moved", result.stdout)
    assert "continued from step 250" in result.stdout
    jax.tree.map(np.testing.assert_array_equal, final_state(unstarted), final_state(finished))
    assert (copied / "damaged_checkpoints" / "300").is_dir()


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_stays_as_it_is(copied, refused):
    for checkpoint in (copied / "checkpoints").iterdir():
        truncate(checkpoint)
    for _ in range(2):  # the second start must not begin again in silence either
        assert_refused(refused("--data.sources"), r"none of its checkpoints can be continued from: .*/300/.*/250/")


@pytest.mark.parametrize("junk", [b"[1,2]\n", b"\xff\xfe\x00\n", b'{"step": "x"}\n'])
def test_junk_in_the_record_is_dropped(copied, unstarted, monkeypatch, capsys, junk):
    with (copied / "metrics.jsonl").open("ab") as file:
        file.write(junk)
    monkeypatch.chdir(unstarted)
    monkeypatch.setattr(sys, "argv", command("--data.sources")[1:])
    assert pretrain.main() is None
    assert {type(record["step"]) for record in read_metrics(copied)} == {int}


CONFIG_FAULTS = {
    "a syntax error": ("def get_config(:\n", "config.py, line 1: SyntaxError"),
    "an unknown field": (CONFIG.replace("seed=", "").replace("log_every=20", "log_evry=20"), "line .*log_evry"),
    "no get_config": ("x = 3\n", "defines no get_config"),
    "a fault of its own": ("\ndef get_config():\n    return 1 / 0\n", "config.py, line 3: ZeroDivisionError"),
    "something else": ("def get_config():\n    return 3\n", "returned a int, not a PretrainConfig"),
    "a choice that there is not": (
        CONFIG.replace("hidden_size=16", "hidden_size=16, hidden_act='gellu'"),
        "hidden_act",
    ),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_faulty_configuration_file_is_named_with_the_line(unstarted, refused, fault):
    text, message = CONFIG_FAULTS[fault]
    (unstarted / "config.py").write_text(text)
    assert_refused(refused(), message)
    assert not (unstarted / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/inside", "loop"])
def test_what_stands_in_the_way_of_the_folder_is_named(unstarted, refused, place):
    (unstarted / "file").write_text("mine\n")
    (unstarted / "loop").symlink_to("loop")
    culprit = place.partition("/")[0]
    assert_refused(refused("--run_dir", place), f"run_dir = {place}: {culprit} is in the way, which is no folder")
    assert (unstarted / "file").read_text() == "mine\n"


def test_eight_devices_train_like_one(finished, unstarted):
    eight = environment()
    eight["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
    options = ("--mesh.data", 2, "--mesh.fsdp", 2, "--mesh.tensor", 2)
    result = subprocess.run(command(*options), cwd=unstarted, env=eight, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for record, expected in zip(read_metrics(unstarted / "run"), read_metrics(finished / "run"), strict=True):
        if expected["step"] <= 20:
            losses = [name for name in expected if name.endswith("loss")]
            assert [record[name] for name in losses] == pytest.approx([expected[name] for name in losses], rel=1e-5)
