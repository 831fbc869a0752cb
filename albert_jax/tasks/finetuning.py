"""Fine-tuning put together from its parts: examples become batches on the mesh, and a model's outputs predictions.
`finetune.py` tells the story; this holds its nouns."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from albert_jax.config import AlbertConfig
from albert_jax.flops import training_flops_per_sequence
from albert_jax.inputs.batches import Shape, TrainingBatches, Units, packed_arrays, plan_shapes, stacked, whole_batches
from albert_jax.inputs.packing import PackedBatch, tokens_per_batch
from albert_jax.sharding import ROWS, place
from albert_jax.tasks.catalog import Predictions, Task
from albert_jax.tasks.config import FinetuneConfig
from albert_jax.tasks.heads import Split, forward
from albert_jax.tasks.squad import SquadFeature
from albert_jax.tokenizer import AlbertTokenizer

READ_AHEAD = 4
"""Batches that are made while the device computes."""
COMPILE_SECONDS = 10.0
"""What a further shape of a batch takes to be compiled, about."""
SPEED = {"cpu": 5e11, "gpu": 1e14, "tpu": 1e14}
"""Operations per second of a device, roughly, by JAX's name of its kind. Not measured, so that a run that is continued,
on whatever machine of the kind, makes the same batches."""
Reader = Callable[[Any, dict[str, jax.Array]], Any]
"""(parameters, batch of rows) -> what a head reads from the network's output."""


def first(examples: Sequence[Any], count: int | None) -> Sequence[Any]:
    return examples if count is None else examples[:count]


def shapes_for(
    units: Units, batch_size: int, steps: int, model: AlbertConfig, mesh: Mesh, accumulation: int = 1
) -> list[Shape]:
    """The shapes of a training's batches: no more than save time, each being a compilation."""
    length = float(units.lengths.mean())
    sequences = batch_size * len(units.lengths) / len(units)
    flops = steps * sequences * training_flops_per_sequence(model, round(length), 0)
    seconds = flops / (SPEED[mesh.devices.flat[0].platform] * mesh.size)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return plan_shapes(units, batch_size // accumulation, shards, model.hidden_size, COMPILE_SECONDS / seconds)


def training_batches(
    config: FinetuneConfig,
    mesh: Mesh,
    task: Task,
    train: Split,
    tokenizer: AlbertTokenizer,
    shapes: list[Shape],
    seed: int,
) -> TrainingBatches:
    return TrainingBatches(
        train.pairs,
        train.units(of_examples=task.head.draws_examples),
        batch_size=config.recipe.batch_size,
        accumulation=config.accumulation,
        shards=mesh.shape["data"] * mesh.shape["fsdp"],
        seed=seed,
        pad_id=tokenizer.pad_id,
        shapes=shapes,
    )


def batch_arrays(task: Task, train: Split, batches: TrainingBatches, step: int) -> dict[str, np.ndarray]:
    """What a step reads and learns, [accumulation, ...]."""
    head = task.head
    return stacked(
        [
            packed_arrays(part.packed)
            | (head.inputs(train, part.packed) if head.inputs else {})
            | head.targets(train, part)
            for part in batches(step)
        ]
    )


def ahead(make: Callable[[int], Any], start: int, stop: int) -> Iterator[Any]:
    """`make(step)` of each step, some of them made in advance by a thread."""
    with ThreadPoolExecutor(1) as thread:
        steps = iter(range(start, stop))
        waiting = deque(thread.submit(make, step) for step in islice(steps, READ_AHEAD))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(thread.submit(make, step) for step in islice(steps, 1))
                yield made
        finally:
            thread.shutdown(cancel_futures=True)


def compile_reader(task: Task, model: AlbertConfig, config: FinetuneConfig, mesh: Mesh, shardings: Any) -> Reader:
    """What the head reads from the network's output, whole on every device."""

    def read(params: Any, batch: dict[str, jax.Array]) -> Any:
        return task.head.read(forward(task.head, model, config.compute, params, batch), batch)

    return jax.jit(read, in_shardings=(shardings, NamedSharding(mesh, ROWS)), out_shardings=NamedSharding(mesh, P()))


def predict(task: Task, mesh: Mesh, reader: Reader, params: Any, split: Split, pad_id: int) -> Predictions:
    """What the model says about every example of a split."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    tokens = shards * tokens_per_batch(jax.default_backend())
    found: list[Any] = [None] * len(split.sequences)

    def collect(packed: PackedBatch, outputs: Any) -> None:
        for index, output in task.head.of_sequences(packed, jax.device_get(outputs)):
            found[index] = output

    before = None
    for packed in whole_batches(split.pairs, tokens, shards, pad_id):
        arrays = packed_arrays(packed) | (task.head.inputs(split, packed) if task.head.inputs else {})
        outputs = reader(params, place(arrays, mesh, ROWS))
        if before is not None:
            collect(*before)  # while the device computes the next
        before = packed, outputs
    if before is not None:
        collect(*before)
    return task.head.of_examples(split, found)


def truncation(split: Split) -> str:
    return f"{split.truncated:,} ({split.truncated / len(split):.1%}) truncated"


def percentages(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_thresh")}


def thresholds(metrics: dict[str, float]) -> dict[str, float]:
    """Of null odds, above which a question of SQuAD 2.0 has no answer."""
    return {name: value for name, value in metrics.items() if name.endswith("_thresh")}


def fingerprint(split: Split) -> str:
    """SHA-256 over what is learnt from: the ids of every sequence, and what they are to learn."""
    digest = hashlib.sha256()
    for sequence in split.sequences:
        digest.update(sequence.input_ids.tobytes())
        targets = (sequence.start, sequence.end) if isinstance(sequence, SquadFeature) else sequence.labels
        digest.update(np.asarray(-1 if targets is None else targets, np.int64).tobytes())
    digest.update(repr([getattr(example, "label", None) for example in split.examples]).encode())
    return digest.hexdigest()


def weights_fingerprint(parameters: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over arrays, by their names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(parameters[name]).data)
    return digest.hexdigest()
