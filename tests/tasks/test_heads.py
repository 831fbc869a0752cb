"""Every kind of fine-tuning on packed rows is what it is plainly, with one sequence in a row: loss, gradients, training
on any mesh in any number of parts, and predictions.

The plain side lays all sequences of a split into rows of their own, under a bool mask, and states each loss anew; how
often a step has an example is the example's weight."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from albert_jax import model as networks
from albert_jax.config import AlbertConfig, ComputeConfig, MeshConfig, OptimizerConfig
from albert_jax.inputs.batches import Shape, TrainingBatches
from albert_jax.model import apply, initialize
from albert_jax.optim import make_optimizer
from albert_jax.sharding import BATCH, make_mesh, named, parameter_specs, place
from albert_jax.tasks.catalog import Task, open_task
from albert_jax.tasks.config import FinetuneConfig
from albert_jax.tasks.examples import IGNORED, ChoiceExample, TaggingExample, TaskSequence, TextExample
from albert_jax.tasks.finetuning import batch_arrays, compile_reader, predict
from albert_jax.tasks.heads import (
    Head,
    Split,
    beam_head,
    choice_head,
    classification_head,
    multi_label_head,
    objective,
    regression_head,
    span_head,
    tagging_head,
)
from albert_jax.tasks.squad import BeamScores, GoldAnswer, SquadExample, SquadFeature, beam_answers, plain_answers
from albert_jax.train import compile_train_step, create_state, zero_sums

LONGEST = 40
MODEL = AlbertConfig(
    vocab_size=96,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    classifier_dropout_prob=0.0,
    max_position_embeddings=LONGEST,
    initializer_range=0.2,  # so that every token matters
)
COMPUTE = ComputeConfig("float32", "none")
BATCH_SIZE, STEPS = 32, 10
EXAMPLES = 64
"""Two batches: none reaches over an epoch's end but for the heads that draw sequences."""


# ---- made-up examples, and their loss without packing


class Kind(NamedTuple):
    """A head, what it learns from, and what both are compared with."""

    head: Head
    split: Split
    loss: Callable[[Any, jax.Array], jax.Array]
    """(parameters, weight of each unit) -> mean loss"""
    predictions: Callable[[Any], Any]
    num_labels: int | None = None
    """of networks that have any"""


def random_ids(rng, length):
    return np.array([2, *rng.integers(5, 96, length - 2), 3], np.uint16)


def text_sequences(rng, owners):
    """One sequence for each of `owners`, of 3 to 40 ids, some of two segments."""
    found = []
    for owner in owners:
        length = int(rng.integers(3, LONGEST + 1))
        found.append(TaskSequence(int(owner), random_ids(rng, length), int(rng.integers(2, length + 1))))
    return found


def in_rows(sequences):
    """Ids, segments and mask [N, L], one sequence in a row."""

    def padded(arrays, dtype):
        return jnp.asarray(np.stack([np.pad(a, (0, LONGEST - len(a))) for a in arrays]).astype(dtype))

    return (
        padded([s.input_ids for s in sequences], np.int32),
        padded([s.token_type_ids for s in sequences], np.int32),
        padded([np.ones(len(s.input_ids)) for s in sequences], bool),
    )


def log_softmax(logits, allowed=True):
    logits = jnp.where(allowed, logits, -jnp.inf)
    return logits - jnp.log(jnp.sum(jnp.exp(logits), axis=-1, keepdims=True))


def plain_loss(network, inputs, losses):
    """The mean of `losses(output)`, one for each unit, by the units' weights."""

    def loss(params, weights, **settings):
        values = losses(apply(MODEL, params, *inputs, network=network, **settings))
        return jnp.sum(weights * values) / jnp.sum(weights)

    return loss


def texts(head: Head, labels, losses, read, num_labels: int) -> Kind:
    examples = [TextExample(str(i), "", None, label) for i, label in enumerate(labels)]
    sequences = text_sequences(np.random.default_rng(1), range(len(labels)))
    inputs, network = in_rows(sequences), networks.AlbertForSequenceClassification
    return Kind(
        head,
        Split("train", examples, sequences, 0),
        plain_loss(network, inputs, lambda output: losses(output.logits)),
        lambda params: read(np.asarray(apply(MODEL, params, *inputs, network=network).logits)),
        num_labels,
    )


