"""The training step and its state, for any model and objective: how gradients of the parts of a batch become one
update.

The step knows sums and weights, never means: it divides by the weight of the whole batch, so neither accumulation nor
the mesh changes the result.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from albert_jax.compiler_options import step_options
from albert_jax.config import AlbertConfig
from albert_jax.sharding import BATCH, gathered, named, parameter_specs

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


class Health(NamedTuple):
    """What decides whether an update is taken (see `Limits`), and how often none was."""

    loss: jax.Array
    """float32: running average over the updates that were taken"""
    gradient_norm: jax.Array
    """the same of the gradients' global norm, before clipping"""
    taken: jax.Array
    """int32: updates taken"""
    skipped: jax.Array
    """int32: updates skipped"""
    strain: jax.Array
    """int32: goes up by `STRAIN_OF_A_SKIP` with an update that is skipped and down by one with one that is taken, to
    0 at least"""
    rollbacks: jax.Array
    """int32: how often the run went back to a checkpoint, and which order of the data it reads since"""


STRAIN_OF_A_SKIP = 10
AVERAGED_UPDATES = 100
"""Updates that the running averages look back on, and before which nothing counts as exploding."""


@dataclass(frozen=True)
class Limits:
    """Beyond which an update counts as exploding and is skipped. Where loss or gradients are not finite it always
    is."""

    loss_rise: float = math.inf
    """of a batch's loss above its running average, in its own unit"""
    gradient_norm_ratio: float = math.inf
    """of the global norm to its running average"""


class Outcome(NamedTuple):
    """What the host learns of a step; its arrival tells that the step is done."""

    loss: jax.Array
    strain: jax.Array
    """of `Health`, after the step"""


@partial(
    jax.tree_util.register_dataclass, data_fields=("step", "params", "optimizer", "sums", "health"), meta_fields=()
)
@dataclass(frozen=True)
class TrainState:
    """All that a checkpoint holds. The position in the data is the step."""

    step: jax.Array
    """int32: updates done."""
    params: Any
    optimizer: Any
    sums: Sums
    """What the log line of the interval under way is made of, so that a resumed run writes the same line."""
    health: Health


@dataclass(frozen=True)
class Objective:
    """What is minimised: three functions of a batch."""

    sums: Callable[[Any, Batch, jax.Array | None], Sums]
    """(params, part of a batch, a key per row or None) -> sums over the part, losses and counts alike."""
    weights: Callable[[Batch], Sums]
    """Batch -> the denominators of the losses, over all of it."""
    loss: Callable[[Sums, Sums], jax.Array]
    """(sums of a part, weights of the whole) -> the part's share of the loss."""
    random: bool
    """Whether `sums` needs keys (dropout)."""


def state_specs(abstract: TrainState, mesh: Mesh, model: AlbertConfig) -> TrainState:
    """`PartitionSpec`s of a state: parameters by the table, moments like their parameters, the rest on every device."""
    params = parameter_specs(abstract.params, mesh, model)
    return TrainState(
        step=P(),
        params=params,
        optimizer=type(abstract.optimizer)(P(), params, params),
        sums=jax.tree.map(lambda _: P(), abstract.sums),
        health=jax.tree.map(lambda _: P(), abstract.health),
    )


def fresh_health() -> Health:
    """Of a run that has not begun."""
    average, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return Health(average, average, count, count, count, count)


def initial_state(params: Any, optimizer: optax.GradientTransformation, sums: Sums) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), sums, fresh_health())


def judge(health: Health, loss: jax.Array, gradient_norm: jax.Array, limits: Limits) -> tuple[jax.Array, Health]:
    """Whether an update with this loss and norm is to be taken, and the health after it."""
    averaged = health.taken >= AVERAGED_UPDATES
    exploding = (loss > health.loss + limits.loss_rise) | (
        gradient_norm > limits.gradient_norm_ratio * health.gradient_norm
    )
    take = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & ~(averaged & exploding)
    weight = 1.0 / jnp.minimum(health.taken + 1, AVERAGED_UPDATES)
    return take, Health(
        loss=jnp.where(take, health.loss + weight * (loss - health.loss), health.loss),
        gradient_norm=jnp.where(
            take, health.gradient_norm + weight * (gradient_norm - health.gradient_norm), health.gradient_norm
        ),
        taken=health.taken + take,
        skipped=health.skipped + ~take,
        strain=jnp.where(take, jnp.maximum(health.strain - 1, 0), health.strain + STRAIN_OF_A_SKIP),
        rollbacks=health.rollbacks,
    )


def zero_sums(objective: Objective, params: Any, batch: Batch) -> Sums:
    """Zeros for every sum that `train_step` collects; `params` and `batch` may be abstract."""
    part = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    key = jax.eval_shape(lambda: _sequence_keys(0, jnp.int32(0), batch)[0]) if objective.random else None
    shapes = jax.eval_shape(objective.sums, params, part, key)
    sums = {name: jnp.zeros(leaf.shape, jnp.float32) for name, leaf in shapes.items()}
    return sums | {name: jnp.zeros((), jnp.float32) for name in ("steps", "skipped", "gradient_norm")}


