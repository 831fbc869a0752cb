"""A real training step on synthetic batches, which train_step.py, parts.py, startup.py and gpu.py measure: everything
comes from the functions that pretrain.py calls, so what these become is what is measured."""

import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from input_pipeline import SyntheticVocabulary
from jax.sharding import AxisType, Mesh
from sides import cores

from albert_jax.config import AlbertConfig, ComputeConfig, DataConfig, OptimizerConfig, albert_config
from albert_jax.errors import UserError
from albert_jax.inputs.corpus import ShardWriter, open_corpus, write_manifest
from albert_jax.inputs.pipeline import PretrainingBatches
from albert_jax.inputs.segments import SPECIAL_TOKENS
from albert_jax.model import initialize
from albert_jax.optim import make_optimizer
from albert_jax.sharding import AXES, BATCH, place
from albert_jax.tasks.pretraining import device_fields, pretraining_objective
from albert_jax.train import Objective, TrainState, compile_train_step, create_state, random_key, zero_sums

TINY = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
"""A network to try a script with; its speed says nothing."""

STEPS = 1_000_000
"""Of the run that a measured step belongs to: its learning rate stays what it is."""


# ---- what is trained


def network(size: str) -> AlbertConfig:
    """ALBERT v2 of that size, without any dropout."""
    config = AlbertConfig(**TINY) if size == "tiny" else albert_config(size, 2)
    return dataclasses.replace(config, classifier_dropout_prob=0.0)


def compute_settings(dtype: str, attention: tuple[str, ...], remat: tuple[str, ...]) -> dict[str, ComputeConfig]:
    """Name -> settings, for every combination; the package's default where nothing is asked for. Raises `UserError` for
    what it does not have."""
    settings = {}
    for kind in attention or (ComputeConfig.attention,):
        for policy in remat or (ComputeConfig.remat,):
            compute = ComputeConfig(dtype=dtype, remat=policy, attention=kind)
            settings[f"remat {policy}, attention {kind}"] = compute
    return settings


