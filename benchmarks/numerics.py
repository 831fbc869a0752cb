"""Whether a device computes what a CPU does: `python benchmarks/numerics.py --device gpu`.

The loss of a small batch and the gradients of all parameters, computed on a CPU in float32, beside those of the device:
in float32 with full products, which have to agree, with the products that it takes for float32 by default (TF32 on an
NVIDIA GPU), and in bfloat16 with each attention that runs there and each rematerialisation. Printed are the difference
of the loss, the length of the gradients' difference over that of the gradients, and the parameter for which that is the
largest. Ends with code 1 if float32 does not agree.
"""

import dataclasses
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sides import chosen_device, write_results

from albert_jax.errors import UserError, exit_cleanly

TOLERANCE = 1e-4
"""Of the loss, and of the gradients relative to their length, in float32."""


@dataclass(frozen=True)
class Arguments:
    """Compares a device's loss and gradients with a CPU's."""

    size: Literal["tiny", "base", "large", "xlarge", "xxlarge"] = "base"
    shape: str = "2x128"
    device: Literal["cpu", "gpu"] | None = None
    """The GPU where there is one, by default."""
    output: Path = Path("build/numerics.json")


def main() -> int:
    import tyro

    return run(tyro.cli(Arguments, description=__doc__, use_underscores=True))


def run(arguments: Arguments) -> int:
    """0 if float32 agrees, else 1."""
    device = chosen_device(arguments.device)
    rows, _, length = arguments.shape.partition("x")
    if not (rows.isdigit() and length.isdigit() and int(rows) and int(length)):
        raise UserError(f"shape = {arguments.shape}: expected BATCHxLENGTH, such as 2x128")
    os.environ["JAX_PLATFORMS"] = "cuda,cpu" if device == "gpu" else "cpu"  # before JAX looks at it
    import jax
    from training import about, network, synthetic_batch

    from albert_jax.config import ComputeConfig
    from albert_jax.model import initialize

    config = network(arguments.size)
    # Larger than at the start of training, so that every part has a say in the loss.
    wide = dataclasses.replace(config, initializer_range=min(0.05, 2 / config.hidden_size**0.5))
    reference_device, tested = jax.devices("cpu")[0], jax.devices()[0]
    with jax.default_device(reference_device):
        params = jax.device_get(initialize(wide, jax.random.key(0)))
    batch = synthetic_batch(int(rows), int(length))
    reference = loss_and_gradients(config, ComputeConfig("float32", "none"), params, batch, reference_device, "highest")

    cases = [("float32, full products", ComputeConfig("float32", "none"), "highest")]
    cases.append(("float32, as by default", ComputeConfig("float32", "none"), None))
    skipped = {}
    for kind in ("plain", "cudnn", "splash"):
        for remat in ("none", "matmuls", "full"):
            compute = ComputeConfig("bfloat16", remat, kind)
            cases.append((f"bfloat16, remat {remat}, attention {kind}", compute, None))
    print(f"\nALBERT {arguments.size}, {arguments.shape}; {about()}, beside a CPU in float32: loss {reference[0]:.6f}")
    print(f"{'':44}{'loss':>12}{'gradients':>12}   farthest")
    lines = []
    for name, compute, precision in cases:
        try:
            found = loss_and_gradients(config, compute, params, batch, tested, precision)
        except UserError as error:
            skipped[f"attention {compute.attention}"] = str(error)
            continue
        lines.append(compared(name, reference, found))
        line = lines[-1]
        print(
            f"{name:44}{line['loss_difference']:12.1e}{line['gradient_difference']:12.1e}   "
            f"{line['farthest']} {line['farthest_difference']:.1e}"
        )
    for name, reason in skipped.items():
        print(f"without {name}: {reason}")
    agrees = max(lines[0]["loss_difference"], lines[0]["gradient_difference"]) <= TOLERANCE
    if not agrees:
        print(f"float32 does not agree: differences above {TOLERANCE}")
    write_results(arguments.output, dict(about=about(), cases=lines, skipped=skipped, agrees=agrees))
    print(f"written to {arguments.output}")
    return 0 if agrees else 1


def loss_and_gradients(
    config: Any, compute: Any, params: Any, batch: dict[str, np.ndarray], device: Any, precision: str | None
) -> tuple[float, Any]:
    """On one device, as the training step computes them for a part of a batch."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec
    from training import one_device_mesh

    from albert_jax.tasks.pretraining import pretraining_objective

    objective = pretraining_objective(config, compute)
    mesh = one_device_mesh(device)

    def loss(params: Any, batch: Any) -> jax.Array:
        weights = objective.weights(jax.tree.map(lambda array: array[None], batch))
        return objective.loss(objective.sums(params, batch, None), weights)

    with jax.set_mesh(mesh), jax.default_matmul_precision(precision) if precision else nullcontext():
        placed = jax.device_put((params, batch), NamedSharding(mesh, PartitionSpec()))
        value, gradients = jax.jit(jax.value_and_grad(loss))(*placed)
        return float(value), jax.device_get(gradients)


def compared(name: str, reference: tuple[float, Any], found: tuple[float, Any]) -> dict[str, Any]:
    import jax

    wanted, had = ({jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64) for path, leaf
                    in jax.tree_util.tree_leaves_with_path(tree)} for _, tree in (reference, found))  # fmt: skip
    lengths = {path: float(np.linalg.norm(leaf)) for path, leaf in wanted.items()}
    differences = {path: float(np.linalg.norm(had[path] - leaf)) for path, leaf in wanted.items()}
    # The key's bias has a gradient of zero: softmax takes no notice of it.
    relative = {path: differences[path] / lengths[path] for path in wanted if not path.endswith("key/bias")}
    farthest = max(relative, key=relative.__getitem__)
    return dict(
        name=name,
        loss=found[0],
        loss_difference=abs(found[0] - reference[0]),
        gradient_difference=float(np.hypot.reduce([*differences.values()]) / np.hypot.reduce([*lengths.values()])),
        farthest=farthest,
        farthest_difference=relative[farthest],
    )


if __name__ == "__main__":
    exit_cleanly(main)
