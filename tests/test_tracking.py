"""The record of a run survives interruptions and says each thing once."""

import json

import pytest

from albert_jax.tracking import METRICS_FILE, Tracker, duration, read_metrics


@pytest.fixture
def tracker(tmp_path):
    tracker = Tracker(tmp_path, step=0, total_steps=100, title="test")
    yield tracker
    tracker.close()


def test_records_are_written_at_once(tracker, tmp_path, capsys):
    tracker.record(10, {"train/loss": 2.5}, "step 10")
    assert read_metrics(tmp_path) == [{"step": 10, "train/loss": 2.5}]
    assert capsys.readouterr().out == "step 10\n"
    assert (tmp_path / "log.txt").read_text() == "step 10\n"


def test_a_number_that_json_lacks_becomes_null(tracker, tmp_path):
    tracker.record(1, {"train/loss": float("nan")}, "")
    assert json.loads((tmp_path / METRICS_FILE).read_text()) == {"step": 1, "train/loss": None}


def test_a_resumed_run_drops_what_it_will_write_again(tracker, tmp_path):
    for step in (10, 20, 30):
        tracker.record(step, {"train/loss": 1.0 / step}, "")
    tracker.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 20, "train/lo')  # killed while it wrote
    resumed = Tracker(tmp_path, step=20, total_steps=100, title="test")
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    assert resumed.value_at(20, "train/loss") == 0.05
    assert resumed.value_at(20, "held_out/loss") is None
    resumed.close()


def test_values_of_one_step_come_together(tracker):
    tracker.record(5, {"train/loss": 1.0}, "")
    tracker.record(5, {"held_out/loss": 2.0}, "")
    assert (tracker.value_at(5, "train/loss"), tracker.value_at(5, "held_out/loss")) == (1.0, 2.0)
    tracker.record(6, {"train/loss": 3.0}, "")
    assert tracker.value_at(5, "train/loss") is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (42.4, "42s"), (727, "12m 07s"), (11_100, "3h 05m"), (187_200, "2d 04h")]
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text
