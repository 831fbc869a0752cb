"""TPU programs proven without a TPU: `python benchmarks/tpu_aot.py`, with `pip install -e ".[tpu]"`; `--all` compiles
every size for every topology.

libtpu compiles for devices that are not there. This compiles pretraining's own step (`create_state`,
`compile_train_step`, `batch_shapes`, the objective) for meshes of TPUs at the paper's batch, 4096 x 512, and reads the
optimised program:

- Memory: XLA's own figures for a device, arguments, temporaries and code together. Without `--accumulation` it is the
  least that `--dry_run` estimates to fit, doubled until the program does.
- Products: FLOPs of all matrix products in the program, times the trip counts of the loops that they are in (XLA's
  cost analysis counts a loop once), against `flops.py` plus what the rematerialisation repeats. XLA cannot see into a
  kernel; for each run of one, its products are added by hand: 2 in the forward kernel, 5 in the backward one, of 2 L^2
  H each for one row.
- Collectives: how often each kind runs in a step, and the bytes of its results, against `reduced_bytes`: data
  parallelism needs the gradients of all parameters summed, 4 bytes each, once; what is more is said there.
- Kernels: how often the attention kernels run in a step, against once forwards and once backwards for each layer but
  the last and each part of the batch.

From these follows an estimate of the time of a step, by a simple model whose assumptions are printed. No TPU has
confirmed it.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from albert_jax.config import AlbertConfig, PretrainConfig
from albert_jax.errors import UserError, exit_cleanly

ROOT = Path(__file__).resolve().parents[1]
Size = Literal["base", "large", "xlarge", "xxlarge"]
RESERVED = 0.25 * 2**30
"""Bytes of a device's memory that XLA leaves to the runtime."""
SIZES = ("base", "large", "xlarge", "xxlarge")
TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4", "v6e:4x4", "v5e:4x4")
V5E = ("v5e:4x4", "v5e:16x16")
QUICK = (("base", "v5e:4x4"), ("base", "v5e:16x16"), ("xxlarge", "v5e:16x16"))


class Chip(NamedTuple):
    """Data sheet of a device (Google's TPU documentation; NVIDIA's H100 SXM)."""

    kind: str
    """its name in `flops.PEAK_FLOPS`"""
    memory: float
    """bytes"""
    bandwidth: float
    """of its memory, bytes/s"""
    links: float
    """what an all-reduce over many can send and receive at once for each device, bytes/s"""


# Links of TPUs: 45 GB/s (v5e) or 90 GB/s (v5p, v6e) one way each (jax-ml.github.io/scaling-book/tpus); on a mesh of two
# dimensions without wrap-around, a device at the edge of a ring has one link for each dimension, and so the ring has.
CHIPS = {
    "v5e": Chip("TPU v5e", 16 * 2**30, 0.81e12, 2 * 45e9),
    "v5p": Chip("TPU v5p", 95 * 2**30, 2.77e12, 3 * 90e9),
    "v6e": Chip("TPU v6e", 32 * 2**30, 1.64e12, 2 * 90e9),
    "H100 x 8": Chip("H100", 80e9, 3.35e12, 360e9),  # NVLink, as NCCL measures it
    "H100 x 64": Chip("H100", 80e9, 3.35e12, 40e9),  # InfiniBand of 400 Gbit/s for each device
}


@dataclass(frozen=True)
class Assumptions:
    """Of the estimate of time: seconds of products, of memory traffic beside them, and of all-reduces add up."""

    products: float = 0.80
    """Share of the data sheet's FLOP/s that large matrix products reach; with a width below 1024, `narrow_products`."""
    narrow_products: float = 0.70
    attention: float = 0.35
    """The same for the kernels' products, whose softmax runs on other units; heads of 64 fill half of a matrix unit."""
    memory: float = 0.80
    """Share of the data sheet's memory bandwidth. The bytes are counted in the program: all that its instructions
    read and write in device memory."""
    hidden_traffic: float = 0.5
    """Share of those bytes that move while products are computed."""
    links: float = 0.80
    """Share of the links' bandwidth in an all-reduce, which moves twice its bytes less one share. Nothing is computed
    beside it."""
    gpu_bytes: float = 115.0
    """Bytes of memory traffic beside products for each token, unit of H and layer on a GPU, where nothing was compiled;
    attention without its scores. Counted by hand for XLA's fusions."""


