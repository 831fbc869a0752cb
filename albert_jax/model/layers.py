"""The smallest parts: linear maps, layer normalisation, dropout and activations. Parameters are float32; a layer
computes in the type of its input, LayerNorm statistics always in float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, " B"]
"""One random key per sequence of the batch."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    # Google's "gelu" is the tanh approximation, for v1 and v2 alike (modeling.py); Hugging Face calls it "gelu_new".
    "gelu": lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype),
    "gelu_new": lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype),
    "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


def truncated_normal(key: Array, shape: tuple[int, ...], stddev: float) -> Array:
    """Normal of standard deviation `stddev` redrawn beyond 2 `stddev`, like TensorFlow's: what is left has 0.88 of it.

    (`jax.nn.initializers.truncated_normal` takes the deviation after truncation instead.)
    """
    return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


@jax.custom_vjp
def linear(
    x: Float[Array, "*rows in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "*rows out"]:
    """`x @ kernel + bias`, with all three gradients written as plain products.

    JAX's own transposes the kernel's gradient once it is made and sums the bias's in a tree; on a CPU both lead XLA
    past its fast products, by a factor of three for a whole training step in bfloat16.
    """
    return x @ kernel + bias


def _linear_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel + bias, (x, kernel)


def _linear_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    # The kernel's gradient reads `x` transposed. Merged into what makes `x` again, the transposition is ten times as
    # slow on a CPU as alone.
    x = jax.lax.optimization_barrier(x)
    rows = tuple(range(x.ndim - 1))
    of_x = jax.lax.dot_general(gradient, kernel, (((x.ndim - 1,), (1,)), ((), ())))
    of_kernel = jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))
    ones = jnp.ones(x.shape[:-1], gradient.dtype)
    of_bias = jax.lax.dot_general(ones, gradient, ((rows, rows), ((), ())))
    return of_x, of_kernel, of_bias


linear.defvjp(_linear_forward, _linear_backward)


class Linear(nnx.Module):
    """`x @ kernel + bias`; the kernel is stored [in, out] like Google's."""

    def __init__(self, features_in: int, features_out: int, *, stddev: float, key: Array):
        self.kernel = nnx.Param(truncated_normal(key, (features_in, features_out), stddev))
        self.bias = nnx.Param(jnp.zeros(features_out, jnp.float32))

    def __call__(self, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
        return linear(x, self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype))


class LayerNorm(nnx.Module):
    """Normalises the last axis with its biased variance, in float32 whatever the input."""

    def __init__(self, features: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*rows features"]) -> Float[Array, "*rows features"]:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normalised = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normalised * self.scale[...] + self.bias[...]).astype(x.dtype)


def at_positions(x: Float[Array, "B L H"], positions: Int[Array, "B P"]) -> Float[Array, "B P H"]:
    """The rows of `x` at `positions`, exactly, by a product with their one-hot form, whose gradient is a product too.
    That of a look-up adds up row by row, and unused places all point at the same row, which GPUs are slow at."""
    chosen = jax.nn.one_hot(positions, x.shape[1], dtype=x.dtype)
    return jnp.einsum("BPL,BLH->BPH", chosen, x, precision=jax.lax.Precision.HIGHEST)


def dropout(x: Float[Array, " B *rest"], rate: float, keys: Keys | None) -> Float[Array, " B *rest"]:
    """Zeroes a share `rate` of `x` and scales the rest up; the identity without keys.

    Each sequence has its own key, so its mask is the same in whatever batch, device or microbatch it is computed.
    """
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)


def fold_in(keys: Keys | None, data: int | Array) -> Keys | None:
    """Another key for each sequence, for another use."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, data)
