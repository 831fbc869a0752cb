"""Models for serving: a StableHLO program that runs without this package, beside its weights.

The folder holds `model.stablehlo`, a function `(weights, input_ids, token_type_ids, attention_mask) -> outputs` for any
batch and length on CPUs, GPUs and TPUs; `weights.safetensors`; `signature.json`; and the tokenizer's files."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from albert_jax.errors import UserError
from albert_jax.model import apply

PROGRAM, WEIGHTS, SIGNATURE = "model.stablehlo", "weights.safetensors", "signature.json"
FILES = (PROGRAM, WEIGHTS, SIGNATURE)
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_program(model: Any, folder: Path, platforms: Sequence[str] = PLATFORMS, dtype: str = "float32") -> None:
    """Writes the program of a model of `albert_jax.pretrained` into an existing folder; `dtype` is that of its matrix
    products. The batch is free, and the length up to the model's positions. Raises `UserError` for a platform that JAX
    does not have."""
    if not set(platforms) <= set(KNOWN_PLATFORMS):
        raise UserError(f"platforms = {', '.join(platforms)}: there are {', '.join(KNOWN_PLATFORMS)}")
    flat = traverse_util.flatten_dict(model.params, sep="/")
    longest = model.config.max_position_embeddings

    def run(weights: Any, input_ids: jax.Array, token_type_ids: jax.Array, attention_mask: jax.Array) -> Any:
        params = traverse_util.unflatten_dict(weights, sep="/")
        output = apply(
            model.config,
            params,
            input_ids,
            token_type_ids,
            attention_mask > 0,
            network=model.network,
            dtype=dtype,
        )
        named = model.outputs(output)
        return {name: value.astype(jnp.float32) for name, value in named.items() if value is not None}

    shape = export.symbolic_shape(", ".join(model.input_axes), constraints=[f"length <= {longest}"])
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in flat.items()}
    program = export.export(jax.jit(run), platforms=platforms)(weights, ids, ids, ids)

    from safetensors.numpy import save

    (folder / PROGRAM).write_bytes(program.serialize())
    (folder / WEIGHTS).write_bytes(save({name: np.asarray(value) for name, value in flat.items()}))
    signature = {
        "inputs": {name: f"int32 [{', '.join(map(str, shape))}]" for name in INPUTS},
        "outputs": {name: f"float32 [{', '.join(map(str, s.shape))}]" for name, s in _outputs(program).items()},
        "longest": longest,
        "platforms": list(program.platforms),
        "labels": list(model.labels),
        "jax": version("jax"),
    }
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _outputs(program: export.Exported) -> dict[str, Any]:
    return jax.tree.unflatten(program.out_tree, program.out_avals)