@dataclass(frozen=True)
class Arguments:
    """Compiles pretraining steps for TPUs that are not there, and checks them."""

    sizes: tuple[Size, ...] | None = None
    """By default base, and xxlarge at v5e:16x16."""
    topologies: tuple[str, ...] | None = None
    """As libtpu names them, such as v5e:4x4, v5p:4x4x4; by default v5e:4x4 and v5e:16x16."""
    all: bool = False
    """Every size at every topology."""
    resume: bool = False
    """Keep what `output` holds of the same arguments, and compile only the rest."""
    accumulation: int | None = None
    """Parts that the batch is computed in; by default the fewest that should fit."""
    batch_size: int = 4096
    sequence_length: int = 512
    remat: Literal["none", "matmuls", "full"] = "matmuls"
    attention: Literal["auto", "plain", "splash"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    pack: bool = True
    """Several sequences per row, as pretraining has them (data.pack_sequences); --no_pack is one."""
    fsdp: int = 1
    tensor: int = 1
    output: Path = Path("build/tpu_aot.json")
    programs: Path | None = None
    """Folder to write the optimised programs to, as text."""


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, use_underscores=True)
    # The compiler for TPUs is used, never a TPU, and nothing is asked of Google's metadata server.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError('libtpu is not installed: it compiles for TPUs; pip install -e ".[tpu]"')
    # One topology after the other, the largest machine first: a sweep that is cut off has every size there.
    pairs: list[tuple[str, str]] = [(size, topology) for topology in TOPOLOGIES for size in SIZES]
    if not arguments.all:
        sizes, topologies = arguments.sizes, arguments.topologies
        pairs = [(s, t) for t in topologies or V5E for s in sizes or ("base",)]
        if sizes is None and topologies is None:
            pairs = list(QUICK)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    known = kept_programs(arguments) if arguments.resume else {}
    results = []
    for size, topology in pairs:
        results.append(known.get((size, topology)) or examine(arguments, size, topology))
        print(describe(results[-1]), flush=True)
        # What is known and not reached yet stays, so that a second interruption loses nothing.
        rest = [program for pair, program in known.items() if pair not in pairs[: len(results)]]
        written = dict(
            settings=settings(arguments),
            assumptions=asdict(Assumptions()),
            programs=results + rest,
            estimates=estimates(arguments, results + rest),
        )
        arguments.output.write_text(json.dumps(written, indent=2) + "\n")
    from albert_jax.report import table

    print("", *table(program_table(results)), "", *table(estimate_table(estimates(arguments, results))), sep="\n")
    print("\nassumptions of the estimates, which no device has confirmed:")
    print(*(f"  {name} {value:g}" for name, value in asdict(Assumptions()).items()), sep="\n")
    print(f"written to {arguments.output}")


def settings(arguments: Arguments) -> dict[str, Any]:
    """What programs depend on beside size and topology."""
    import jax

    from albert_jax.compiler_options import OPTIONS

    chosen = asdict(arguments)
    for name in ("sizes", "topologies", "all", "resume", "output", "programs"):
        del chosen[name]
    versions = dict(jax=jax.__version__, libtpu=importlib.metadata.version("libtpu"))
    return chosen | versions | dict(compiler_options=OPTIONS["tpu"])


def kept_programs(arguments: Arguments) -> dict[tuple[str, str], dict[str, Any]]:
    """The programs of an earlier run with the same settings, by size and topology. It cannot see that the model or the
    step changed since."""
    if not arguments.output.exists():
        return {}
    found = json.loads(arguments.output.read_text())
    if found.get("settings") != settings(arguments):
        raise UserError(
            f"resume: {arguments.output} holds programs of {found.get('settings')}, not of {settings(arguments)}; "
            "give the same arguments, another --output, or no --resume"
        )
    return {(program["size"], program["topology"]): program for program in found["programs"]}


# ---- the program


