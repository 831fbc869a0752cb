"""Tables for people: what a run would cost."""

import math

import jax

from albert_jax.config import Phase, PretrainConfig
from albert_jax.flops import PEAK_FLOPS, activation_bytes_per_sequence, training_flops_per_sequence
from albert_jax.model import initialize
from albert_jax.sharding import check_batch, make_mesh, named, parameter_specs
from albert_jax.tasks.pretraining import prediction_places
from albert_jax.tracking import duration
from albert_jax.trees import tree_bytes_per_device, tree_size

ASSUMED_MFU = 0.4
"""Share of the data sheet's peak that the estimate of time assumes: what good encoder training reaches on an H100."""
ESTIMATED_DEVICES = ("H100", "A100", "TPU v5e", "TPU v5p", "TPU v6e")


def dry_run_report(config: PretrainConfig) -> str:
    """Parameters, FLOPs, memory per device, tokens and estimated time of a run, from its configuration alone."""
    mesh = make_mesh(config.mesh)
    abstract = jax.eval_shape(lambda: initialize(config.model, jax.random.key(0)))
    shardings = named(mesh, parameter_specs(abstract, mesh, config.model))
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
    )
    encoder = tree_size(params["albert"])
    lines = [
        f"parameters      {tree_size(params):,} ({encoder:,} without the pretraining heads)",
        f"devices         {mesh.size} x {jax.devices()[0].device_kind} here: mesh data {mesh.shape['data']} x fsdp "
        f"{mesh.shape['fsdp']} x tensor {mesh.shape['tensor']}",
        f"optimizer       {config.optimizer.name}, learning rate {config.optimizer.peak_learning_rate:.3g}, warm-up "
        f"{config.optimizer.warmup_steps:,} of {config.phases.total_steps:,} steps",
    ]
    total_flops, total_tokens = 0.0, 0
    state_bytes = 4 * tree_bytes_per_device(params)  # parameters, two moments, gradients
    for number, phase in enumerate(config.phases.phases, start=1):
        check_batch(phase.batch_size, phase.accumulation, mesh)
        places = prediction_places(config, phase)
        flops = training_flops_per_sequence(config.model, phase.sequence_length, places)
        activations = _activations_per_device(config, phase, places, mesh.shape["data"] * mesh.shape["fsdp"])
        tokens = phase.steps * phase.batch_size * phase.sequence_length
        total_flops += flops * phase.batch_size * phase.steps
        total_tokens += tokens
        lines += [
            f"phase {number}         {phase.steps:,} steps x {phase.batch_size:,} sequences x {phase.sequence_length} "
            f"tokens, {places} predictions each: {tokens / 1e9:,.3g} G tokens (padding included)",
            f"  FLOPs         {flops / phase.sequence_length / 1e9:.4g} G per token, {flops * phase.batch_size:.4g} per step",
            f"  memory        {state_bytes / 1e9:.3g} GB parameters, moments and gradients + about "
            f"{activations / 1e9:.3g} GB activations per device (remat {config.compute.remat}, accumulation "
            f"{phase.accumulation}, {phase.batch_size // phase.accumulation} sequences at once over all devices)",
        ]
    lines += [f"total           {total_tokens / 1e9:,.4g} G tokens, {total_flops:.4g} FLOPs"]
    lines += [f"time            estimated at {ASSUMED_MFU:.0%} of the data sheet's bf16 peak, on {mesh.size} devices:"]
    for device in ESTIMATED_DEVICES:
        seconds = total_flops / (PEAK_FLOPS[device] * ASSUMED_MFU * mesh.size)
        lines.append(f"  {device:<14}{duration(seconds)}, or {duration(seconds * mesh.size)} on one")
    return "\n".join(lines)


def _activations_per_device(config: PretrainConfig, phase: Phase, places: int, shards: int) -> float:
    itemsize = 2 if config.compute.dtype == "bfloat16" else 4
    sequences = math.ceil(phase.batch_size / phase.accumulation / shards)
    return sequences * activation_bytes_per_sequence(
        config.model, phase.sequence_length, places, itemsize, config.compute.remat
    )
