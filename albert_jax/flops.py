"""Arithmetic of a training step, counted by hand, and what devices can do: the basis of MFU and of `--dry_run`."""

import time

import jax
import jax.numpy as jnp

from albert_jax.config import AlbertConfig

# Dense bf16 matrix products per second (fp16 on a V100), from the vendors' data sheets. The first name that is part of
# jax.Device.device_kind counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "V100": 125e12,
    "L40S": 362e12,
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


def training_flops_per_sequence(
    config: AlbertConfig, sequence_length: int, predictions: int, sequences: int = 1
) -> float:
    """Floating-point operations of forward and backward pass for one sequence, matrix products only (a multiply-add is
    two), backward twice the forward, nothing recomputed: the "model FLOPs" of MFU. The last block counts only where it
    is read, at the `predictions` and the first token, but for its keys and values.

    Or for one packed row with places for several `sequences`: attention then counts as over the whole row.
    """
    hidden, wide, embedding = config.hidden_size, config.intermediate_size, config.embedding_size
    depth = config.num_hidden_layers * config.inner_group_num
    keys_and_values = 4 * hidden**2
    rest = 4 * hidden**2 + 4 * hidden * wide + 4 * sequence_length * hidden
    read = predictions + sequences
    blocks = sequence_length * (depth * keys_and_values + (depth - 1) * rest) + read * rest
    projection = 2 * embedding * hidden if embedding != hidden else 0
    head = 2 * hidden * embedding + 2 * embedding * config.vocab_size
    pair = 2 * hidden**2 + 4 * hidden
    return 3.0 * (blocks + sequence_length * projection + predictions * head + sequences * pair)


def activation_bytes_per_sequence(
    config: AlbertConfig, sequence_length: int, predictions: int, itemsize: int, remat: str, packed: bool = False
) -> float:
    """Estimate of what the backward pass keeps for one sequence, or one `packed` row, of `sequence_length` tokens, plus
    its working set: one layer, the logits of `predictions` tokens, and of a packed row what keeps its sequences apart.

    `itemsize` is that of `ComputeConfig.dtype` in bytes, `remat` its policy. What a layer keeps is exact: it is
    what JAX saves. The working set is what XLA makes of it, taken in float32. For the training step compiled for
    a CPU in float32 the sum is at most 25 % above XLA's own figure and 10 % below it (tests/test_flops.py). In
    bfloat16, which a CPU emulates with copies, jax 0.12 agrees as well, and jax 0.10 takes up to 1.5 times as
    much. No accelerator was measured; where attention is fused, or computed row by row (on a CPU), it needs less.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    scores = config.num_attention_heads * sequence_length
    depth = config.num_hidden_layers * config.inner_group_num

    def everything(size: int) -> float:
        # Query, key, value, context and two residual inputs in the compute type; two LayerNorms in float32,
        # three arrays each; the activation function's intermediates; softmax in float32 and its result.
        # Dropout adds its outputs and a byte for each element of its masks.
        kept = (6 * size + 6 * 4) * hidden + 5 * size * wide + (4 + size) * scores
        if config.hidden_dropout_prob > 0:
            kept += 2 * (size + 1) * hidden
        if config.attention_probs_dropout_prob > 0:
            kept += (size + 1) * scores
        return kept

    kept = {
        # The layer's input.
        "full": hidden * itemsize,
        # That, and query, key, value, context, two outputs and the intermediate.
        "matmuls": (7 * hidden + wide) * itemsize,
        "none": everything(itemsize),
    }[remat]
    working = everything(4) + 4 * wide  # and a wide array's gradient, from which two products are made
    if config.attention_probs_dropout_prob > 0 and remat != "none":
        working += 2 * 4 * scores  # random bits, drawn again
    # The last block keeps its input and its keys and values for all tokens, the rest for those that are read.
    last = 3 * hidden * itemsize * sequence_length + kept * (predictions + 1)
    logits = predictions * config.vocab_size * 2 * 4  # and their gradient
    bias = 4 * sequence_length**2 if packed else 0
    return sequence_length * ((depth - 1) * kept + working) + last + logits + bias


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


def slow_bfloat16(dtype: str) -> str | None:
    """A line for the user where the type that was chosen gains nothing: XLA has fast bfloat16 products for CPUs from
    jax 0.11 on (LOG.md has figures)."""
    version = jax.__version_info__[:2]
    if dtype != "bfloat16" or version >= (0, 11) or jax.default_backend() != "cpu":
        return None
    return (
        f"bfloat16   is no faster than float32 on a CPU with jax {jax.__version__}; with Python 3.12 comes a newer one "
        "that computes twice as fast in it"
    )
