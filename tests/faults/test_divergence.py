"""Updates that would do harm are skipped, and a run that only skips goes back and on in another order."""

import json
import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretrain
from albert_jax.config import OptimizerConfig
from albert_jax.errors import exit_cleanly
from albert_jax.optim import make_optimizer
from albert_jax.tracking import read_metrics
from albert_jax.train import (
    AVERAGED_UPDATES,
    STRAIN_OF_A_SKIP,
    Limits,
    Objective,
    fresh_health,
    initial_state,
    judge,
    train_step,
    zero_sums,
)

pytestmark = pytest.mark.faults
LIMITS = Limits(loss_rise=3.0, gradient_norm_ratio=100.0)


def after(updates, loss=2.0, norm=0.5):
    """The health of a run after so many even updates."""
    health = fresh_health()
    step = jax.jit(partial(judge, limits=LIMITS))
    for _ in range(updates):
        take, health = step(health, jnp.float32(loss), jnp.float32(norm))
        assert take
    return health


@pytest.fixture(scope="module")
def settled():
    return after(AVERAGED_UPDATES)


@pytest.mark.parametrize(
    ("loss", "norm", "taken"),
    [
        (2.1, 0.5, True),
        (4.9, 0.5, True),
        (5.1, 0.5, False),
        (2.0, 49.0, True),
        (2.0, 51.0, False),
        (math.nan, 0.5, False),
        (2.0, math.inf, False),
        (-math.inf, 0.5, False),
    ],
)
def test_an_update_is_judged_by_the_averages(settled, loss, norm, taken):
    take, health = judge(settled, jnp.float32(loss), jnp.float32(norm), LIMITS)
    assert bool(take) == taken
    assert int(health.skipped) == (not taken)
    assert int(health.taken) == AVERAGED_UPDATES + taken
    assert np.isfinite(health.loss) and np.isfinite(health.gradient_norm)


def test_nothing_explodes_before_there_is_an_average():
    take, _ = judge(after(AVERAGED_UPDATES - 1), jnp.float32(1e6), jnp.float32(1e6), LIMITS)
    assert take


def test_what_is_not_finite_is_skipped_from_the_first_update_on():
    take, _ = judge(fresh_health(), jnp.float32(math.nan), jnp.float32(1.0), Limits())
    assert not take


def test_ten_good_updates_make_up_for_a_skipped_one(settled):
    _, health = judge(settled, jnp.float32(math.nan), jnp.float32(0.5), LIMITS)
    assert int(health.strain) == STRAIN_OF_A_SKIP
    for _ in range(STRAIN_OF_A_SKIP):
        _, health = judge(health, jnp.float32(2.0), jnp.float32(0.5), LIMITS)
    assert int(health.strain) == 0


def test_the_averages_follow_the_loss(settled):
    health = settled
    for _ in range(300):
        _, health = judge(health, jnp.float32(1.0), jnp.float32(0.1), LIMITS)
    assert float(health.loss) == pytest.approx(1.0, abs=0.06)
    assert float(health.gradient_norm) == pytest.approx(0.1, abs=0.03)


def test_a_skipped_update_leaves_all_but_step_and_count_as_they_were():
    objective = Objective(
        sums=lambda params, part, keys: {
            "loss": (params["pooler"]["kernel"] * part["x"]).sum(),
            "weight": jnp.ones(()),
        },
        weights=lambda batch: {},
        loss=lambda sums, weights: sums["loss"],
        random=False,
    )
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), 100)
    params = {"pooler": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    batches = [{"x": jnp.full((1, 2, 3), value)} for value in (1.0, math.nan, 2.0)]
    step = jax.jit(
        partial(
            train_step,
            objective=objective,
            optimizer=optimizer,
            computing=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
            limits=Limits(),
        )
    )
    states = [initial_state(params, optimizer, zero_sums(objective, params, batches[0]))]
    for batch in batches:
        states.append(step(states[-1], batch, 0)[0])
    _, before, skipped, resumed = states
    for part in ("params", "optimizer"):
        for old, new in zip(
            jax.tree.leaves(getattr(before, part)), jax.tree.leaves(getattr(skipped, part)), strict=True
        ):
            if new.ndim:
                np.testing.assert_array_equal(old, new)
    assert int(skipped.step) == int(skipped.optimizer.count) == 2
    assert (float(skipped.sums["skipped"]), float(skipped.sums["steps"])) == (1.0, 2.0)
    assert float(skipped.sums["loss"]) == float(before.sums["loss"]), "its batch is not in the sums"
    assert not np.array_equal(resumed.params["pooler"]["kernel"], skipped.params["pooler"]["kernel"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(resumed))


def main(monkeypatch, folder, *options):
    """`pretrain.py` in this process; its exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "config.py", "--data.sources", *map(str, options)])
    with pytest.raises(SystemExit) as ending:
        exit_cleanly(pretrain.main)
    return ending.value.code


@pytest.mark.slow
def test_a_run_that_skips_too_much_goes_back_and_on_in_another_order(unstarted, monkeypatch, capsys):
    # Limits so narrow that the noise of small batches passes them: every skip sends the run back.
    options = ["--phases.steps", 180, "--phases.sequence_length", 16, "--checkpoint_every", 15]
    options += ["--divergence.max_loss_rise", 0.2, "--divergence.max_skipped_updates", 1]
    options += ["--divergence.max_rollbacks", 50]
    records = []
    for run in ("first", "second"):
        assert main(monkeypatch, unstarted, *options, "--run_dir", run) == 0, capsys.readouterr()
        records.append(
            [
                {name: value for name, value in record.items() if not name.startswith("speed/")}
                for record in read_metrics(unstarted / run)
            ]
        )
    assert records[0] == records[1], "what happens is a function of the seed"
    log = (unstarted / "first" / "log.txt").read_text()
    assert "diverged   at step" in log
    assert "back to step" in log
    assert "with another order of the data (1 of 50)" in log
    assert "finished   180 steps" in log


@pytest.mark.slow
def test_a_run_that_cannot_recover_stops_with_advice(unstarted, monkeypatch, capsys):
    code = main(
        monkeypatch,
        unstarted,
        *("--optimizer.peak_learning_rate", 1e30, "--optimizer.max_gradient_norm", 1e30),
        *("--divergence.max_rollbacks", 1, "--phases.steps", 60, "--phases.sequence_length", 16),
    )
    output = capsys.readouterr()
    assert code == 2
    assert "training has diverged" in output.err
    assert "after going back 1 times" in output.err
    assert "Lower optimizer.peak_learning_rate" in output.err
    assert json.loads((unstarted / "run" / "config.json").read_text())["seed"] == 0