def examine(arguments: Arguments, size: str, topology: str) -> dict[str, Any]:
    """Compiles the step of one size for one topology; what was found."""
    from albert_jax.flops import PEAK_FLOPS, training_flops_per_sequence
    from albert_jax.tasks.pretraining import prediction_places, sequence_places
    from albert_jax.trees import tree_size

    generation = topology.split(":", maxsplit=1)[0]
    if generation not in CHIPS:
        raise UserError(f"topologies = {topology}: known are {', '.join(TOPOLOGIES)} and others of these generations")
    chip = CHIPS[generation]
    mesh = topology_mesh(topology, arguments.fsdp, arguments.tensor)
    accumulation = arguments.accumulation
    while True:
        config, batches = pretraining(arguments, size, mesh, chip, accumulation)
        phase, model = config.phases.phases[0], config.model
        start = time.perf_counter()
        compiled, abstract = compile_step(config, batches, mesh)
        seconds = time.perf_counter() - start
        used = None if compiled is None else memory_of(compiled)
        if used is not None and sum(used.values()) <= chip.memory - RESERVED:
            break
        said = "XLA refuses it" if used is None else f"{sum(used.values()) / 2**30:.2f} GiB"
        if arguments.accumulation is not None:
            raise UserError(
                f"accumulation = {phase.accumulation}: {size} does not fit into {topology} ({said}); use "
                f"{2 * phase.accumulation}"
            )
        accumulation = 2 * phase.accumulation
        print(f"{size} on {topology}: accumulation {phase.accumulation} does not fit ({said})", flush=True)

    text = compiled.as_text()
    if arguments.programs is not None:
        arguments.programs.mkdir(parents=True, exist_ok=True)
        (arguments.programs / f"{size}_{topology.replace(':', '_')}.txt").write_text(text)
    program = Program(text)
    found = program.totals
    rows = phase.batch_size / (mesh.shape["data"] * mesh.shape["fsdp"])  # of a device, in a step
    places = prediction_places(config, phase), sequence_places(config, phase) or 1
    needed = training_flops_per_sequence(model, phase.sequence_length, *places) * rows / mesh.shape["tensor"]
    kernel = "splash" if any("splash" in name for name in found.kernels) else "plain"
    own = program_flops(model, phase.sequence_length, sum(places), config.compute.remat, kernel) * rows
    counted = found.flops + kernel_flops(found.kernels, model, phase, mesh)
    return dict(
        size=size,
        topology=topology,
        devices=mesh.size,
        mesh=dict(mesh.shape),
        batch_size=phase.batch_size,
        sequence_length=phase.sequence_length,
        predictions=places[0],
        sequences=places[1],
        accumulation=phase.accumulation,
        compute=asdict(config.compute),
        parameters=tree_size(abstract.params),
        compile_seconds=seconds,
        memory_bytes=sum(used.values()),
        memory_parts=used,
        device_memory_bytes=chip.memory,
        collectives={name: asdict(value) for name, value in sorted(found.collectives.items())},
        gradient_bytes=4 * tree_size(abstract.params),
        expected_reduced_bytes=reduced_bytes(abstract.params, phase.accumulation, mesh, config.compute.dtype),
        kernels=dict(found.kernels),
        expected_kernels=(model.num_hidden_layers - 1) * phase.accumulation if kernel == "splash" else 0,
        product_flops=found.flops,
        kernel_flops=counted - found.flops,
        expected_flops=needed + own / mesh.shape["tensor"],
        model_flops=needed,
        memory_traffic_bytes=found.bytes,
        unknown_loops=program.unknown_loops,
        peak_flops=PEAK_FLOPS[chip.kind],
        hidden_size=model.hidden_size,
    )


def memory_of(compiled: Any) -> dict[str, int]:
    """Bytes of one device that the program takes, by XLA's figures. What it updates in place counts once."""
    found = compiled.memory_analysis()
    return dict(
        arguments=found.argument_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )


