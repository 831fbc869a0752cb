"""Tables for people: what a run would cost."""

import math
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from albert_jax.config import Phase, PretrainConfig
from albert_jax.errors import UserError
from albert_jax.flops import PEAK_FLOPS, activation_bytes_per_sequence, training_flops_per_sequence
from albert_jax.inputs.corpus import open_corpus
from albert_jax.inputs.mixing import shares_of
from albert_jax.model import initialize
from albert_jax.sharding import AXES, check_batch, make_mesh, named, parameter_specs
from albert_jax.tasks.pretraining import prediction_places, sequence_places
from albert_jax.tracking import duration
from albert_jax.trees import tree_bytes_per_device, tree_size

ASSUMED_MFU = 0.4
"""Share of the data sheet's peak that the estimate of time assumes: what good encoder training reaches."""

USABLE_MEMORY = 0.85
"""Share of a device's memory that the estimate fills: the rest is for fragments and for its own error."""


class Devices(NamedTuple):
    """A machine to estimate for: `count` devices of a kind that `PEAK_FLOPS` names, `memory` bytes each."""

    count: int
    kind: str
    memory: float


ESTIMATED_DEVICES = (
    Devices(1, "H100", 80e9),
    Devices(8, "H100", 80e9),
    Devices(64, "H100", 80e9),
    Devices(8, "A100", 80e9),
    Devices(8, "TPU v5e", 16e9),
    Devices(256, "TPU v5e", 16e9),
    Devices(64, "TPU v5p", 95e9),
    Devices(256, "TPU v6e", 32e9),
)


def dry_run_report(config: PretrainConfig) -> str:
    """Parameters, FLOPs, tokens, memory per device and estimated time of a run, from its configuration alone.

    Nothing that it names needs to exist: neither the corpus nor the devices.
    """
    work, total_tokens, total_flops = _work(config)
    machines = [_estimate(config, devices, total_flops) for devices in ESTIMATED_DEVICES]
    return "\n".join(
        [
            *_settings(config, total_tokens),
            "",
            *table(work),
            "",
            f"estimated at {ASSUMED_MFU:.0%} of the data sheet's bf16 peak, remat {config.compute.remat}, "
            "with the least accumulation that fits:",
            *table([("devices", "phases.accumulation", "memory per device", "time"), *machines]),
        ]
    )


def _work(config: PretrainConfig) -> tuple[list[tuple[str, ...]], int, float]:
    """A row for each phase, and the tokens (padding included) and model FLOPs of all of them."""
    header = "phase steps rows length predictions tokens FLOPs/token FLOPs/step FLOPs"
    rows, total_tokens, total_flops = [tuple(header.split())], 0, 0.0
    for number, phase in enumerate(config.phases.phases, start=1):
        length, predictions = phase.sequence_length, prediction_places(config, phase)
        sequences = sequence_places(config, phase) or 1
        per_step = training_flops_per_sequence(config.model, length, predictions, sequences) * phase.batch_size
        tokens, flops = phase.steps * phase.batch_size * length, phase.steps * per_step
        total_tokens, total_flops = total_tokens + tokens, total_flops + flops
        shape = (f"{phase.steps:,}", f"{phase.batch_size:,}", f"{length}", f"{predictions}")
        cost = (si(tokens), si(per_step / phase.batch_size / length), f"{per_step:.3g}", f"{flops:.3g}")
        rows.append((f"{number}", *shape, *cost))
    if len(rows) > 2:
        steps = f"{config.phases.total_steps:,}"
        rows.append(("total", steps, "", "", "", si(total_tokens), "", "", f"{total_flops:.3g}"))
    return rows, total_tokens, total_flops