def classification() -> Kind:
    labels = np.random.default_rng(2).integers(0, 3, EXAMPLES)

    def losses(logits):
        return -log_softmax(logits)[np.arange(EXAMPLES), labels]

    return texts(classification_head(), labels.tolist(), losses, lambda logits: logits, num_labels=3)


def regression() -> Kind:
    labels = np.random.default_rng(2).uniform(0, 5, EXAMPLES)

    def losses(logits):
        return (logits[:, 0] - labels.astype(np.float32)) ** 2

    return texts(regression_head(), labels.tolist(), losses, lambda logits: logits[:, 0], num_labels=1)


def multi_label() -> Kind:
    holds = np.random.default_rng(2).random((EXAMPLES, 5)) < 0.4
    assert not holds.any(1).all(), "some example has no label"

    def losses(logits):
        shares = 1 / (1 + jnp.exp(-logits))
        return -jnp.where(holds, jnp.log(shares), jnp.log(1 - shares)).mean(1)

    labels = [tuple(np.flatnonzero(row).tolist()) for row in holds]
    return texts(multi_label_head(5), labels, losses, lambda logits: logits, num_labels=5)


def choice() -> Kind:
    """Two to four choices, against the network that has them side by side."""
    rng = np.random.default_rng(1)
    counts = rng.integers(2, 5, EXAMPLES)
    labels = np.array([rng.integers(0, count) for count in counts])
    examples = [
        ChoiceExample(str(i), "", "", ("",) * int(n), int(label))
        for i, (n, label) in enumerate(zip(counts, labels, strict=True))
    ]
    sequences = text_sequences(rng, np.repeat(np.arange(EXAMPLES), counts))
    exists = np.arange(4) < counts[:, None]
    which = np.where(exists, np.cumsum(counts)[:, None] - counts[:, None] + np.arange(4), 0)
    inputs = tuple(array[which] for array in in_rows(sequences))
    network = networks.AlbertForMultipleChoice

    def losses(output):
        return -log_softmax(output.logits, exists)[np.arange(EXAMPLES), labels]

    def predictions(params):
        logits = np.asarray(apply(MODEL, params, *inputs, network=network).logits)
        return [row[:count] for row, count in zip(logits, counts, strict=True)]

    split = Split("train", examples, sequences, 0)
    return Kind(choice_head(4), split, plain_loss(network, inputs, losses), predictions, 1)


def tagging() -> Kind:
    """Words of one or two pieces; every third sentence in two sequences; 5 tags. Unlike the others, what is weighed
    equally is not units but words."""
    rng = np.random.default_rng(1)
    examples, sequences = [], []
    for number in range(40):
        words = 0
        for _ in range(2 if number % 3 == 0 else 1):
            starts = 1 + np.cumsum([0, *rng.integers(1, 3, rng.integers(0, 18))]).astype(np.int32)
            ids = random_ids(rng, starts[-1] + 2)
            labels = np.full(len(ids), IGNORED, np.int32)
            labels[starts] = rng.integers(0, 5, len(starts))
            sequences.append(TaskSequence(number, ids, len(ids), starts, words, labels))
            words += len(starts)
        examples.append(TaggingExample(str(number), ("word",) * words, None))
    inputs, network = in_rows(sequences), networks.AlbertForTokenClassification
    wanted = np.stack([np.pad(s.labels, (0, LONGEST - len(s.labels)), constant_values=IGNORED) for s in sequences])
    judged = wanted != IGNORED

    def loss(params, weights):
        shares = log_softmax(apply(MODEL, params, *inputs, network=network).logits)
        losses = -jnp.take_along_axis(shares, np.where(judged, wanted, 0)[..., None], axis=-1)[..., 0]
        words = weights[:, None] * judged
        return jnp.sum(words * losses) / jnp.sum(words)

    def predictions(params):
        best = np.asarray(apply(MODEL, params, *inputs, network=network).logits).argmax(-1)
        found = [[] for _ in examples]
        for sequence, row in zip(sequences, best, strict=True):
            found[sequence.example] += row[sequence.word_starts].tolist()
        return found

    return Kind(tagging_head(), Split("train", examples, sequences, 0), loss, predictions, 5)