def topology_mesh(topology: str, fsdp: int, tensor: int) -> Any:
    """The devices of a topology as a mesh like `make_mesh`'s."""
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import AxisType, Mesh

    from albert_jax.sharding import AXES

    try:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"topologies = {topology}: libtpu knows no such topology ({reason})") from error
    if len(devices) % (fsdp * tensor):
        raise UserError(f"fsdp x tensor = {fsdp * tensor}: does not divide the {len(devices)} devices of {topology}")
    shape = (len(devices) // (fsdp * tensor), fsdp, tensor)
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def pretraining(
    arguments: Arguments, size: str, mesh: Any, chip: Chip, accumulation: int | None
) -> tuple[PretrainConfig, Any]:
    """The paper's recipe, and the batches of a corpus: the bundled one, since only their shapes matter. Without
    `accumulation` it is the least that should fit."""
    from albert_jax.config import load_config
    from albert_jax.sharding import check_batch
    from albert_jax.tasks.pretraining import open_inputs, training_batches
    from pretrain import build_inputs

    sample = load_config(ROOT / "configs" / "pretrain" / "sample.py")
    folder = ROOT / "build" / "tpu_aot"
    data = replace(
        sample.data,
        sources=(str(ROOT / "data" / "sample" / "*.txt"),),
        tokenizer=str(folder / "vocab" / "spiece.model"),
        corpus=(str(folder / "corpus"),),
    )
    sample = replace(sample, data=data)
    build_inputs(sample)
    tokenizer, corpora, _ = open_inputs(sample)

    parts = accumulation
    if parts is None:
        check_batch(arguments.batch_size, 1, mesh, "batch_size")
        parts = least_parts(arguments, size, mesh, chip.memory)
    check_batch(arguments.batch_size, parts, mesh, "batch_size")
    config = recipe(arguments, size, parts)
    return config, training_batches(config, tokenizer, corpora, config.phases.phases[0])


def recipe(arguments: Arguments, size: str, parts: int) -> PretrainConfig:
    """The paper's, of the newer version of the models, in one phase of `parts` parts a step."""
    from albert_jax.config import ComputeConfig, PhasesConfig, albert_config
    from configs.paper import paper_recipe

    config = paper_recipe("runs/tpu_aot", albert_config(size, version=2))
    phases = PhasesConfig((125_000,), (arguments.sequence_length,), (arguments.batch_size,), (parts,))
    compute = ComputeConfig(arguments.dtype, arguments.remat, arguments.attention)
    data = replace(config.data, pack_sequences=arguments.pack)
    return replace(config, phases=phases, compute=compute, data=data)


def least_parts(arguments: Arguments, size: str, mesh: Any, memory: float) -> int:
    """The fewest parts that `--dry_run` estimates to fit into `memory` bytes of a device; one row each if none do."""
    from albert_jax.report import USABLE_MEMORY, activation_bytes, state_bytes

    def needed(parts: int) -> float:
        config = recipe(arguments, size, parts)
        return state_bytes(config, mesh) + activation_bytes(config, config.phases.phases[0], parts, mesh)

    rows = arguments.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    divisors = (n for n in range(1, rows + 1) if rows % n == 0)
    return next((n for n in divisors if needed(n) <= USABLE_MEMORY * memory), rows)


def compile_step(config: PretrainConfig, batches: Any, mesh: Any) -> tuple[Any, Any]:
    """The compiled step as `pretrain.prepare` makes it, None if it does not fit, and the state's shapes."""
    import jax
    from jax.errors import JaxRuntimeError

    from albert_jax.model import initialize
    from albert_jax.optim import make_optimizer
    from albert_jax.tasks.pretraining import batch_shapes, pretraining_objective
    from albert_jax.train import compile_train_step, create_state, random_key, zero_sums

    objective = pretraining_objective(config.model, config.compute)
    optimizer = make_optimizer(config.optimizer, config.phases.total_steps)
    shapes = batch_shapes(batches, config.phases.phases[0])
    with jax.set_mesh(mesh):
        _, abstract, shardings = create_state(
            lambda: initialize(config.model, random_key(config.seed)),
            optimizer,
            lambda params: zero_sums(objective, params, shapes),
            mesh,
            config.model,
        )
        step = compile_train_step(objective, optimizer, mesh, shardings)
        try:
            return step.lower(abstract, shapes, jax.ShapeDtypeStruct((), np.int32)).compile(), abstract
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None, abstract


def program_flops(model: AlbertConfig, length: int, read: int, remat: str, kernel: str) -> float:
    """What the program of one row has more than the model needs, in products.

    The backward pass computes again: the scores, which a kernel never keeps, and which XLA's own operations keep with
    "none" and have again with "full"; and with "full" the forward pass of every layer. The last layer gives only what
    is read, `read` places, which are chosen by products with their one-hot form, and has XLA's own attention.
    """
    hidden, wide = model.hidden_size, model.intermediate_size
    layer = length * (8.0 * hidden**2 + 4 * hidden * wide + 4 * length * hidden)
    last = length * 4.0 * hidden**2 + read * (4.0 * hidden**2 + 4 * hidden * wide + 4 * length * hidden)
    choosing = 2.0 * read * length * hidden
    scores, last_scores = 2.0 * length**2 * hidden, 2.0 * read * length * hidden
    again = {
        "none": (scores if kernel == "splash" else 0.0, 0.0),
        "matmuls": (scores, last_scores + choosing),
        "full": (layer + (scores if kernel == "splash" else 0.0), last + choosing),
    }[remat]
    layers = model.num_hidden_layers * model.inner_group_num - 1
    return layers * again[0] + again[1] + 2 * choosing


def kernel_flops(kernels: Counter, model: AlbertConfig, phase: Any, mesh: Any) -> float:
    """Products within all runs of the kernels, on one device."""
    rows = phase.batch_size / phase.accumulation / (mesh.shape["data"] * mesh.shape["fsdp"])
    product = 2.0 * phase.sequence_length**2 * model.hidden_size * rows / mesh.shape["tensor"]
    return product * sum(runs * (2 if "fwd" in name else 5) for name, runs in kernels.items())


def reduced_bytes(params: Any, accumulation: int, mesh: Any, dtype: str) -> float | None:
    """Bytes of gradients that all-reduces sum in a step; None where that is not known: meshes with `fsdp` or `tensor`,
    and products in float32.

    XLA moves an all-reduce behind the loop over the parts where a parameter is used once. The layers' parameters are
    used twice, by the last layer and by the others, and the embeddings are added up by scattering, so theirs are
    exchanged in every part; so is the masked-LM head's gradient of the word embeddings, which arrives in bfloat16.
    Without a loop, other gradients of products in bfloat16 are exchanged before they become float32.
    """
    import jax

    from albert_jax.sharding import path_name

    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1 or dtype != "bfloat16":
        return None
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        if re.search("group_|embeddings/(word|position)", name):
            total += accumulation * 4.0 * leaf.size
        elif accumulation == 1 and re.search("(embedding_hidden_mapping_in|pooler|dense|sop_classifier)/", name):
            total += 2.0 * leaf.size
        else:
            total += 4.0 * leaf.size
        if name.endswith("embeddings/word"):
            total += accumulation * 2.0 * leaf.size
    return total


# ---- reading a program


@dataclass
class Collective:
    """One kind of collective in a step."""

    runs: float = 0.0
    bytes: float = 0.0
    """of the results, on one device"""


@dataclass
class Totals:
    """Of a program or a part of it, every loop counted as often as it runs."""

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, Collective] = field(default_factory=dict)
    kernels: Counter = field(default_factory=Counter)

    def add(self, other: "Totals", times: float = 1.0) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for name, value in other.collectives.items():
            mine = self.collectives.setdefault(name, Collective())
            mine.runs += times * value.runs
            mine.bytes += times * value.bytes
        for name, runs in other.kernels.items():
            self.kernels[name] += round(times * runs)


