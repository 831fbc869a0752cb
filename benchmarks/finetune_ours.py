"""Our side of benchmarks/finetune.py: `finetune_ours.py FOLDER float32|bfloat16 cpu|gpu`, with the parts that the
finetune.py beside the package trains with."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from albert_jax.config import ComputeConfig, MeshConfig, OptimizerConfig
from albert_jax.inputs.batches import TrainingBatches, Units
from albert_jax.memory import keep_freed_memory
from albert_jax.optim import make_optimizer
from albert_jax.pretrained import CLASSES
from albert_jax.sharding import BATCH, make_mesh, place
from albert_jax.tasks.finetuning import ahead, batch_arrays, shapes_for
from albert_jax.tasks.heads import Split, classification_head, objective, span_head
from albert_jax.train import compile_train_step, create_state, initial_state, zero_sums

folder, dtype, device = Path(sys.argv[1]), *sys.argv[2:4]
job = SimpleNamespace(**json.loads((folder / "job.json").read_text()))
data = {name: array for name, array in np.load(folder / "data.npz").items()}
steps = data["draws"].shape[1] // job.batch_size

head = classification_head() if job.kind == "classification" else span_head(no_answer=False)
model = CLASSES[head.model].from_pretrained(folder / "model", verbose=False)
compute = ComputeConfig(dtype=dtype, remat="matmuls")
keep_freed_memory()
mesh = make_mesh(MeshConfig())


def split_of(draw: np.ndarray) -> Split:
    """The sequences of a pass, as the readers of finetune.py give them."""
    examples, sequences = [], []
    for number, index in enumerate(draw):
        ids = data["input_ids"][data["offsets"][index] : data["offsets"][index + 1]]
        types = (np.arange(len(ids)) >= data["first"][index]).astype(np.uint8)
        sequence = SimpleNamespace(example=number, input_ids=ids, token_type_ids=types)
        if job.kind == "classification":
            examples.append(SimpleNamespace(label=int(data["labels"][index])))
        else:
            examples.append(None)
            sequence.start, sequence.end = int(data["starts"][index]), int(data["ends"][index])
            sequence.is_impossible = sequence.start == 0
        sequences.append(sequence)
    return Split("train", examples, sequences, 0)


task = SimpleNamespace(head=head)
lengths = np.diff(data["offsets"])
pool = Units(lengths, np.arange(len(lengths) + 1))
shapes = shapes_for(pool, job.batch_size, job.recipe_steps, model.config, mesh)
splits = [split_of(draw) for draw in data["draws"]]


def maker(number: int):
    """step -> arrays of the batch, of a pass."""
    split = splits[number]
    batches = TrainingBatches(
        split.pairs,
        split.units(of_examples=True),
        batch_size=job.batch_size,
        accumulation=1,
        shards=mesh.size,
        seed=number,
        pad_id=job.pad_id,
        shapes=shapes,
    )
    return lambda step: batch_arrays(task, split, batches, step)


with jax.set_mesh(mesh):
    optimizer = make_optimizer(
        OptimizerConfig(
            name="adamw",
            peak_learning_rate=job.learning_rate,
            warmup_steps=job.warmup_steps,
            weight_decay=job.weight_decay,
            beta_1=job.beta_1,
            beta_2=job.beta_2,
            epsilon=job.epsilon,
            max_gradient_norm=job.clip_norm,
        ),
        steps,
    )
    aim = objective(head, model.config, compute)
    shape = jax.eval_shape(lambda: maker(0)(0))
    _, _, shardings = create_state(
        lambda: model.params, optimizer, lambda params: zero_sums(aim, params, shape), mesh, model.config
    )
    train_step = compile_train_step(aim, optimizer, mesh, shardings)
    fresh = jax.jit(
        lambda params: initial_state(params, optimizer, zero_sums(aim, params, shape)),
        out_shardings=shardings,
    )

    def run(number: int) -> dict:
        make = maker(number)
        state = fresh(model.params)
        jax.block_until_ready(state)
        places, before = 0, None
        start = time.perf_counter()
        for batch in ahead(make, 0, steps):
            places += batch["input_ids"].size
            state, outcome = train_step(state, place(batch, mesh, BATCH), number)
            if before is not None:
                before.block_until_ready()
            before = outcome.loss
        sums = {name: float(value) for name, value in jax.device_get(state.sums).items()}
        return dict(
            seconds=time.perf_counter() - start,
            loss=sums["loss"] / sums["weight"],
            steps=int(sums["steps"]),
            examples=len(splits[number]),
            tokens=int(sum(len(sequence.input_ids) for sequence in splits[number].sequences)),
            places=places,
        )

    def compile_all() -> None:
        """One step in every shape that any pass has."""
        seen = set()
        for number in range(len(splits)):
            make = maker(number)
            for batch in map(make, range(steps)):
                if batch["input_ids"].shape not in seen:
                    seen.add(batch["input_ids"].shape)
                    jax.block_until_ready(train_step(fresh(model.params), place(batch, mesh, BATCH), 0))

    planned = ", ".join(f"{shape.rows} x {shape.length}" for shape in shapes)
    about = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, rows {planned}"
    print(json.dumps({"about": about, "settings": ["packed"], "skipped": {}}), flush=True)
    for line in sys.stdin:
        number = json.loads(line)["pass"]
        if number == 0:
            compile_all()
        print(json.dumps(run(number)), flush=True)
