"""Attention by kernels that never write the scores to memory: `cudnn` on NVIDIA GPUs, `splash` on TPUs; and the choice
between them and the plain computation. All agree on tokens; what they give for the padding of packed rows differs, and
nothing reads it.

The "matmuls" rematerialisation policy keeps a kernel's result and the logarithms of the softmax's denominators, so that
the backward pass does not run the kernel forwards again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from albert_jax.config import AlbertConfig, ComputeConfig, attention_obstacle
from albert_jax.errors import UserError

SPLASH_BLOCK = 512
"""Most queries, and most keys, that the TPU kernel has in its fast memory at a time: float32 scores of 1 MiB."""

DEVICES = {"cudnn": ("gpu", "NVIDIA GPUs"), "splash": ("tpu", "TPUs")}
"""JAX's name for the devices of each kernel, and ours."""


def choose_attention(attention: str, config: AlbertConfig, dtype: str, length: int, batch: int) -> str:
    """The implementation that runs on the devices of `jax.set_mesh`, or on JAX's default ones where no mesh is set, for
    `batch` sequences of `length`: "plain", "cudnn" or "splash".

    "auto" is the devices' kernel where that can do the work, and "plain" elsewhere. A kernel that is asked for and
    cannot is a `UserError`.
    """
    here = platform()
    if attention == "auto":
        able = (name for name, (device, _) in DEVICES.items() if device == here)
        return next((name for name in able if obstacle(name, config, dtype, length, batch) is None), "plain")
    if attention == "plain":
        return attention
    device, plural = DEVICES[attention]
    found = (
        obstacle(attention, config, dtype, length, batch)
        if device == here
        else f"runs on {plural} only, and the devices here are of the kind {here}; set compute.attention auto"
    )
    if found is not None:
        raise UserError(f"compute.attention = {attention!r}: {found}")
    return attention


def check_attention(compute: ComputeConfig, config: AlbertConfig, length: int, batch: int, mesh: Mesh) -> None:
    """Raises `UserError` for a `compute.attention` that cannot run on `mesh`, before anything is computed there."""
    with jax.set_mesh(mesh):
        choose_attention(compute.attention, config, compute.dtype, length, batch)


def platform() -> str:
    """What kind of devices the computation is for: "cpu", "gpu" or "tpu"."""
    # The devices of a mesh need not be here: programs are compiled ahead for others.
    device = jax.sharding.get_abstract_mesh().abstract_device
    here = jax.default_backend() if device is None else device.platform
    return "gpu" if here == "cuda" else here


def obstacle(name: str, config: AlbertConfig, dtype: str, length: int, batch: int) -> str | None:
    """Why a kernel cannot do the work on its kind of devices, and the fix; None if it can."""
    found = attention_obstacle(name, config, dtype, length)
    if found is not None:
        return found
    if name == "cudnn":
        capability = compute_capability()
        if capability < 8.0 or (capability < 9.0 and config.head_size > 128):
            return (
                f"needs a GPU of compute capability {'8.0 (A100)' if capability < 8.0 else '9.0 (H100)'} for heads "
                f"of size {config.head_size}, and this one has {capability}; set compute.attention plain"
            )
        return None
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    if config.num_attention_heads % mesh.shape["tensor"]:
        return (
            f"deals out heads over mesh.tensor = {mesh.shape['tensor']}, which does not divide "
            f"model.num_attention_heads = {config.num_attention_heads}; set compute.attention plain"
        )
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % shares:
        return (
            f"deals out {batch} sequences over {shares} shares, which do not divide them; set compute.attention plain"
        )
    return None


def compute_capability() -> float:
    """Of the GPUs here; without any, that of an H100."""
    return float(getattr(jax.devices()[0], "compute_capability", 9.0))


def same_sequence(of_queries: Int[Array, "B R"], of_keys: Int[Array, "B L"]) -> Bool[Array, "B R L"]:
    """Which keys each query of a packed row sees, from the sequences that both belong to (0 is none)."""
    return (of_queries[:, :, None] == of_keys[:, None, :]) & (of_keys[:, None, :] > 0)