class Shape(NamedTuple):
    """An array of a program; a tuple has several."""

    dtype: str
    sizes: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> float:
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def memory_bytes(self) -> float:
        """In device memory, padded to whole tiles; 0 for what lies on the chip."""
        if re.search(r"S\([1-9]", self.layout):
            return 0.0
        tile, order = re.search(r"T\(([\d,]+)\)", self.layout), re.match(r"\{([\d,]+)", self.layout)
        if tile is None or order is None or not self.sizes:
            return self.bytes
        sizes = list(self.sizes)
        units = reversed([int(size) for size in tile[1].split(",")])
        for axis, unit in zip(order[1].split(","), units, strict=False):
            sizes[int(axis)] = -(-sizes[int(axis)] // unit) * unit
        return math.prod(sizes) * ITEM_BYTES[self.dtype]


class Instruction(NamedTuple):
    name: str
    shapes: tuple[Shape, ...]
    operation: str
    operands: tuple[str, ...]
    text: str
    """from the operands on"""
    root: bool

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf"\b{attribute}=%([\w.\-]+)", self.text)
        return match and match[1]


ITEM_BYTES = dict(
    pred=1, s4=0.5, u4=0.5, s8=1, u8=1, s16=2, u16=2, bf16=2, f16=2, s32=4, u32=4, f32=4, s64=8, u64=8, f64=8,
    token=0, f8e4m3fn=1, f8e5m2=1, opaque=0, c64=8,
)  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
        "after-all", "partition-id", "replica-id", "copy-done", "async-done", "opt-barrier")  # fmt: skip
"""What moves no bytes itself."""
SLICES = ("dynamic-slice", "slice", "gather")