def windows():
    """Questions about contexts of words of three letters, a piece each, in one to three windows."""
    rng = np.random.default_rng(1)
    examples, features = [], []
    for number in range(40):
        pieces = 0
        for _ in range(int(rng.integers(1, 4))):
            first, count = int(rng.integers(2, 8)), int(rng.integers(1, 30))
            offsets = (4 * (pieces + np.arange(count)))[:, None] + np.array([0, 3], np.int32)
            impossible = rng.random() < 0.3
            start, end = (0, 0) if impossible else sorted((first + rng.integers(0, count, 2)).tolist())
            ids = random_ids(rng, first + count + 1)
            everywhere = np.ones(count, bool)
            features.append(SquadFeature(number, ids, first, offsets, everywhere, start, end, impossible, 0))
            pieces += count
        context = " ".join(f"{word:03d}" for word in range(pieces))
        answers = (GoldAnswer("000", 0),)
        examples.append(SquadExample(f"q{number}", "", "what", context, answers, False))
    starts, ends, impossible = (np.array([getattr(f, n) for f in features]) for n in ("start", "end", "is_impossible"))
    return Split("train", examples, features, 0), starts, ends, impossible


def of_windows(values, split):
    return [row[: len(f.input_ids)] for row, f in zip(values, split.sequences, strict=True)]


def span() -> Kind:
    split, starts, ends, _ = windows()
    inputs, network = in_rows(split.sequences), networks.AlbertForQuestionAnswering
    rows = np.arange(len(starts))

    def losses(output):
        of_start, of_end = (log_softmax(output.logits[..., side], inputs[2]) for side in (0, 1))
        return -(of_start[rows, starts] + of_end[rows, ends]) / 2

    def predictions(params):
        logits = np.asarray(apply(MODEL, params, *inputs, network=network).logits)
        return plain_answers(split.examples, split.sequences, of_windows(logits, split), no_answer=True)

    return Kind(span_head(no_answer=True), split, plain_loss(network, inputs, losses), predictions)


def beam() -> Kind:
    split, starts, ends, impossible = windows()
    network = networks.AlbertForBeamQuestionAnswering
    allowed = np.stack([np.pad(f.answerable, (0, LONGEST - len(f.input_ids))) for f in split.sequences])
    inputs = (*in_rows(split.sequences), jnp.asarray(allowed))
    rows = np.arange(len(starts))

    def losses(output):
        spans = output.start_log_probs[rows, starts] + output.end_log_probs[rows, ends]
        share = 1 / (1 + jnp.exp(-output.answer_class[:, 0]))
        return -spans / 2 - jnp.log(jnp.where(impossible, share, 1 - share)) / 2

    def predictions(params):
        output = apply(MODEL, params, *inputs, network=network)
        found = [
            BeamScores(*(np.asarray(getattr(output, name)[row, 0]) for name in BeamScores._fields)) for row in rows
        ]
        return beam_answers(split.examples, split.sequences, found)

    loss = partial(plain_loss(network, inputs, losses), start_positions=jnp.asarray(starts[:, None], jnp.int32))
    return Kind(beam_head(), split, loss, predictions)


MAKERS = [classification, regression, multi_label, choice, tagging, span, beam]
every_kind = pytest.mark.parametrize("name", [maker.__name__ for maker in MAKERS])


@cache
def kind_of(name: str) -> Kind:
    return {maker.__name__: maker for maker in MAKERS}[name]()


@cache
def params_of(name: str):
    kind = kind_of(name)
    sizes = {} if kind.num_labels is None else {"num_labels": kind.num_labels}
    return initialize(MODEL, jax.random.key(0), kind.head.network, **sizes)


@cache
def task_of(name: str) -> Task:
    return dataclasses.replace(open_task(FinetuneConfig("rte"), "rte"), head=kind_of(name).head)


