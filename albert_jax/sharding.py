"""Where arrays live: the mesh, the one table that says how each parameter is split over it, and the batch's layout.

Axis types are Auto: the table fixes parameters, batch and layer outputs, the compiler decides the rest. Notation after
the scaling book: kernel[in_fsdp, out_tensor] is a matrix whose rows are split over `fsdp` and columns over `tensor`.
"""

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from albert_jax.config import AlbertConfig, MeshConfig
from albert_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

BATCH = P(None, ("data", "fsdp"))
"""Every array of a batch is [accumulation, sequences, ...]; the sequences are split, tensor neighbours share them."""

ROWS = P(("data", "fsdp"))
"""The same without accumulation, for evaluation."""


class Rule(NamedTuple):
    """Parameters whose path matches `pattern` (from the end) are split along `axes`, one entry per dimension."""

    pattern: str
    axes: tuple[str | None, ...]


PARAMETER_RULES = (
    # Megatron's layout: the first product of a sub-block is split by columns, the second by rows, so that a sub-block
    # needs one reduction over `tensor`. `fsdp` takes the other dimension.
    Rule(r"attention/(query|key|value)/kernel", ("fsdp", "tensor")),
    Rule(r"attention/(query|key|value)/bias", ("tensor",)),
    Rule(r"attention/output/kernel", ("tensor", "fsdp")),
    Rule(r"ffn/intermediate/kernel", ("fsdp", "tensor")),
    Rule(r"ffn/intermediate/bias", ("tensor",)),
    Rule(r"ffn/output/kernel", ("tensor", "fsdp")),
    Rule(r"embeddings/word", ("tensor", "fsdp")),
    Rule(r"predictions/decoder", ("tensor", "fsdp")),
    Rule(r"predictions/bias", ("tensor",)),
    Rule(r"embeddings/position", (None, "fsdp")),
    Rule(r"embeddings/token_type", (None, "fsdp")),
    Rule(r"embedding_hidden_mapping_in/kernel", (None, "fsdp")),
    Rule(r"pooler/kernel", (None, "fsdp")),
    Rule(r"predictions/dense/kernel", ("fsdp", None)),
    Rule(r"(sop_classifier|classifier|qa_outputs)/kernel", ("fsdp", None)),
    Rule(r"(start_logits|(end_logits|answer_class)/dense_[01])/kernel", ("fsdp", None)),
    # Vectors that every device needs whole.
    Rule(r"layer_norm/(scale|bias)", (None,)),
    Rule(r"(output|dense|pooler|embedding_hidden_mapping_in)/bias", (None,)),
    Rule(r"(sop_classifier|classifier|qa_outputs)/bias", (None,)),
    Rule(r"(start_logits|end_logits/dense_[01]|answer_class/dense_0)/bias", (None,)),
)


def path_name(path: tuple[Any, ...]) -> str:
    """`a/b/c` for the path of a leaf of nested dicts."""
    return "/".join(str(key.key) for key in path)


def make_mesh(config: MeshConfig) -> Mesh:
    """The devices of all processes as a `data` x `fsdp` x `tensor` mesh; the axis that is -1 takes the rest."""
    count = jax.device_count()
    sizes = {axis: getattr(config, axis) for axis in AXES}
    known = 1
    for size in sizes.values():
        known *= max(size, 1)
    stated = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    if count % known or (-1 not in sizes.values() and known != count):
        raise UserError(
            f"mesh = {stated}: needs {known} devices{' or a multiple' if -1 in sizes.values() else ''}, "
            f"but this run has {count} ({jax.devices()[0].platform}); set mesh.data -1 to use all that there are"
        )
    shape = tuple(count // known if size == -1 else size for size in sizes.values())
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def own_mesh() -> Mesh:
    """One device of this process alone, for what one process does without the others."""
    return jax.make_mesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=jax.local_devices()[:1])


def check_batch(batch_size: int, accumulation: int, mesh: Mesh, name: str = "phases.batch_size") -> None:
    """Raises `UserError` unless every device gets the same number of sequences in each part of a batch."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (accumulation * shards):
        unit = accumulation * shards
        nearest = sorted({max(unit, batch_size // unit * unit), (batch_size // unit + 1) * unit})
        raise UserError(
            f"{name} = {batch_size}: does not divide into {accumulation} accumulation steps x {shards} "
            f"shares (mesh.data x mesh.fsdp); use {' or '.join(map(str, nearest))}, or another accumulation or mesh"
        )


def parameter_specs(params: Any, mesh: Mesh, model: AlbertConfig) -> Any:
    """The `PartitionSpec` of every leaf, by the first rule that matches; a `KeyError` names a leaf without a rule.

    A dimension that its mesh axis does not divide stays whole, and so do attention matrices over `tensor` where the
    heads cannot be dealt out evenly: the result is the same, only more memory and work per device.
    """

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        name = path_name(path)
        rule = next((rule for rule in PARAMETER_RULES if re.search(f"(^|/){rule.pattern}$", name)), None)
        if rule is None or len(rule.axes) != len(leaf.shape):
            raise KeyError(f"no rule in PARAMETER_RULES for {name} with {len(leaf.shape)} dimensions")
        units = (
            (model.num_attention_heads if axis == "tensor" and "attention/" in name else size)
            for axis, size in zip(rule.axes, leaf.shape, strict=True)
        )
        return P(*(a if a and n % mesh.shape[a] == 0 else None for a, n in zip(rule.axes, units, strict=True)))

    return jax.tree_util.tree_map_with_path(spec, params)


def gathered(specs: Any) -> Any:
    """The same specs with nothing split over `fsdp`: parameters as a step computes with them. They are shared by all
    layers and so small that one gathering for each step, ahead of the layers, is right."""
    return jax.tree.map(
        lambda spec: P(*(None if axis == "fsdp" else axis for axis in spec)),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, P),
    )


def named(mesh: Mesh, specs: Any) -> Any:
    """The same tree with a `NamedSharding` in place of each `PartitionSpec`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def place(arrays: dict[str, np.ndarray], mesh: Mesh, spec: P) -> dict[str, jax.Array]:
    """Arrays that every process has whole, each on the devices of its part."""
    sharding = NamedSharding(mesh, spec)
    return {
        name: jax.make_array_from_callback(array.shape, sharding, lambda index, array=array: array[index])
        for name, array in arrays.items()
    }


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x` split along mesh axes, under `jax.set_mesh`; `x` itself where no mesh is set (inference, tests)."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*axes))