def scaled(query: Float[Array, "B L A D"]) -> Float[Array, "B L A D"]:
    """Divided by the root of the head size."""
    return query / jnp.sqrt(query.shape[-1]).astype(query.dtype)


def splash_attention(
    query: Float[Array, "B L A D"],
    key: Float[Array, "B L A D"],
    value: Float[Array, "B L A D"],
    mask: Bool[Array, "B L"] | Int[Array, "B L"],
    *,
    interpret: bool = False,
) -> Float[Array, "B L {query.shape[2]*query.shape[3]}"]:
    """The TPU kernel of `jax.experimental.pallas.ops.tpu.splash_attention`; `interpret` runs it anywhere, slowly.

    A compiler cannot split a kernel, so under a mesh `shard_map` does: sequences over `data` and `fsdp`, heads over
    `tensor`.
    """
    numbers = mask.astype(jnp.int32)
    # Queries of one sequence all see the tokens, whatever the queries are; those of packed rows see their own sequence.
    of_queries = jnp.ones_like(numbers) if mask.dtype == jnp.bool_ else numbers

    def attend(query: Array, key: Array, value: Array, of_queries: Array, of_keys: Array) -> Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

        kernel = splash_kernel(query.shape[2], query.shape[1], interpret)
        query, key, value = (x.swapaxes(1, 2) for x in (scaled(query), key, value))
        context = jax.vmap(kernel)(query, key, value, SegmentIds(of_queries, of_keys)).swapaxes(1, 2)
        return context.reshape(*context.shape[:2], -1)

    if not jax.sharding.get_abstract_mesh().empty:
        heads, rows = P(("data", "fsdp"), None, "tensor"), P(("data", "fsdp"))
        # Without check_vma: the kernel does not say over which axes its results vary.
        attend = jax.shard_map(attend, in_specs=(heads, heads, heads, rows, rows), out_specs=heads, check_vma=False)
    return attend(query, key, value, of_queries, numbers)


def splash_kernel(heads: int, length: int, interpret: bool) -> Callable[..., Array]:
    """The kernel for one sequence of [A, L, D]: nothing is hidden but by the segment numbers."""
    # A quarter of a second to import, which only TPUs have use for.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    block = max(size for size in range(128, SPLASH_BLOCK + 1, 128) if length % size == 0)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        # All three gradients in one pass over the scores.
        use_fused_bwd_kernel=True,
    )
    everything = splash_attention_mask.FullMask((length, length))
    return splash_attention_kernel.make_splash_mha_single_device(
        mask=splash_attention_mask.MultiHeadMask([everything] * heads),
        block_sizes=sizes,
        residual_checkpoint_name="context",
        interpret=interpret,
    )


def cudnn_attention(
    query: Float[Array, "B L A D"],
    key: Float[Array, "B L A D"],
    value: Float[Array, "B L A D"],
    mask: Bool[Array, "B L"] | Int[Array, "B L"],
) -> Float[Array, "B L {query.shape[2]*query.shape[3]}"]:
    """cuDNN's kernel. A mask of bool must have its padding at the end, as all batches for training have.

    Packed rows go through a bias [B, 1, L, L], which the kernel reads from memory. cuDNN knows packed rows itself from
    offsets, but JAX's public function does not hand them on.
    """
    if mask.dtype == jnp.bool_:
        # A row of padding alone attends to its first place: no token at all would make cuDNN divide by zero.
        hiding: dict[str, Array] = {"key_value_seq_lengths": jnp.maximum(mask.sum(axis=1, dtype=jnp.int32), 1)}
    else:
        hiding = {"mask": same_sequence(mask, mask)[:, None]}
    context = jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **hiding)
    return context.reshape(*context.shape[:2], -1)


def is_kernel_result(primitive: Any, *_: Any, **__: Any) -> bool:
    """A rematerialisation policy: keeps what cuDNN's forward pass gives, whose parts have no names to be kept by."""
    return primitive.name.startswith("dot_product_attention_fwd")
