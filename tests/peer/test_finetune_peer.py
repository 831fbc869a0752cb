"""Fine-tuning beside torch: the same model, batches and optimizer for twenty steps, ours packed, transformers' padded,
and the losses are the same.

Losses are transformers' own but one: that of question answering has padding compete in the softmax, as Google's has,
which ours does not. So its windows are of one length where transformers computes it, and where they are not, the test
computes it from transformers' logits without padding."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import albert_jax
from albert_jax.config import AlbertConfig, ComputeConfig, MeshConfig, OptimizerConfig
from albert_jax.inputs.batches import Shape, TrainingBatches, multiple, packed_arrays, stacked
from albert_jax.optim import learning_rate, make_optimizer
from albert_jax.sharding import BATCH, make_mesh, place
from albert_jax.tasks.examples import IGNORED, ChoiceExample, TaggingExample, TaskSequence, TextExample
from albert_jax.tasks.heads import (
    Head,
    Split,
    choice_head,
    classification_head,
    objective,
    regression_head,
    span_head,
    tagging_head,
)
from albert_jax.tasks.squad import SquadExample, SquadFeature
from albert_jax.train import compile_train_step, create_state, zero_sums

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

LONGEST = 30
MODEL = AlbertConfig(
    vocab_size=61,
    embedding_size=8,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=LONGEST,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    classifier_dropout_prob=0.0,
    initializer_range=0.2,  # so that every token matters
)
STEPS, BATCH_SIZE, EXAMPLES = 20, 8, 24
OPTIMIZER = OptimizerConfig("adamw", peak_learning_rate=1e-3, warmup_steps=4, weight_decay=0.01, max_gradient_norm=1.0)


class Kind(NamedTuple):
    """What is learnt, with the labels that transformers is given for each unit."""

    head: Head
    split: Split
    labels: dict[str, np.ndarray]
    num_labels: int = 2
    problem_type: str | None = None
    choices: int = 1
    own_loss: bool = True
    """transformers' own loss, not the test's"""


def text_sequences(count, *, each=1):
    """Of 4 to 30 ids and both segments; `each` for an example."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(count * each):
        length = int(rng.integers(4, LONGEST + 1))
        ids = np.array([2, *rng.integers(5, 61, length - 2), 3], np.uint16)
        found.append(TaskSequence(number // each, ids, int(rng.integers(2, length))))
    return found


def classification() -> Kind:
    labels = np.random.default_rng(2).integers(0, 3, EXAMPLES)
    examples = [TextExample(str(i), "", None, int(label)) for i, label in enumerate(labels)]
    split = Split("train", examples, text_sequences(EXAMPLES), 0)
    return Kind(classification_head(), split, {"labels": labels}, 3, "single_label_classification")


def regression() -> Kind:
    labels = np.random.default_rng(2).uniform(0, 5, EXAMPLES).astype(np.float32)
    examples = [TextExample(str(i), "", None, float(label)) for i, label in enumerate(labels)]
    split = Split("train", examples, text_sequences(EXAMPLES), 0)
    return Kind(regression_head(), split, {"labels": labels}, 1, "regression")


def tagging() -> Kind:
    """About half of the pieces begin a word."""
    rng = np.random.default_rng(2)
    sequences, labels = [], np.full((EXAMPLES, LONGEST), IGNORED, np.int64)
    for row, sequence in zip(labels, text_sequences(EXAMPLES), strict=True):
        length = len(sequence)
        starts = np.unique([1, *np.flatnonzero(rng.random(length - 1) < 0.5)[1:]]).astype(np.int32)
        row[starts] = rng.integers(0, 4, len(starts))
        sequences.append(
            TaskSequence(sequence.example, sequence.input_ids, length, starts, 0, row[:length].astype(np.int32))
        )
    examples = [TaggingExample(str(i), ("word",) * len(s.word_starts), None) for i, s in enumerate(sequences)]
    labels = labels[:, : max(len(s) for s in sequences)]
    return Kind(tagging_head(), Split("train", examples, sequences, 0), {"labels": labels}, 4)


def choice() -> Kind:
    labels = np.random.default_rng(2).integers(0, 4, EXAMPLES)
    examples = [ChoiceExample(str(i), "", "", ("",) * 4, int(label)) for i, label in enumerate(labels)]
    sequences = text_sequences(EXAMPLES, each=4)
    return Kind(choice_head(4), Split("train", examples, sequences, 0), {"labels": labels}, choices=4)


def question_answering(*, one_length: bool) -> Kind:
    rng = np.random.default_rng(2)
    features = []
    for number in range(EXAMPLES):
        length = LONGEST // 2 if one_length else int(rng.integers(10, LONGEST + 1))
        first = int(rng.integers(3, 7))
        ids = np.array([2, *rng.integers(5, 61, length - 2), 3], np.uint16)
        start, end = sorted(rng.integers(first, length - 1, 2).tolist()) if number % 4 else (0, 0)
        offsets, context = np.zeros((length - 1 - first, 2), np.int32), np.ones(length - 1 - first, bool)
        features.append(SquadFeature(number, ids, first, offsets, context, start, end, not start, 0))
    examples = [SquadExample(str(i), "", "", "", (), False) for i in range(EXAMPLES)]
    labels = {f"{side}_positions": np.array([getattr(f, side) for f in features]) for side in ("start", "end")}
    return Kind(span_head(no_answer=True), Split("train", examples, features, 0), labels, own_loss=one_length)


KINDS = {
    "classification": classification,
    "regression": regression,
    "tagging": tagging,
    "choice": choice,
    "windows of one length": partial(question_answering, one_length=True),
    "windows without padding": partial(question_answering, one_length=False),
}


def batches_of(kind: Kind, shards: int) -> TrainingBatches:
    units = kind.split.units(of_examples=kind.head.draws_examples)
    return TrainingBatches(
        kind.split.pairs,
        units,
        batch_size=BATCH_SIZE,
        accumulation=1,
        shards=shards,
        seed=7,
        pad_id=0,
        # One, for one compilation, in whose rows any two sequences fit.
        shapes=[Shape(multiple(BATCH_SIZE * kind.choices // 2, shards), 2 * LONGEST, 4)],
    )


def train_ours(kind: Kind, model: Any) -> list[float]:
    mesh = make_mesh(MeshConfig())
    batches = batches_of(kind, mesh.shape["data"])
    hosts = [
        stacked([packed_arrays(part.packed) | kind.head.targets(kind.split, part) for part in batches(step)])
        for step in range(STEPS)
    ]
    assert max(host["attention_mask"].max() for host in hosts) > 1, "rows of several sequences"
    aim = objective(kind.head, model.config, ComputeConfig("float32", "none"))
    assert not aim.random
    optimizer = make_optimizer(OPTIMIZER, STEPS)
    with jax.set_mesh(mesh):
        create, _, shardings = create_state(
            lambda: model.params, optimizer, lambda params: zero_sums(aim, params, hosts[0]), mesh, model.config
        )
        step = compile_train_step(aim, optimizer, mesh, shardings)
        state, losses = create(), []
        for host in hosts:
            state, outcome = step(state, place(host, mesh, BATCH), 0)
            losses.append(float(outcome.loss))
    return losses


def padded_rows(kind: Kind) -> dict[str, np.ndarray]:
    """Every unit's inputs [units, L], or [units, choices, L]."""
    shape = len(kind.split.sequences), max(len(sequence.input_ids) for sequence in kind.split.sequences)
    names = "input_ids", "token_type_ids", "attention_mask"
    rows = {name: np.zeros(shape, np.int64) for name in names}
    for number, sequence in enumerate(kind.split.sequences):
        length = len(sequence.input_ids)
        values = sequence.input_ids, sequence.token_type_ids, np.ones(length)
        for name, value in zip(names, values, strict=True):
            rows[name][number, :length] = value
    if kind.choices > 1:
        rows = {name: array.reshape(-1, kind.choices, shape[1]) for name, array in rows.items()}
    return rows


def loss_without_padding(output, batch):
    """The mean over both sides, as transformers has it, but of tokens only."""
    losses = []
    for side in ("start", "end"):
        logits = output[f"{side}_logits"].masked_fill(batch["attention_mask"] == 0, float("-inf"))
        losses.append(torch.nn.functional.cross_entropy(logits, batch[f"{side}_positions"]))
    return sum(losses) / 2


class GooglesAdamW:
    """optimization.py in torch: clipping to a global norm, no bias correction, no decay of LayerNorm and biases."""

    def __init__(self, model):
        self.parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters}

    @torch.no_grad()
    def update(self, rate: float) -> None:
        used = [(name, p) for name, p in self.parameters if p.grad is not None]
        norm = torch.sqrt(sum((p.grad**2).sum() for _, p in used))
        scale = 1.0 / max(float(norm), 1.0)
        for name, p in used:
            gradient, (first, second) = p.grad * scale, self.moments[name]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            direction = first / (second.sqrt() + 1e-6)
            if not ("LayerNorm" in name or "layer_norm" in name or name.endswith("bias")):
                direction += 0.01 * p
            p.sub_(rate * direction)
            p.grad = None


def rate_of(step: int) -> float:
    """Linear warm-up over 4 steps, then a linear decay that counts from step 0."""
    return 1e-3 * (step / 4 if step < 4 else 1 - step / STEPS)


def train_theirs(kind: Kind, model: Any, drawn: list[np.ndarray]) -> list[float]:
    rows = padded_rows(kind) | kind.labels
    model.train()
    optimizer, losses = GooglesAdamW(model), []
    for step, units in enumerate(drawn):
        batch = {name: torch.tensor(array[units]) for name, array in rows.items()}
        output = model(**batch)
        loss = output.loss if kind.own_loss else loss_without_padding(output, batch)
        loss.backward()
        optimizer.update(rate_of(step))
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", KINDS)
def test_twenty_steps_of_fine_tuning_have_torchs_losses(tmp_path, name):
    kind = KINDS[name]()
    cls = getattr(albert_jax, kind.head.model)
    ours = cls.from_config(MODEL, labels=kind.num_labels, seed=3)
    ours.problem_type = kind.problem_type
    ours.save_pretrained(tmp_path)
    theirs = getattr(transformers, kind.head.model).from_pretrained(tmp_path)
    assert all(module.p == 0 for module in theirs.modules() if isinstance(module, torch.nn.Dropout))

    batches = batches_of(kind, 1)
    expected = train_theirs(kind, theirs, [batches.units(step) for step in range(STEPS)])
    assert max(expected) - min(expected) > 0.1, "the losses move"
    assert expected[-1] < 0.9 * expected[0]
    np.testing.assert_allclose(train_ours(kind, ours), expected, rtol=1e-5)


def test_the_learning_rates_of_both_sides_are_the_same():
    rate = learning_rate(OPTIMIZER, STEPS)
    np.testing.assert_allclose([rate(step) for step in range(STEPS)], [rate_of(s) for s in range(STEPS)], rtol=1e-6)
