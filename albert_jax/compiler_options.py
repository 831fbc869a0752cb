"""XLA's options for training steps, all in one place, each with its reason.

They go with the one program (`jax.jit(compiler_options=...)`), not with the process as `XLA_FLAGS` and
`LIBTPU_INIT_ARGS` do, so they hold wherever the step is compiled, and evaluation and everything else keep XLA's
defaults. What was tried besides, with and without a gain, is in docs/performance.md.
"""

from jax.sharding import Mesh

OPTIONS: dict[str, dict[str, bool]] = {
    # xla_cpu_prefer_vector_width and xla_cpu_enable_fast_math were tried: neither made a step faster.
    "cpu": {},
    "gpu": {
        # All-reduces of gradients run while the backward pass is computed; the default order waits for each. Off by
        # default, recommended by JAX (docs.jax.dev/en/latest/gpu_performance_tips.html) and on in NVIDIA's containers
        # (docs.nvidia.com/jax-toolbox/environment-variables). No GPU has run it here.
        "xla_gpu_enable_latency_hiding_scheduler": True,
    },
    "tpu": {
        # A device's share of a layer's gradients is summed over the devices in float32, as it is over layers and parts.
        # By default that of the last layer is rounded to bfloat16 first and summed apart from the others': two
        # all-reduces of the same parameters in place of one.
        "xla_tpu_spmd_f32_accum_for_bf16_ar": True,
    },
}


def step_options(mesh: Mesh) -> dict[str, bool]:
    """Options of a training step for the kind of devices in the mesh. None for one device: all of them concern what
    devices exchange. None for a platform that is not in the table."""
    return OPTIONS.get(mesh.devices.flat[0].platform, {}) if mesh.size > 1 else {}
