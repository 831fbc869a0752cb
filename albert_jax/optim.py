"""LAMB and AdamW as Google's ALBERT computes them, and its learning-rate schedule.

Neither is optax's of the same name: there is no bias correction, and LayerNorm and biases are excluded from weight
decay *and* from the trust ratio (lamb_optimizer.py, optimization.py). Trust ratios follow the tensors as Google
stores them, which is how our parameter tree holds them: query, key and value are three."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from albert_jax.config import OptimizerConfig
from albert_jax.sharding import path_name


class MomentsState(NamedTuple):
    """First and second moments, shaped like the parameters, and the number of updates so far."""

    count: Array
    first: Any
    second: Any


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """`step` (from 0) -> learning rate: peak * step / warmup during warm-up, then peak * (1 - step / total).

    The decay counts from step 0, not from the end of warm-up, so the rate drops by warmup / total where the two meet
    (Google's optimization.py). The first update has rate 0.
    """

    def rate(step: Array | int) -> Array:
        step = jnp.asarray(step, jnp.float32)
        warming = config.peak_learning_rate * step / max(config.warmup_steps, 1)
        decaying = config.peak_learning_rate * jnp.maximum(0.0, 1.0 - step / total_steps)
        return jnp.where(step < config.warmup_steps, warming, decaying)

    return rate


def is_adapted(name: str) -> bool:
    """Whether the parameter of this path is decayed and, in LAMB, scaled by its trust ratio: all but LayerNorm and
    biases."""
    return "layer_norm/" not in name and not name.endswith("bias")


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clipping to a global norm, then LAMB or AdamW. State: `MomentsState`; updates are to be added."""
    schedule = learning_rate(config, total_steps)

    def init(params: Any) -> MomentsState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MomentsState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: MomentsState, params: Any) -> tuple[Any, MomentsState]:
        gradients = clip(gradients, config.max_gradient_norm)
        first = jax.tree.map(lambda m, g: config.beta_1 * m + (1 - config.beta_1) * g, state.first, gradients)
        second = jax.tree.map(
            lambda v, g: config.beta_2 * v + (1 - config.beta_2) * jnp.square(g), state.second, gradients
        )
        rate = schedule(state.count)

        def step(path: tuple[Any, ...], m: Array, v: Array, w: Array) -> Array:
            direction = m / (jnp.sqrt(v) + config.epsilon)
            if is_adapted(path_name(path)):
                direction += config.weight_decay * w
                if config.name == "lamb":
                    direction *= trust_ratio(w, direction)
            return -rate * direction

        updates = jax.tree_util.tree_map_with_path(step, first, second, params)
        return updates, MomentsState(state.count + 1, first, second)

    return optax.GradientTransformation(init, update)


def trust_ratio(weights: Float[Array, "*shape"], direction: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Norm of the weights over norm of the update direction, 1 where either is 0; not clamped."""
    weight_norm, direction_norm = jnp.linalg.norm(weights), jnp.linalg.norm(direction)
    usable = (weight_norm > 0) & (direction_norm > 0)
    return jnp.where(usable, weight_norm / jnp.where(usable, direction_norm, 1.0), 1.0)


def clip(gradients: Any, max_norm: float) -> Any:
    """Gradients scaled down to global norm `max_norm` where they exceed it."""
    scale = max_norm / jnp.maximum(optax.tree.norm(gradients), max_norm)
    return jax.tree.map(lambda gradient: gradient * scale, gradients)