class Program:
    """XLA's text of an optimised program (`compiled.as_text()`)."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.unknown_loops = 0
        """loops whose trip count is not a constant; they count once"""
        self.entry = ""
        self._read(re.sub(r"/\*.*?\*/", "", text))
        self._known: dict[str, Totals] = {}

    def _read(self, text: str) -> None:
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line):
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif match := re.match(r"\s+(ROOT )?%([\w.\-]+) = ", line):
                shape, rest = split_shape(line[match.end() :])
                operation = rest[: rest.index("(")]
                operands = rest[len(operation) + 1 : closing(rest, len(operation))]
                current[match[2]] = Instruction(
                    match[2],
                    tuple(shapes_of(shape)),
                    operation,
                    tuple(re.findall(r"%([\w.\-]+)", operands)),
                    rest,
                    match[1] is not None,
                )

    @cached_property
    def totals(self) -> Totals:
        return self._of(self.entry)

    def _of(self, name: str) -> Totals:
        """Of a computation that runs once."""
        if name not in self._known:
            totals = self._known[name] = Totals()
            for instruction in self.computations[name].values():
                self._count(name, instruction, totals)
        return self._known[name]

    def _count(self, computation: str, instruction: Instruction, totals: Totals) -> None:
        operation = instruction.operation
        if operation == "while":
            totals.add(self._of(instruction.called("body")), self._trips(instruction))
        elif operation == "conditional":
            branches = re.findall(r"%([\w.\-]+)", re.search(r"branch_computations=\{([^}]*)\}", instruction.text)[1])
            totals.add(max((self._of(branch) for branch in branches), key=lambda branch: branch.flops))
        elif operation == "call":
            totals.add(self._of(instruction.called("to_apply")))
        elif operation == "fusion" or operation.startswith("async-start"):
            inside = self._of(instruction.called("calls"))
            totals.add(replace(inside, bytes=0.0 if operation == "fusion" else inside.bytes))
        elif operation in ("convolution", "dot"):
            operands = [self._shape(computation, name) for name in instruction.operands]
            totals.flops += (convolution_flops if operation == "convolution" else dot_flops)(instruction, *operands)
        elif operation == "custom-call" and "tpu_custom_call" in instruction.text:
            totals.kernels[re.sub(r"[.\d]+$", "", instruction.name)] += 1
        for kind in COLLECTIVES:
            if operation in (kind, f"{kind}-start"):
                # A started all-gather or permutation has its operand before its result.
                results = instruction.shapes
                if operation.endswith("-start") and kind != "all-reduce":
                    results = results[len(instruction.operands) :][: len(instruction.operands)]
                found = totals.collectives.setdefault(kind, Collective())
                found.runs += 1
                found.bytes += sum(shape.bytes for shape in results)
        totals.bytes += self._traffic(computation, instruction)

    def _shape(self, computation: str, name: str) -> Shape:
        return self.computations[computation][name].shapes[0]

    def _trips(self, instruction: Instruction) -> float:
        """Of a loop that counts from 0 up to a constant."""
        known = re.search(r"known_trip_count[^0-9]*(\d+)", instruction.text)
        if known:
            return int(known[1])
        condition = self.computations[instruction.called("condition")].values()
        constants = [
            int(match[1])
            for part in condition
            if part.operation == "constant" and (match := re.match(r"constant\((\d+)\)", part.text))
        ]
        compares = [part for part in condition if part.operation == "compare" or "compare" in part.text]
        if len(constants) == 1 and compares and "direction=LT" in compares[0].text:
            return constants[0]
        self.unknown_loops += 1
        return 1

    def _traffic(self, computation: str, instruction: Instruction) -> float:
        """Bytes that an instruction reads and writes in device memory."""
        operation = instruction.operation
        if operation in FREE or operation.endswith("-done") or operation.startswith("async-start"):
            return 0.0
        parts = self.computations[computation]
        operands = [parts[name] for name in instruction.operands if name in parts]
        if operation in SLICES:
            return 2 * sum(shape.memory_bytes for shape in instruction.shapes)
        if operation == "dynamic-update-slice":
            return 2 * sum(shape.memory_bytes for shape in operands[1].shapes)
        if operation == "copy-start":
            # Its results are the copy, the operand and a handle.
            return instruction.shapes[0].memory_bytes + sum(shape.memory_bytes for shape in operands[0].shapes)
        if operation == "slice-start":
            # Its results are the operand, the slice and a handle.
            piece, whole = instruction.shapes[1], operands[0].shapes[0]
            return piece.elements / whole.elements * whole.memory_bytes + piece.memory_bytes
        if operation != "fusion":
            arrays = [shape for part in (instruction, *operands) for shape in part.shapes]
            return sum(shape.memory_bytes for shape in arrays)
        called = instruction.called("calls")
        read = sum(self._read_bytes(called, number, operand.shapes) for number, operand in enumerate(operands))
        return read + self._written_bytes(called, instruction.shapes)

    def _read_bytes(self, computation: str, number: int, shapes: tuple[Shape, ...]) -> float:
        """Of a fusion's operand: the slices alone, where nothing else is read of it."""
        whole = sum(shape.memory_bytes for shape in shapes)
        parts = self.computations[computation]
        name = next(name for name, part in parts.items() if part.text.startswith(f"parameter({number})"))
        total = 0.0
        for user in parts.values():
            if name not in user.operands:
                continue
            if user.operation in SLICES and user.operands[0] == name:
                share = sum(shape.elements for shape in user.shapes) / shapes[0].elements
                total += share * whole
            elif user.operation == "dynamic-update-slice" and user.operands[0] == name:
                pass  # written in place, and counted there
            elif user.operation == "fusion":
                total += self._read_bytes(user.called("calls"), user.operands.index(name), shapes)
            elif user.operation == "bitcast":
                return min(whole, self._through_bitcast(parts, user, whole))
            else:
                return whole
        return min(whole, total)

    def _through_bitcast(self, parts: dict[str, Instruction], bitcast: Instruction, whole: float) -> float:
        users = [user for user in parts.values() if bitcast.name in user.operands]
        if users and all(user.operation in SLICES for user in users):
            return sum(user.shapes[0].elements for user in users) / bitcast.shapes[0].elements * whole
        return whole

    def _written_bytes(self, computation: str, shapes: tuple[Shape, ...]) -> float:
        """Of a fusion's results: the updates alone, where they are written into an operand."""
        parts = self.computations[computation]
        root = next(part for part in parts.values() if part.root)
        if root.operation == "fusion":
            return self._written_bytes(root.called("calls"), shapes)
        results = [parts[name] for name in root.operands] if root.operation == "tuple" else [root] * len(shapes)
        total = 0.0
        for result, shape in zip(results, shapes, strict=True):
            source = result
            while source.operation == "bitcast":
                source = parts[source.operands[0]]
            share = 1.0
            if source.operation == "dynamic-update-slice":
                share = parts[source.operands[1]].shapes[0].elements / source.shapes[0].elements
            total += share * shape.memory_bytes
        return total