def train_step(
    state: TrainState,
    batch: Batch,
    seed: int | jax.Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    computing: Any,
    limits: Limits,
) -> tuple[TrainState, Outcome]:
    """One update from a batch of arrays [accumulation, sequences, ...]. `computing` holds the parameters' shardings
    within the step. An update that is skipped leaves parameters and moments as they were, and its batch out of the
    sums; step and learning rate go on."""
    params = jax.lax.with_sharding_constraint(state.params, computing)
    weights = objective.weights(batch)
    keys = _sequence_keys(seed, state.step, batch) if objective.random else None

    def loss(params: Any, part: Batch, part_keys: jax.Array | None) -> tuple[jax.Array, Sums]:
        sums = objective.sums(params, part, part_keys)
        return objective.loss(sums, weights), sums

    def accumulate(total: tuple[Any, Sums], part: tuple[Batch, jax.Array | None]) -> tuple[tuple[Any, Sums], None]:
        found = jax.grad(loss, has_aux=True)(params, *part)
        return jax.tree.map(jnp.add, total, found), None

    first = jax.tree.map(lambda x: x[0], (batch, keys))
    if batch_parts(batch) == 1:
        gradients, sums = jax.grad(loss, has_aux=True)(params, *first)
    else:
        # From zeros, not from the first part's: the program holds the network once, and no two parts at a time.
        shapes = jax.eval_shape(jax.grad(loss, has_aux=True), params, *first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (gradients, sums), _ = jax.lax.scan(accumulate, zeros, (batch, keys))
    # Whole on every fsdp neighbour before they are split like the state: else that split spreads back into the layers.
    gradients = jax.lax.with_sharding_constraint(gradients, computing)
    updates, moments = optimizer.update(gradients, state.optimizer, state.params)
    norm, mean_loss = optax.tree.norm(gradients), objective.loss(sums, weights)
    take, health = judge(state.health, mean_loss, norm, limits)

    def taken(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(take, a, b), new, old)

    sums |= {"steps": jnp.zeros(()), "skipped": jnp.zeros(()), "gradient_norm": norm}
    sums = taken({name: state.sums[name] + value for name, value in sums.items()}, state.sums)
    sums |= {"steps": state.sums["steps"] + 1, "skipped": state.sums["skipped"] + ~take}
    new_state = TrainState(
        step=state.step + 1,
        params=taken(optax.apply_updates(state.params, updates), state.params),
        optimizer=taken(moments, state.optimizer)._replace(count=moments.count),
        sums=sums,
        health=health,
    )
    return new_state, Outcome(mean_loss, health.strain)


def batch_parts(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


def random_key(seed: int | jax.Array) -> jax.Array:
    """The key of a seed, always of the one generator whose numbers depend on neither batching nor sharding."""
    return jax.random.key(seed, impl="threefry2x32")


def _sequence_keys(seed: int | jax.Array, step: jax.Array, batch: Batch) -> jax.Array:
    """A key for every row [accumulation, rows], by its place in the global batch."""
    parts, sequences = next(iter(batch.values())).shape[:2]
    step_key = jax.random.fold_in(random_key(seed), step)
    places = jnp.arange(parts * sequences)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, places).reshape(parts, sequences)


def compile_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    limits: Limits = Limits(),
) -> Callable[[TrainState, Batch, int], tuple[TrainState, Outcome]]:
    """`train_step` jitted over the mesh, as a function of state, batch and seed; the state passed in is consumed."""
    computing = named(mesh, gathered(jax.tree.map(lambda sharding: sharding.spec, shardings.params)))
    return jax.jit(
        partial(train_step, objective=objective, optimizer=optimizer, computing=computing, limits=limits),
        in_shardings=(shardings, NamedSharding(mesh, BATCH), NamedSharding(mesh, P())),
        out_shardings=(shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
        compiler_options=step_options(mesh),
    )


def create_state(
    initialize: Callable[[], Any],
    optimizer: optax.GradientTransformation,
    sums: Callable[[Any], Sums],
    mesh: Mesh,
    model: AlbertConfig,
) -> tuple[Callable[[], TrainState], TrainState, TrainState]:
    """(function that makes the state where it lives, its shapes, its shardings): shapes, then shardings, then
    arrays."""

    def create() -> TrainState:
        params = initialize()
        return initial_state(params, optimizer, sums(params))

    abstract = jax.eval_shape(create)
    shardings = named(mesh, state_specs(abstract, mesh, model))
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return jax.jit(create, out_shardings=shardings), placed, shardings


def local_rows(mesh: Mesh, batch_size: int, accumulation: int) -> np.ndarray:
    """Rows of a global batch that this process's devices hold, ascending."""
    sequences = batch_size // accumulation
    sharding = NamedSharding(mesh, BATCH)
    rows = np.arange(batch_size).reshape(accumulation, sequences)
    indices = sharding.addressable_devices_indices_map((accumulation, sequences)).values()
    return np.unique(np.concatenate([rows[index].ravel() for index in indices]))


def place_batches(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh, batch_size: int, accumulation: int
) -> Iterator[Batch]:
    """Host arrays [local rows, ...] -> global arrays [accumulation, sequences, ...] on the mesh."""
    sharding = NamedSharding(mesh, BATCH)
    sequences = batch_size // accumulation
    for batch in batches:
        yield {
            name: jax.make_array_from_process_local_data(
                sharding,
                array.reshape(accumulation, len(array) // accumulation, *array.shape[1:]),
                (accumulation, sequences, *array.shape[1:]),
            )
            for name, array in batch.items()
        }