def batches_of(name, *, batch_size=BATCH_SIZE, accumulation=1, shards=8, rows=64) -> TrainingBatches:
    """All of one shape, for one compilation; with more rows where a unit has several sequences."""
    kind = kind_of(name)
    shape = Shape(2 * rows if name == "choice" else rows, 64, 8)
    return TrainingBatches(
        kind.split.pairs,
        kind.split.units(of_examples=kind.head.draws_examples),
        batch_size=batch_size,
        accumulation=accumulation,
        shards=shards,
        seed=5,
        pad_id=0,
        shapes=[shape],
    )


def weights_of(name, batches, step):
    """How often the step has each unit."""
    kind = kind_of(name)
    count = len(kind.split.units(of_examples=kind.head.draws_examples))
    return jnp.asarray(np.bincount(batches.units(step), minlength=count), jnp.float32)


@cache
def packed_loss(name: str):
    """Of (parameters, arrays of a step [1, ...])."""
    aim = objective(kind_of(name).head, MODEL, COMPUTE)
    assert not aim.random, "no dropout"

    def loss(params, batch):
        return aim.loss(aim.sums(params, jax.tree.map(lambda x: x[0], batch), None), aim.weights(batch))

    return jax.jit(jax.value_and_grad(loss))


@cache
def plain_gradient(name: str):
    return jax.jit(jax.value_and_grad(kind_of(name).loss))


# ---- loss and gradients


@every_kind
def test_the_loss_of_packed_rows_and_its_gradients_are_the_plain_ones(name):
    batches = batches_of(name, shards=1)
    arrays = batch_arrays(task_of(name), kind_of(name).split, batches, 0)
    assert arrays["attention_mask"].max() > 2, "rows of several sequences"
    loss, gradients = packed_loss(name)(params_of(name), arrays)
    expected, plain = plain_gradient(name)(params_of(name), weights_of(name, batches, 0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    norm = optax.tree.norm(plain)
    assert norm > 0.05
    assert optax.tree.norm(jax.tree.map(jnp.subtract, gradients, plain)) < 1e-5 * norm


@every_kind
def test_what_a_batch_holds_twice_counts_twice(name):
    batches = batches_of(name, batch_size=96, shards=1)
    weights = weights_of(name, batches, 0)
    assert weights.max() == 2
    arrays = batch_arrays(task_of(name), kind_of(name).split, batches, 0)
    loss, _ = packed_loss(name)(params_of(name), arrays)
    np.testing.assert_allclose(loss, plain_gradient(name)(params_of(name), weights)[0], rtol=1e-5)


@every_kind
def test_padding_has_no_weight(name):
    kind, batches = kind_of(name), batches_of(name)
    arrays = {key: x[0] for key, x in batch_arrays(task_of(name), kind.split, batches, 0).items()}
    weights, numbers = arrays["weights"], arrays["attention_mask"]
    assert set(np.unique(weights)) <= {0.0, 1.0}
    drawn = batches.units(0)
    if name == "choice":
        assert (weights == 1).all()
        counts = [len(kind.split.examples[unit].choices) for unit in drawn]
        np.testing.assert_array_equal((arrays["choice_places"] >= 0).sum(1), counts)
    elif name == "tagging":
        assert (weights[numbers == 0] == 0).all()
        assert weights.sum() == sum(len(kind.split.sequences[unit].word_starts) for unit in drawn)
    else:
        slots = 1 + np.arange(weights.shape[1])
        np.testing.assert_array_equal(weights == 1, (numbers[:, None] == slots[:, None]).any(-1))
    assert (numbers == 0).any() and (numbers.max(1) < weights.shape[-1]).any(), "there is padding"


@every_kind
def test_what_lies_under_no_weight_does_not_matter(name):
    batches = batches_of(name, shards=1)
    arrays = batch_arrays(task_of(name), kind_of(name).split, batches, 0)
    loss, gradients = packed_loss(name)(params_of(name), arrays)
    changed = dict(arrays)
    nothing = arrays["attention_mask"] == 0
    changed["input_ids"] = np.where(nothing, 77, arrays["input_ids"])
    changed["token_type_ids"] = np.where(nothing, 1, arrays["token_type_ids"])
    for target in ("labels", "start_positions", "end_positions", "impossible"):
        if target in arrays:
            free = arrays["weights"] == 0
            free = free[..., None] if arrays[target].ndim > free.ndim else free
            changed[target] = np.where(free, 1, arrays[target]).astype(arrays[target].dtype)
    assert any((changed[key] != arrays[key]).any() for key in arrays)
    again, others = packed_loss(name)(params_of(name), changed)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, others, gradients)) < 1e-6 * optax.tree.norm(gradients)