def one_device_mesh(device: jax.Device | None = None) -> Mesh:
    return Mesh(np.array([device or jax.devices()[0]]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


@dataclass(frozen=True)
class Training:
    """Steps on one batch, on one device. To be used under `jax.set_mesh(mesh)`."""

    objective: Objective
    mesh: Mesh
    create: Callable[[], TrainState]
    step: Callable[[TrainState, dict[str, jax.Array], int], tuple[TrainState, jax.Array]]
    """jitted; the state passed in is consumed"""
    batch: dict[str, jax.Array]

    def compile(self) -> tuple[Callable, float]:
        """The step compiled ahead, and the seconds that took."""
        state = jax.eval_shape(self.create)
        start = time.perf_counter()
        compiled = self.step.lower(state, self.batch, 0).compile()
        return compiled, time.perf_counter() - start


def training(
    model: AlbertConfig,
    compute: ComputeConfig,
    arrays: dict[str, np.ndarray],
    accumulation: int,
    params: Any = None,
    optimizer: OptimizerConfig | None = None,
    mesh: Mesh | None = None,
) -> Training:
    """The step with LAMB on `arrays` [sequences, ...], a part of them at a time; from `params`, or from scratch."""
    mesh = mesh or one_device_mesh()
    transformation = make_optimizer(optimizer or OptimizerConfig(warmup_steps=STEPS // 40), STEPS)
    objective = pretraining_objective(model, compute)
    parts = {
        name: array.reshape(accumulation, len(array) // accumulation, *array.shape[1:])
        for name, array in arrays.items()
    }
    with jax.set_mesh(mesh):
        create, _, shardings = create_state(
            lambda: initialize(model, random_key(0)) if params is None else jax.tree.map(jnp.asarray, params),
            transformation,
            lambda weights: zero_sums(objective, weights, parts),
            mesh,
            model,
        )
        step = compile_train_step(objective, transformation, mesh, shardings)
        return Training(objective, mesh, create, step, place(parts, mesh, BATCH))


# ---- what it is trained on


def synthetic_batch(sequences: int, length: int, seed: int = 0, packed: bool = False) -> dict[str, np.ndarray]:
    """Arrays [sequences, ...] as pretraining makes them from text: two segments that fill the row, 15 % of the tokens
    to be predicted, as many in each row, of which most are [MASK]. Pieces are random, as frequent as Zipf's law has
    them. `packed` are the same with the arrays of rows that could hold several sequences."""
    config = DataConfig(("synthetic",), "", short_sequence_probability=0.0, pack_sequences=packed)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "corpus"
        _write_corpus(directory, max(4 * sequences, 64), length - SPECIAL_TOKENS, seed)
        corpus = open_corpus(directory, "train", tokenizer_fingerprint=SyntheticVocabulary.fingerprint, verify=False)
        batches = PretrainingBatches(
            corpus, SyntheticVocabulary(), config, sequence_length=length, batch_size=max(4 * sequences, 64), seed=seed
        )
        found = batches.batch(0)
    # As many predictions in each row, so that a mean of means is the mean.
    arrays = device_fields(found)
    counts = arrays["masked_lm_weights"].sum(axis=1)
    full = (arrays["attention_mask"] != 0).all(axis=1)
    usual = np.bincount(counts[full].astype(int)).argmax() if full.any() else 0
    rows = np.flatnonzero(full & (counts == usual))[:sequences]
    if len(rows) < sequences:
        raise UserError(f"length = {length}: only {len(rows)} of {len(counts)} synthetic rows are full; try another")
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def _write_corpus(directory: Path, rows: int, capacity: int, seed: int) -> None:
    """A corpus whose sentences end where rows end."""
    directory.mkdir()
    generator = np.random.default_rng(seed)
    vocabulary = SyntheticVocabulary.vocab_size
    writer = ShardWriter(directory, "train-00000")
    for _ in range(-(-rows // 8)):
        lengths = np.concatenate([_sentences(generator, capacity) for _ in range(8)])
        uniform = generator.random(lengths.sum())
        ids = 4 + np.exp(uniform * np.log(vocabulary - 5)).astype(int)
        writer.append(ids, lengths, np.array([len(lengths)]))
    write_manifest(
        directory,
        shards={"train": [writer.close()], "held_out": []},
        documents_left_out=0,
        tokenizer={"fingerprint": SyntheticVocabulary.fingerprint, "vocab_size": vocabulary},
        build={},
    )


def _sentences(generator: np.random.Generator, capacity: int) -> np.ndarray:
    """Lengths of sentences of some 27 tokens that add up to `capacity`."""
    count = max(2, capacity // 27)
    ends = np.sort(generator.choice(np.arange(1, capacity), count - 1, replace=False))
    return np.diff(np.concatenate([[0], ends, [capacity]]))


# ---- how it is measured


def seconds_per_call(function: Callable[[], Any], budget: float, at_least: int = 1) -> tuple[float, float]:
    """(seconds, process CPU seconds) of a call, over calls for about `budget` seconds, sent off one after the other as
    a loop would. `function` returns arrays to wait for, and has been called before."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    once = time.perf_counter() - start
    count = max(at_least, min(1000, int(budget / max(once, 1e-6))))
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(count):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count


def product_shapes(config: AlbertConfig, tokens: int, gpu: bool) -> Iterator[tuple[int, int, int]]:
    """(rows, inner, columns) of a few square products, and of the network's largest and their gradients'."""
    for size in (4096, 8192) if gpu else (512, 1024, 2048):
        yield size, size, size
    # More rows are no faster.
    tokens = min(tokens, 32_768 if gpu else 1024)
    hidden, wide = config.hidden_size, config.intermediate_size
    yield tokens, hidden, hidden
    yield tokens, hidden, wide
    yield tokens, wide, hidden
    yield hidden, tokens, wide


def matmul_ceiling(config: AlbertConfig, tokens: int, dtype: str, budget: float) -> tuple[float, str]:
    """The most operations per second of any of `product_shapes`, and of which."""
    best = 0.0, ""
    product = jax.jit(jnp.matmul)
    gpu = jax.devices()[0].platform == "gpu"
    for rows, inner, columns in product_shapes(config, tokens, gpu):
        one, other = (jax.random.normal(jax.random.key(0), shape, dtype) for shape in ((rows, inner), (inner, columns)))
        jax.block_until_ready(product(one, other))
        seconds, _ = seconds_per_call(lambda one=one, other=other: product(one, other), budget, at_least=3)
        best = max(best, (2 * rows * inner * columns / seconds, f"{rows} x {inner} x {columns}"))
    return best


def copy_bandwidth(budget: float, megabytes: int) -> float:
    """Bytes read and written per second by a function that adds 1 to a large array."""
    array = jnp.zeros(megabytes * 2**18, jnp.float32)
    # In its own memory: else a CPU spends its time on pages that are new.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def advance() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    jax.block_until_ready(advance())
    seconds, _ = seconds_per_call(advance, budget, at_least=3)
    return 2 * array.nbytes / seconds


def reset_peak_memory() -> None:
    """The process's peak counts from here on, where the kernel lets it be reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory() -> int:
    """Bytes: the process's own, since the reset where that is known."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def about() -> str:
    device = jax.devices()[0]
    number = f", {cores()} cores" if device.platform == "cpu" else ""
    return f"jax {jax.__version__}, {device.device_kind}{number}"
