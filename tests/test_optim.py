"""LAMB, AdamW and the schedule, against their published definitions; Google's own trajectories are in test_parity."""

import jax.numpy as jnp
import numpy as np
import pytest

from albert_jax.config import OptimizerConfig
from albert_jax.optim import clip, is_adapted, learning_rate, make_optimizer, trust_ratio

PAPER = OptimizerConfig()


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (1, 1.76e-3 / 3125), (3124, 1.76e-3 * 3124 / 3125), (3125, 1.76e-3 * 0.975), (125_000, 0.0)],
)
def test_the_papers_schedule(step, expected):
    assert float(learning_rate(PAPER, 125_000)(step)) == pytest.approx(expected, rel=1e-5)


def test_without_warm_up_the_first_rate_is_the_peak():
    config = OptimizerConfig(warmup_steps=0, peak_learning_rate=0.5)
    assert float(learning_rate(config, 10)(0)) == 0.5


def one_update(config, params, gradients, total_steps=100):
    optimizer = make_optimizer(config, total_steps)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_lamb_moves_a_matrix_by_the_rate_times_its_norm():
    # Whatever the gradient: the direction is scaled to the norm of the weights.
    config = OptimizerConfig(warmup_steps=0, peak_learning_rate=0.1, weight_decay=0.0)
    params = {"dense": {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]])}}
    for scale in (1e-3, 1.0):
        gradients = {"dense": {"kernel": scale * jnp.array([[1.0, -2.0], [0.5, 3.0]])}}
        update = one_update(config, params, gradients)["dense"]["kernel"]
        assert float(jnp.linalg.norm(update)) == pytest.approx(0.1 * 5.0, rel=1e-5)


def test_layer_norm_and_biases_take_raw_adam_steps_without_decay():
    config = OptimizerConfig(warmup_steps=0, peak_learning_rate=0.1)
    params = {"layer_norm": {"scale": jnp.full(4, 7.0)}, "dense": {"bias": jnp.full(4, 7.0)}}
    gradients = {"layer_norm": {"scale": jnp.full(4, 0.1)}, "dense": {"bias": jnp.full(4, 0.1)}}
    update = one_update(config, params, gradients)
    # No bias correction: (1 - beta_1) g / (sqrt((1 - beta_2) g^2) + epsilon).
    expected = -0.1 * 0.01 / (np.sqrt(0.001) * 0.1 + 1e-6)
    np.testing.assert_allclose(update["layer_norm"]["scale"], expected, rtol=1e-4)
    np.testing.assert_allclose(update["dense"]["bias"], expected, rtol=1e-4)


@pytest.mark.parametrize(("weights", "direction"), [([0.0, 0.0], [1.0, 1.0]), ([1.0, 1.0], [0.0, 0.0])])
def test_the_trust_ratio_of_a_zero_norm_is_one(weights, direction):
    assert float(trust_ratio(jnp.array(weights), jnp.array(direction))) == 1.0


def test_the_trust_ratio_is_not_clamped():
    assert float(trust_ratio(jnp.array([3e4, 4e4]), jnp.array([3e-3, 4e-3]))) == pytest.approx(1e7, rel=1e-5)


def test_clipping_scales_only_what_exceeds_the_norm():
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    np.testing.assert_allclose(clip(gradients, 1.0)["b"], [0.8], rtol=1e-6)
    np.testing.assert_allclose(clip(gradients, 6.0)["b"], [4.0])


@pytest.mark.parametrize(
    ("name", "adapted"),
    [
        ("albert/embeddings/word", True),
        ("albert/embeddings/layer_norm/scale", False),
        ("albert/encoder/group_0/inner_group_0/ffn/output/kernel", True),
        ("albert/encoder/group_0/inner_group_0/ffn/output/bias", False),
        ("predictions/bias", False),
    ],
)
def test_decay_and_adaptation_leave_out_layer_norm_and_biases(name, adapted):
    assert is_adapted(name) == adapted