# ---- training


@cache
def plain_training(name: str) -> list[float]:
    optimizer = make_optimizer(OptimizerConfig("adamw", 1e-3, 2), 2 * STEPS)
    params, moments, losses = params_of(name), optimizer.init(params_of(name)), []
    update = jax.jit(optimizer.update)
    for step in range(STEPS):
        loss, gradients = plain_gradient(name)(params, weights_of(name, batches_of(name), step))
        updates, moments = update(gradients, moments, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses


def training(name: str, sizes: tuple[int, int, int], accumulation: int) -> list[float]:
    kind, task, mesh = kind_of(name), task_of(name), make_mesh(MeshConfig(*sizes))
    rows = 32 if accumulation < 4 else 16
    batches = batches_of(name, accumulation=accumulation, shards=sizes[0] * sizes[1], rows=rows)
    hosts = [batch_arrays(task, kind.split, batches, step) for step in range(STEPS)]
    assert len({host["input_ids"].shape for host in hosts}) == 1
    aim = objective(kind.head, MODEL, COMPUTE)
    optimizer = make_optimizer(OptimizerConfig("adamw", 1e-3, 2), 2 * STEPS)
    with jax.set_mesh(mesh):
        create, _, shardings = create_state(
            lambda: params_of(name), optimizer, lambda params: zero_sums(aim, params, hosts[0]), mesh, MODEL
        )
        state, losses = create(), []
        step = compile_train_step(aim, optimizer, mesh, shardings)
        for host in hosts:
            state, outcome = step(state, place(host, mesh, BATCH), 3)
            losses.append(float(outcome.loss))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "accumulation"),
    [
        *((maker.__name__, (2, 2, 2), 2) for maker in MAKERS),
        # Regression and several labels differ from classification in the loss alone.
        *(
            (name, (8, 1, 1), parts)
            for name in ("classification", "choice", "tagging", "span", "beam")
            for parts in (1, 4)
        ),
    ],
)
def test_every_mesh_and_accumulation_trains_as_plain_rows_do(name, sizes, accumulation):
    expected = plain_training(name)
    assert abs(expected[-1] - expected[0]) > 1e-3 * abs(expected[0])
    np.testing.assert_allclose(training(name, sizes, accumulation), expected, rtol=1e-5)


# ---- predictions


@every_kind
def test_predictions_are_the_plain_ones_in_the_order_of_the_examples(name):
    kind, task, mesh = kind_of(name), task_of(name), make_mesh(MeshConfig(2, 2, 2))
    config = FinetuneConfig("rte", compute=COMPUTE)
    with jax.set_mesh(mesh):
        shardings = named(mesh, parameter_specs(params_of(name), mesh, MODEL))
        reader = compile_reader(task, MODEL, config, mesh, shardings)
        params = jax.device_put(params_of(name), shardings)
        found = predict(task, mesh, reader, params, kind.split, pad_id=0)
    expected = kind.predictions(params_of(name))
    assert len(found) == len(expected) == len(kind.split)
    for one, plain in zip(found, expected, strict=True):
        if name in ("span", "beam"):
            assert (one.id, one.text) == (plain.id, plain.text)
            np.testing.assert_allclose(one.null_odds, plain.null_odds, rtol=1e-4, atol=1e-4)
            scores = [[candidate.score for candidate in answer.candidates] for answer in (one, plain)]
            np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_allclose(one, plain, rtol=1e-5, atol=1e-5)
