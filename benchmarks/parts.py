"""Where a pretraining step's time goes, and how far each part is from the least it could take:
`python benchmarks/parts.py`, with `--peer_python PEER/bin/python` beside torch's own operations.

Each part runs alone, compiled by itself, forward and with its gradients, on inputs of the shapes that the step has. Its
floor is what its matrix products take at the speed of the fastest product measured in the same run, or what reading its
inputs and writing its results takes at the speed of a copy, whichever is more; what it writes for itself in between
does not count. A layer is the difference between networks of two depths, over their difference, so that it has the
loop and the rematerialisation that the parts lack.

Torch's AdamW stands beside our LAMB, and its masked-LM head is on all places. Printed are milliseconds (medians of the
rounds) of each part with its floor, their ratio, its share of the step, the peer's milliseconds, and on a CPU the
process's CPU time, which other programs disturb less; then the sum of the parts beside the whole step, and the parts
that cost the step most beyond their floors.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sides import Side, chosen_device, environment, require_python, write_results

from albert_jax.errors import UserError, exit_cleanly

HERE = Path(__file__).resolve().parent
SHAPES = {"cpu": "8x128", "gpu": "64x512"}


@dataclass(frozen=True)
class Arguments:
    """Measures the parts of a pretraining step."""

    peer_python: Path | None = None
    """Python of an environment with torch, to time its operations in turn with ours."""
    size: Literal["tiny", "base", "large", "xlarge", "xxlarge"] = "base"
    shape: str | None = None
    """Sequences, x, and their length; 8x128 on a CPU, 64x512 on a GPU by default."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """float32 on a CPU, bfloat16 on a GPU by default."""
    attention: str | None = None
    """Of the layer and the step: a value of `compute.attention`; its default if none."""
    remat: str = "matmuls"
    """Of the layer and the step: a value of `compute.remat`."""
    device: Literal["cpu", "gpu"] | None = None
    """The GPU where there is one, by default."""
    rounds: int = 5
    seconds: float = 0.2
    """How long a part is repeated in a round, about, and at least twice."""
    output: Path = Path("build/parts.json")


@dataclass(frozen=True)
class Work:
    """What the mathematics asks of a part: operations of its matrix products, and bytes in and out."""

    flops: float
    bytes: float

    def floor(self, ceiling: float, bandwidth: float) -> float:
        """Seconds."""
        return max(self.flops / ceiling, self.bytes / bandwidth)


@dataclass(frozen=True)
class Part:
    """A function of arrays that a step calls `count` times."""

    name: str
    count: int
    forward: Callable[..., Any] | None
    """None for what is all one, such as the optimizer"""
    with_gradients: Callable[..., Any]
    arguments: tuple[Any, ...]
    """of `forward`; `with_gradients` has the gradients of the results before them"""
    forward_work: Work
    work: Work
    in_sum: bool = True
    """whether the sum of the parts has it: wholes and alternatives are not"""
    consumes: bool = False
    """whether `with_gradients` takes its own result as its first argument, in the same memory"""


def main() -> None:
    import tyro

    run(tyro.cli(Arguments, description=__doc__, use_underscores=True))


def run(arguments: Arguments) -> dict[str, Any]:
    if arguments.rounds < 1:
        raise UserError(f"rounds = {arguments.rounds}: must be at least 1")
    device = chosen_device(arguments.device)
    require_python(arguments.peer_python)
    dtype = arguments.dtype or ("bfloat16" if device == "gpu" else "float32")
    shape = arguments.shape or SHAPES[device]
    rows, _, length = shape.partition("x")
    if not (rows.isdigit() and length.isdigit() and int(rows) and int(length)):
        raise UserError(f"shape = {shape}: expected BATCHxLENGTH, such as 8x128")
    os.environ.update(environment(device))  # before JAX looks at it
    import jax
    from training import about, compute_settings, copy_bandwidth, matmul_ceiling, network

    config = network(arguments.size)
    chosen = (arguments.attention,) if arguments.attention else ()
    [compute] = compute_settings(dtype, chosen, (arguments.remat,)).values()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        job = dict(size=asdict(config), rows=int(rows), length=int(length), dtype=dtype, device=device)
        (work / "job.json").write_text(json.dumps(job | dict(seconds=arguments.seconds)))
        peer = None
        if arguments.peer_python is not None:
            command = [str(arguments.peer_python), str(HERE / "parts_peer.py"), str(work)]
            peer = Side("torch", command, environment(device), work / "torch.log")
        try:
            parts, skipped = make_parts(config, compute, int(rows), int(length))
            ceiling, bandwidth = 0.0, 0.0
            timers = [Timer(part) for part in parts]
            theirs: dict[tuple[str, str], list[float]] = {}
            for _ in range(arguments.rounds):
                found, product = matmul_ceiling(config, int(rows) * int(length), dtype, arguments.seconds)
                if found > ceiling:
                    ceiling, fastest = found, product
                megabytes = 1024 if device == "gpu" else 64
                bandwidth = max(bandwidth, copy_bandwidth(arguments.seconds, megabytes))
                for timer in timers:
                    timer.measure(arguments.seconds)
                    if peer is not None and timer.part.name in peer.ready["parts"]:
                        for kind in timer.times:
                            answer = peer.ask({"part": timer.part.name, "kind": kind})
                            theirs.setdefault((timer.part.name, kind), []).append(answer["seconds"])
        finally:
            if peer is not None:
                peer.close()

    lines = [timer.line(ceiling, bandwidth, theirs) for timer in timers]
    device_name = jax.devices()[0].device_kind
    print(
        f"\nALBERT {arguments.size}, {shape}, {dtype}, remat {compute.remat}, {arguments.rounds} rounds; {about()}\n"
        f"fastest product {ceiling / 1e12:.3g} TFLOP/s ({fastest}), copy {bandwidth / 1e9:.3g} GB/s"
        + (f"; {peer.ready['about']}" if peer else "")
    )
    result = dict(
        size=arguments.size,
        shape=shape,
        dtype=dtype,
        device=device,
        device_kind=device_name,
        compute=dataclasses.asdict(compute),
        ceiling_flops=ceiling,
        ceiling_product=fastest,
        copy_bandwidth=bandwidth,
        peer=peer and peer.ready["about"],
        skipped=skipped,
        parts=lines,
    )
    result |= print_table(result, config.num_hidden_layers, device == "cpu")
    write_results(arguments.output, result)
    print(f"written to {arguments.output}")
    return result


# ---- the parts


def make_parts(config: Any, compute: Any, rows: int, length: int) -> tuple[list[Part], dict[str, str]]:
    """All parts, and the attention kernels that cannot run here with the reason."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from training import synthetic_batch, training

    from albert_jax.config import OptimizerConfig
    from albert_jax.model.attention import make_attention
    from albert_jax.model.attention_kernels import choose_attention
    from albert_jax.model.encoder import Embeddings, at_positions
    from albert_jax.model.heads import MaskedLMHead
    from albert_jax.model.layers import ACTIVATIONS, LayerNorm, linear
    from albert_jax.objectives import masked_lm_sums
    from albert_jax.optim import make_optimizer
    from albert_jax.tasks.pretraining import pretraining_objective
    from albert_jax.trees import tree_size

    dtype, size = jnp.dtype(compute.dtype), jnp.dtype(compute.dtype).itemsize
    hidden, wide, embedding = config.hidden_size, config.intermediate_size, config.embedding_size
    tokens, layers = rows * length, config.num_hidden_layers
    numbers = iter(range(1000))

    def random(*shape: int, scale: float = 1.0) -> jax.Array:
        return scale * jax.random.normal(jax.random.key(next(numbers)), shape, dtype)

    def module(make: Callable[..., nnx.Module]) -> tuple[Any, Callable[..., Any]]:
        """Parameters of a part of the model, and it as a function of them and its inputs."""

        def call(params: Any, *inputs: Any) -> Any:
            graph, state = nnx.split(nnx.eval_shape(lambda: make(jax.random.key(0))))
            nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
            return nnx.merge(graph, state)(*inputs)

        return nnx.to_pure_dict(nnx.state(make(jax.random.key(0)))), call

    def part(name: str, count: int, function: Callable, arguments: tuple, forward: Work, both: Work, **rest) -> Part:
        def with_gradients(gradients: Any, *arguments: Any) -> Any:
            # Whole numbers and masks among the arguments have none.
            smooth = [i for i, leaf in enumerate(arguments) if is_smooth(leaf)]

            def of_smooth(*values: Any) -> Any:
                given = list(arguments)
                for i, value in zip(smooth, values, strict=True):
                    given[i] = value
                return function(*given)

            results, pull = jax.vjp(of_smooth, *(arguments[i] for i in smooth))
            return results, pull(gradients)

        return Part(name, count, function, with_gradients, arguments, forward, both, **rest)

    def is_smooth(tree: Any) -> bool:
        return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))

    def product(name: str, inner: int, columns: int, together: int = 1) -> Part:
        """`together` linear maps of the same input."""

        def function(x: jax.Array, weights: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
            return [linear(x, kernel, bias) for kernel, bias in weights]

        weights = [(random(inner, columns, scale=0.02), random(columns, scale=0.02)) for _ in range(together)]
        flops = 2.0 * tokens * inner * columns * together
        moved = size * (tokens * inner + together * (inner * columns + tokens * columns))
        count = 1 if inner == embedding != hidden else layers
        arguments = random(rows, length, inner), weights
        return part(name, count, function, arguments, Work(flops, moved), Work(3 * flops, 3 * moved))

    parts = []
    batch = {name: jnp.asarray(array) for name, array in synthetic_batch(rows, length).items()}

    # Embeddings: looked up in float32; the gradient adds to a table that is written whole.
    params, embed = module(lambda key: Embeddings(config, key=key))
    looked_up = tokens * embedding * (4 + size)
    added = tokens * embedding * (size + 8) + 4 * config.vocab_size * embedding
    parts.append(
        part(
            "embeddings",
            1,
            lambda params, ids, types: embed(params, ids, types, None, None).astype(dtype),
            (params, batch["input_ids"], batch["token_type_ids"]),
            Work(0, looked_up),
            Work(0, looked_up + added),
        )
    )
    if config.projects_embeddings:
        parts.append(product("embeddings to hidden", embedding, hidden))

    parts.append(product("query, key, value", hidden, hidden, together=3))
    scores = Work(4.0 * tokens * length * hidden, 4 * tokens * hidden * size)
    both = Work(12.0 * tokens * length * hidden, 12 * tokens * hidden * size)
    heads = [random(rows, length, config.num_attention_heads, config.head_size) for _ in range(3)]
    mask, skipped = jnp.ones((rows, length), bool), {}
    used = choose_attention(compute.attention, config, compute.dtype, length, rows)
    for kind in ("plain", "cudnn", "splash"):
        try:
            choose_attention(kind, config, compute.dtype, length, rows)
        except UserError as error:
            skipped[f"attention {kind}"] = str(error)
            continue

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, kind: str = kind) -> jax.Array:
            return make_attention(kind, config, mask, compute.dtype)(q, k, v, None)

        is_used = kind == used
        parts.append(part(f"attention {kind}", layers, attend, (*heads, mask), scores, both, in_sum=is_used))
    parts.append(product("attention output", hidden, hidden))

    params, normalize = module(lambda key: LayerNorm(hidden, epsilon=config.layer_norm_eps))
    one = tokens * hidden * size
    parts.append(
        part(
            "residual, LayerNorm",
            2 * layers,
            lambda params, x, y: normalize(params, x + y),
            (params, random(rows, length, hidden), random(rows, length, hidden)),
            Work(0, 3 * one),
            # The sum, once more, and the gradient of the result in; that of the sum, which both inputs share, out.
            Work(0, 6 * one),
        )
    )
    parts.append(product("feed-forward in", hidden, wide))
    one = tokens * wide * size
    activation = ACTIVATIONS[config.hidden_act]
    parts.append(part("GELU", layers, activation, (random(rows, length, wide),), Work(0, 2 * one), Work(0, 5 * one)))
    parts.append(product("feed-forward out", wide, hidden))

    # The head on the predictions alone, with the table's gradient, and the loss.
    params, head = module(lambda key: MaskedLMHead(config, key=key))
    places = batch["masked_lm_positions"].size
    flops = 2.0 * places * (hidden * embedding + embedding * config.vocab_size)
    logits = 4 * places * config.vocab_size

    def head_loss(params: Any, x: jax.Array, table: jax.Array, positions: Any, labels: Any, weights: Any) -> jax.Array:
        return masked_lm_sums(head(params, at_positions(x, positions), table), labels, weights)["mlm_loss"]

    table = 0.02 * jax.random.normal(jax.random.key(1), (config.vocab_size, embedding))
    targets = (batch[f"masked_lm_{name}"] for name in ("positions", "labels", "weights"))
    parts.append(
        part(
            "masked-LM head and loss",
            1,
            head_loss,
            (params, random(rows, length, hidden), table, *targets),
            # Logits written and read once; their gradient as well.
            Work(flops, 2 * logits + 4 * table.size),
            Work(3 * flops, 4 * logits + 12 * table.size + tokens * hidden * size),
        )
    )

    # One and a half passes over float32 copies of the parameters: gradients in; moments and weights in and out.
    arrays = {name: jax.device_get(array) for name, array in batch.items()}
    whole = training(config, compute, arrays, accumulation=1)
    weights = whole.create().params
    optimizer = make_optimizer(OptimizerConfig(), 125_000)

    def update(state: Any, gradients: Any) -> Any:
        params, moments = state
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3), weights)
    fresh = jax.tree.map(jnp.copy, weights)
    state = (fresh, optimizer.init(fresh))
    parameters = tree_size(weights)
    moved = Work(0, 28 * parameters)
    parts.append(Part("LAMB", 1, None, update, (state, gradients), moved, moved, consumes=True))

    # Wholes.
    deep = max(2, config.num_hidden_layers // 2)
    per_layer = 2.0 * tokens * (4 * hidden**2 + 2 * hidden * wide + 2 * length * hidden)
    for depth in (deep, deep // 2):
        objective = pretraining_objective(dataclasses.replace(config, num_hidden_layers=depth), compute)
        counts = objective.weights({name: array[None] for name, array in batch.items()})

        def loss(params: Any, batch: Any, objective: Any = objective, counts: Any = counts) -> jax.Array:
            return objective.loss(objective.sums(params, batch, None), counts)

        forward = Work(depth * per_layer, 0)
        name = f"{depth} layers with embeddings and heads"
        parts.append(part(name, 1, loss, (weights, batch), forward, Work(3 * forward.flops, 0), in_sum=False))
    counted = Work(3 * (layers * per_layer + flops), 0)
    step = Part("whole step", 1, None, whole_step(whole), (whole.create(),), counted, counted, False, consumes=True)
    return [*parts, step], skipped


def whole_step(whole: Any) -> Callable[[Any], Any]:
    """The step as a function of the state alone."""
    import jax

    def step(state: Any) -> Any:
        with jax.set_mesh(whole.mesh):
            return whole.step(state, whole.batch, 0)[0]

    return step


class Timer:
    """A part compiled, and how long it took."""

    def __init__(self, part: Part):
        import jax
        import jax.numpy as jnp

        self.part = part
        self.times: dict[str, list[tuple[float, float]]] = {}
        self.calls: dict[str, Callable[[], Any]] = {}
        if part.consumes:
            # The whole step is jitted already.
            function = (
                part.with_gradients if part.name == "whole step" else jax.jit(part.with_gradients, donate_argnums=0)
            )
            self.state, rest = part.arguments[0], part.arguments[1:]

            def advance() -> Any:
                self.state = function(self.state, *rest)
                return self.state

            self.calls["both"] = advance
        else:
            forward, both = jax.jit(part.forward), jax.jit(part.with_gradients)
            results = jax.eval_shape(part.forward, *part.arguments)
            gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), results)
            self.calls["forward"] = lambda: forward(*part.arguments)
            self.calls["both"] = lambda: both(gradients, *part.arguments)
        for kind, call in self.calls.items():
            jax.block_until_ready(call())
            self.times[kind] = []

    def measure(self, budget: float) -> None:
        from training import seconds_per_call

        for kind, call in self.calls.items():
            self.times[kind].append(seconds_per_call(call, budget, at_least=2))

    def line(self, ceiling: float, bandwidth: float, theirs: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
        part = self.part
        works = {"forward": part.forward_work, "both": part.work}
        line: dict[str, Any] = dict(name=part.name, count=part.count, in_sum=part.in_sum)
        for kind, times in self.times.items():
            seconds = statistics.median(wall for wall, _ in times)
            floor = works[kind].floor(ceiling, bandwidth)
            line[kind] = dict(
                seconds=seconds,
                seconds_by_round=[wall for wall, _ in times],
                cpu_seconds=statistics.median(cpu for _, cpu in times),
                cpu_seconds_by_round=[cpu for _, cpu in times],
                floor=floor,
                flops=works[kind].flops,
                bytes=works[kind].bytes,
            )
            if (part.name, kind) in theirs:
                line[kind]["peer_seconds"] = statistics.median(theirs[part.name, kind])
        return line


# ---- what is printed


def print_table(result: dict[str, Any], layers: int, on_cpu: bool) -> dict[str, Any]:
    """The table, the sum beside the whole, and the ranking; what of it is new."""
    lines = {line["name"]: line for line in result["parts"]}
    step = lines["whole step"]["both"]["seconds"]
    # "+ backward" is forward and backward together.
    columns = ["count", "forward", "floor", "ratio", "torch", "+ backward", "floor", "ratio", "torch", "share"]
    print(f"{'milliseconds of one':38}" + "".join(f"{name:>11}" for name in columns + ["CPU ms"] * on_cpu))
    for line in result["parts"]:
        cells = [str(line["count"])]
        for kind in ("forward", "both"):
            one = line.get(kind)
            if one is None:
                cells += [""] * 4
                continue
            ratio = f"{one['seconds'] / one['floor']:.1f}" if one["floor"] else ""
            peer = f"{one['peer_seconds'] * 1e3:.3f}" if "peer_seconds" in one else ""
            cells += [f"{one['seconds'] * 1e3:.3f}", f"{one['floor'] * 1e3:.3f}", ratio, peer]
        share = line["count"] * line["both"]["seconds"] / step
        cells.append(f"{share:.1%}" if line["in_sum"] else "")
        if on_cpu:
            cells.append(f"{line['both']['cpu_seconds'] * 1e3:.3f}")
        print(f"{line['name']:38}" + "".join(f"{cell:>11}" for cell in cells))

    parts = [line for line in result["parts"] if line["in_sum"]]
    wall = Breakdown(lines, parts, layers, "seconds")
    print("\n" + wall.text("wall time"))
    if on_cpu:
        print(Breakdown(lines, parts, layers, "cpu_seconds").text("CPU time"))
    floors = sum(line["count"] * line["both"]["floor"] for line in parts)
    print(
        f"sum of the parts {wall.total * 1e3:.3f} ms ({wall.total / step:.1%} of the step), of their floors "
        f"{floors * 1e3:.3f} ({floors / step:.1%})"
    )
    beyond = {line["name"]: line["count"] * (line["both"]["seconds"] - line["both"]["floor"]) for line in parts}
    beyond["loop and what is computed again"] = wall.again * layers
    beyond["not in any part"] = wall.rest
    ranking = sorted(beyond.items(), key=lambda item: -item[1])
    print("farthest from their floors, milliseconds of a step:")
    for name, seconds in ranking[:6]:
        print(f"  {name:38}{seconds * 1e3:10.3f}{seconds / step:9.1%}")
    for name, reason in result["skipped"].items():
        print(f"without {name}: {reason}")
    return dict(
        step_seconds=step,
        layer_seconds=wall.layer,
        layer_parts_seconds=wall.layer_parts,
        sum_of_parts=wall.total,
        sum_of_floors=floors,
        beyond_floor=dict(ranking),
    )


class Breakdown:
    """The step as its layers, its other parts and a rest, in one kind of time."""

    def __init__(self, lines: dict[str, Any], parts: list[dict[str, Any]], layers: int, kind: str):
        deep, shallow = (line for name, line in lines.items() if name.endswith("layers with embeddings and heads"))
        self.depths = [int(line["name"].split()[0]) for line in (deep, shallow)]
        # By round: what slows a machine down for a while is in both.
        by_round = zip(*(line["both"][f"{kind}_by_round"] for line in (deep, shallow)), strict=True)
        self.layers = layers
        self.layer = statistics.median(one - other for one, other in by_round) / (self.depths[0] - self.depths[1])
        of_layers = [line for line in parts if line["count"] >= layers and line["count"] > 1]
        self.layer_parts = sum(line["count"] * line["both"][kind] for line in of_layers) / layers
        self.again = self.layer - self.layer_parts
        self.total = sum(line["count"] * line["both"][kind] for line in parts)
        self.others = self.total - self.layer_parts * layers
        self.step = lines["whole step"]["both"][kind]
        self.rest = self.step - self.layer * layers - self.others

    def text(self, name: str) -> str:
        one, parts, again, step, all_layers, others, rest = (
            f"{seconds * 1e3:.3f}"
            for seconds in (
                self.layer,
                self.layer_parts,
                self.again,
                self.step,
                self.layer * self.layers,
                self.others,
                self.rest,
            )
        )
        return (
            f"{name}: one layer, {self.depths[0]} less {self.depths[1]} of them: {one} ms = its parts {parts} + the "
            f"loop and what is computed again {again}\n"
            f"{name}: whole step {step} ms = {self.layers} layers {all_layers} + other parts {others} + not in any "
            f"part {rest}"
        )


if __name__ == "__main__":
    exit_cleanly(main)