def closing(text: str, opening: int) -> int:
    """Where the bracket that opens at `opening` closes."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"unbalanced: {text[:200]}")


def split_shape(text: str) -> tuple[str, str]:
    """ "f32[2]{0} add(...)" -> its shape, the rest."""
    end = closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def shapes_of(text: str) -> Iterator[Shape]:
    for dtype, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", text):
        yield Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), layout)


def dot_flops(instruction: Instruction, left: Shape, _: Shape) -> float:
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)[1]
    contracted = math.prod(left.sizes[int(axis)] for axis in axes.split(",") if axis)
    return 2.0 * instruction.shapes[0].elements * contracted


def convolution_flops(instruction: Instruction, left: Shape, right: Shape) -> float:
    """A multiply-add is two. On TPUs every product of matrices is a convolution; batch dimensions are spatial ones of
    dilated windows, of which only some places meet an element."""
    lhs, rhs, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text).groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    result = instruction.shapes[0]
    total = 2.0 * result.sizes[out.index("b")] * result.sizes[out.index("f")] * right.sizes[rhs.index("i")]
    spatial = sum(label.isdigit() for label in lhs)

    def values(name: str, default: str) -> list[str]:
        return settings[name].split("x") if name in settings else [default] * spatial

    for axis in range(spatial):
        size, stride = int(values("size", "1")[axis]), int(values("stride", "1")[axis])
        low = int(values("pad", "0_0")[axis].split("_")[0])
        left_dilation, right_dilation = (int(values(f"{side}_dilate", "1")[axis]) for side in ("lhs", "rhs"))
        extent = left.sizes[lhs.index(str(axis))]
        places = np.arange(result.sizes[out.index(str(axis))])[:, None] * stride - low
        places = places + np.arange(size)[None, :] * right_dilation
        meets = (places >= 0) & (places <= (extent - 1) * left_dilation) & (places % left_dilation == 0)
        total *= int(meets.sum())
    return total


# ---- what it says


def all_reduce_seconds(size: float, devices: int, links: float) -> float:
    return 2 * size * (devices - 1) / devices / (links * Assumptions().links)


def estimates(arguments: Arguments, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the compiled programs, and of the same sizes on GPUs, where attention needs no more than `model_flops` and one
    more product of the scores, and all-reduces are those of the programs."""
    import jax
    from jax.sharding import AbstractMesh

    from albert_jax.flops import PEAK_FLOPS
    from albert_jax.model import initialize
    from albert_jax.sharding import AXES

    assumed, found = Assumptions(), []
    for result in results:
        chip = CHIPS[result["topology"].split(":")[0]]
        summed = sum(value["bytes"] for value in result["collectives"].values())
        found.append(
            estimate(result, result["topology"], result["devices"], chip, result["memory_traffic_bytes"], summed)
        )
    for size in dict.fromkeys(result["size"] for result in results):
        result = next(result for result in results if result["size"] == size)
        for name, devices in (("H100 x 8", 8), ("H100 x 64", 64)):
            if result["batch_size"] % devices:
                continue
            mesh = AbstractMesh((devices, 1, 1), AXES)
            parts = least_parts(arguments, size, mesh, CHIPS[name].memory)
            model = recipe(arguments, size, parts).model
            params = jax.eval_shape(lambda model=model: initialize(model, jax.random.key(0)))
            scale = result["devices"] / devices
            tokens = result["batch_size"] * result["sequence_length"] / devices
            scaled = {key: result[key] * scale for key in ("product_flops", "kernel_flops", "model_flops")}
            traffic = assumed.gpu_bytes * tokens * model.hidden_size * model.num_hidden_layers
            scaled |= dict(peak_flops=PEAK_FLOPS["H100"], size=size, hidden_size=model.hidden_size, accumulation=parts)
            summed = reduced_bytes(params, parts, mesh, "bfloat16")
            found.append(estimate(result | scaled, name, devices, CHIPS[name], traffic, summed))
    return found


