"""Arithmetic of a training step, counted by hand, and what devices can do: the basis of MFU and of `--dry_run`."""

import time

import jax
import jax.numpy as jnp

from albert_jax.config import AlbertConfig

# Dense bf16 matrix products per second, from the vendors' data sheets. Matched against jax.Device.device_kind.
PEAK_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "V100": 125e12,
    "L40": 181e12,
    "TPU v3": 61.5e12,  # per core, which is what JAX calls a device on v2 and v3
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def training_flops_per_sequence(config: AlbertConfig, sequence_length: int, predictions: int) -> float:
    """Floating-point operations of forward and backward pass for one sequence, matrix products only (a multiply-add is
    two), backward twice the forward, nothing recomputed: the "model FLOPs" of MFU."""
    hidden, wide, embedding = config.hidden_size, config.intermediate_size, config.embedding_size
    depth = config.num_hidden_layers * config.inner_group_num
    layer = 8 * hidden**2 + 4 * hidden * wide + 4 * sequence_length * hidden
    projection = 2 * embedding * hidden if embedding != hidden else 0
    head = 2 * hidden * embedding + 2 * embedding * config.vocab_size
    pair = 2 * hidden**2 + 4 * hidden
    return 3.0 * (sequence_length * (depth * layer + projection) + predictions * head + pair)


def activation_bytes_per_sequence(
    config: AlbertConfig, sequence_length: int, predictions: int, itemsize: int, remat: str
) -> float:
    """Estimate of what the backward pass keeps for one sequence, plus the working set of one layer and of the head.

    `remat` as in `ComputeConfig`. "matmuls" keeps q, k, v, context, two outputs, the layer input (H each) and the
    intermediate; "none" about as much again in float32, and the attention probabilities.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    depth = config.num_hidden_layers * config.inner_group_num
    products = (7 * hidden + config.intermediate_size) * itemsize
    elementwise = (6 * hidden + 2 * config.intermediate_size) * 4
    scores = heads * sequence_length * (8 + itemsize)
    kept = {"full": hidden * itemsize, "matmuls": products, "none": products + elementwise + scores}[remat]
    one_layer = products + elementwise + scores
    return sequence_length * (depth * kept + one_layer) + predictions * config.vocab_size * 8


def device_peak_flops(dtype: str) -> tuple[float, str]:
    """Peak operations per second of one device, and where the figure is from: the table above, or, for a device that
    is not in it (such as a CPU), a matrix product timed now in the type that is asked for."""
    kind = jax.devices()[0].device_kind
    for name, peak in PEAK_FLOPS.items():
        if name.lower() in kind.lower():
            return peak, f"{name} data sheet, bf16"
    size = 1024
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    # Host-platform devices share the cores that one product has just used alone.
    share = jax.local_device_count() if jax.devices()[0].platform == "cpu" else 1
    return 2 * size**3 / best / share, f"{size} x {size} {dtype} matrix product, measured now"