def _settings(config: PretrainConfig, tokens: int) -> list[str]:
    """What is trained, how, on what, and whether this machine can."""
    params = jax.eval_shape(lambda: initialize(config.model, jax.random.key(0)))
    size, without_heads = tree_size(params), tree_size(params["albert"])
    optimizer, total = config.optimizer, config.phases.total_steps
    warmup = optimizer.warmup_steps
    lines = [
        f"model         {size:,} parameters, {without_heads:,} without the pretraining heads",
        f"optimizer     {optimizer.name}; learning rate 0 to {optimizer.peak_learning_rate:.3g} in "
        f"{warmup:,} steps ({warmup / total:.3g} of all), then to 0 at step {total:,}",
        f"corpus        {_corpus(config, tokens)}",
    ]
    here = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    try:
        mesh = make_mesh(config.mesh)
        for phase in config.phases.phases:
            check_batch(phase.batch_size, phase.accumulation, mesh)
    except UserError as error:
        return [*lines, f"this machine  {here}: cannot run this: {error}"]
    sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in AXES)
    parts = " ".join(str(phase.accumulation) for phase in config.phases.phases)
    state = state_bytes(config, mesh)
    activations = max(activation_bytes(config, phase, phase.accumulation, mesh) for phase in config.phases.phases)
    return [
        *lines,
        f"this machine  {here}: mesh {sizes}, accumulation {parts}",
        f"              about {state / 1e9:,.2f} GB of state and {activations / 1e9:,.2f} GB of activations "
        f"per device (remat {config.compute.remat})",
    ]


def _corpus(config: PretrainConfig, tokens: int) -> str:
    weights = config.data.corpus_weights
    for directory in config.data.corpus:
        if not Path(directory).exists():
            return f"{directory} does not exist yet"
    sizes = [
        open_corpus(directory, "train", tokenizer_fingerprint=None, verify=False).num_tokens
        for directory in config.data.corpus
    ]
    return "; ".join(
        f"{directory}: {si(size)} tokens, which the run reads about {float(share) * tokens / size:.3g} times"
        for directory, size, share in zip(config.data.corpus, sizes, shares_of(weights or sizes), strict=True)
    )


def _estimate(config: PretrainConfig, devices: Devices, total_flops: float) -> tuple[str, str, str, str]:
    """A row of the table: `devices` as a mesh with the configuration's `fsdp` and `tensor` axes."""
    name = f"{devices.count} x {devices.kind}"
    tensor, fsdp = max(1, config.mesh.tensor), max(1, config.mesh.fsdp)
    if devices.count % (fsdp * tensor):
        return name, "", f"not a multiple of mesh.fsdp x mesh.tensor = {fsdp * tensor}", ""
    mesh = AbstractMesh((devices.count // (fsdp * tensor), fsdp, tensor), AXES)
    state, usable = state_bytes(config, mesh), USABLE_MEMORY * devices.memory
    parts, memory = [], 0.0
    for phase in config.phases.phases:
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        if phase.batch_size % shards:
            return name, "", f"a batch of {phase.batch_size:,} does not divide", ""
        rows = phase.batch_size // shards
        fitting = (
            n
            for n in range(1, rows + 1)
            if rows % n == 0 and state + activation_bytes(config, phase, n, mesh) <= usable
        )
        accumulation = next(fitting, None)
        if accumulation is None:
            return name, "", f"one row is too much for {devices.memory / 1e9:.0f} GB", ""
        parts.append(str(accumulation))
        memory = max(memory, state + activation_bytes(config, phase, accumulation, mesh))
    seconds = total_flops / (PEAK_FLOPS[devices.kind] * ASSUMED_MFU * devices.count)
    return name, " ".join(parts), f"{memory / 1e9:.1f} of {devices.memory / 1e9:.0f} GB", duration(seconds)


def state_bytes(config: PretrainConfig, mesh: Mesh | AbstractMesh) -> int:
    """Bytes on one device that do not depend on the batch: float32 parameters, two moments, and gradients
    twice, of the whole batch and of the part being computed."""
    abstract = jax.eval_shape(lambda: initialize(config.model, jax.random.key(0)))
    shardings = named(mesh, parameter_specs(abstract, mesh, config.model))
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return 5 * tree_bytes_per_device(params)


def activation_bytes(config: PretrainConfig, phase: Phase, accumulation: int, mesh: Mesh | AbstractMesh) -> float:
    """Bytes on one device that do: see `activation_bytes_per_sequence`. `tensor` neighbours are taken to hold
    the same."""
    rows = math.ceil(phase.batch_size / accumulation / (mesh.shape["data"] * mesh.shape["fsdp"]))
    itemsize = 2 if config.compute.dtype == "bfloat16" else 4
    return rows * activation_bytes_per_sequence(
        config.model,
        phase.sequence_length,
        prediction_places(config, phase),
        itemsize,
        config.compute.remat,
        packed=config.data.pack_sequences,
    )


def si(number: float) -> str:
    """Three digits and a unit: `262 G`, `12.6 M`, `950`."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor * 0.9995:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.3g}"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)).rstrip()
        for row in rows
    ]