def estimate(
    result: dict[str, Any], machine: str, devices: int, chip: Chip, traffic: float, summed: float
) -> dict[str, Any]:
    """Seconds of a step and of 125,000 of them."""
    assumed = Assumptions()
    share = assumed.narrow_products if result["hidden_size"] < 1024 else assumed.products
    peak = result["peak_flops"]
    products = result["product_flops"] / (peak * share) + result["kernel_flops"] / (peak * assumed.attention)
    memory = (1 - assumed.hidden_traffic) * traffic / (chip.bandwidth * assumed.memory)
    if machine.startswith("H100"):
        memory /= 1 - assumed.hidden_traffic  # counted beside the products already
    links = all_reduce_seconds(summed, devices, chip.links)
    seconds = products + memory + links
    return dict(
        size=result["size"],
        machine=machine,
        devices=devices,
        accumulation=result["accumulation"],
        products_seconds=products,
        memory_seconds=memory,
        all_reduce_seconds=links,
        step_seconds=seconds,
        mfu=result["model_flops"] / (peak * seconds),
        hours_125k_steps=125_000 * seconds / 3600,
    )


def describe(result: dict[str, Any]) -> str:
    counted = result["product_flops"] + result["kernel_flops"]
    lines = [
        f"\n{result['size']} on {result['topology']}: {result['devices']} devices, mesh {result['mesh']}, accumulation "
        f"{result['accumulation']}, {result['compute']}; compiled in {result['compile_seconds']:.0f} s",
        f"  memory       {result['memory_bytes'] / 2**30:.2f} of {result['device_memory_bytes'] / 2**30:.0f} GiB",
        f"  FLOPs        {counted:.4g} on a device, of which kernels {result['kernel_flops']:.3g}; expected "
        f"{result['expected_flops']:.4g} ({counted / result['expected_flops'] - 1:+.2%})",
        f"  traffic      {result['memory_traffic_bytes']:.4g} bytes in device memory",
        f"  kernels      {result['kernels']}, expected {result['expected_kernels']} each",
    ]
    for name, value in result["collectives"].items():
        lines.append(
            f"  {name:<12} {value['runs']:g} runs, {value['bytes']:.4g} bytes: "
            f"{value['bytes'] / result['gradient_bytes']:.2f} x 4 bytes a parameter"
        )
    if result["expected_reduced_bytes"] is not None:
        lines.append(f"  expected     {result['expected_reduced_bytes']:.4g} bytes of all-reduces")
    if result["unknown_loops"]:
        lines.append(f"  {result['unknown_loops']} loops of unknown trip count, counted once")
    return "\n".join(lines)


def program_table(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    header = ("size", "topology", "accumulation", "memory GiB", "of", "FLOPs", "to expected", "kernel runs",
              "all-reduces", "bytes", "to expected", "to gradients", "others")  # fmt: skip
    rows = [header]
    for r in results:
        counted = r["product_flops"] + r["kernel_flops"]
        reduced = r["collectives"].get("all-reduce") or asdict(Collective())
        expected = r["expected_reduced_bytes"]
        others = sum(value["runs"] for name, value in r["collectives"].items() if name != "all-reduce")
        rows.append(
            (
                r["size"],
                r["topology"],
                str(r["accumulation"]),
                f"{r['memory_bytes'] / 2**30:.2f}",
                f"{r['device_memory_bytes'] / 2**30:.0f}",
                f"{counted:.3g}",
                f"{counted / r['expected_flops']:.3f}",
                " + ".join(f"{runs}" for runs in r["kernels"].values()) or "none",
                f"{reduced['runs']:g}",
                f"{reduced['bytes']:.3g}",
                f"{reduced['bytes'] / expected:.3f}" if expected else "",
                f"{reduced['bytes'] / r['gradient_bytes']:.2f}",
                f"{others:g}",
            )
        )
    return rows


def estimate_table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    header = ("size", "machine", "devices", "parts", "products", "memory", "all-reduce", "step", "MFU", "125k steps")
    return [
        header,
        *(
            (
                r["size"],
                r["machine"],
                str(r["devices"]),
                str(r["accumulation"]),
                f"{r['products_seconds']:.3f} s",
                f"{r['memory_seconds']:.3f} s",
                f"{r['all_reduce_seconds']:.4f} s",
                f"{r['step_seconds']:.3f} s",
                f"{r['mfu']:.1%}",
                f"{r['hours_125k_steps']:.1f} h",
            )
            for r in rows
        ),
    ]


if __name__ == "__main__":
    exit_cleanly(main)
