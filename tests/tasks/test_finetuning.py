"""What fine-tuning is put together with: reading ahead, predictions over batches of several shapes, and what tells one
training set from another."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from albert_jax.config import AlbertConfig, ComputeConfig, MeshConfig
from albert_jax.inputs.batches import whole_batches
from albert_jax.model import AlbertForSequenceClassification, apply, initialize
from albert_jax.sharding import make_mesh, named, parameter_specs
from albert_jax.tasks.catalog import open_task
from albert_jax.tasks.config import FinetuneConfig
from albert_jax.tasks.examples import IGNORED, ChoiceExample, TaggingExample, TaskSequence, TextExample
from albert_jax.tasks.finetuning import READ_AHEAD, ahead, compile_reader, fingerprint, predict
from albert_jax.tasks.heads import Split
from albert_jax.tasks.squad import GoldAnswer, SquadExample, SquadFeature

# ---- reading ahead


def test_steps_come_in_order_and_each_is_made_once():
    asked = []
    assert list(ahead(lambda step: asked.append(step) or 10 * step, 3, 30)) == [10 * step for step in range(3, 30)]
    assert asked == list(range(3, 30))


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (6, 5)])
def test_no_steps_are_none(start, stop):
    assert list(ahead(lambda step: step, start, stop)) == []


def test_fewer_steps_than_are_read_ahead_all_come():
    assert list(ahead(lambda step: step, 0, READ_AHEAD - 1)) == list(range(READ_AHEAD - 1))


def test_batches_are_made_while_the_first_is_in_use():
    enough = threading.Event()
    batches = ahead(lambda step: enough.set() if step == READ_AHEAD - 1 else None, 0, 100)
    next(batches)
    assert enough.wait(timeout=20)
    batches.close()


def test_no_more_is_made_than_is_read_ahead():
    asked = []
    batches = ahead(lambda step: asked.append(step) or step, 0, 100)
    assert next(batches) == 0
    batches.close()
    assert len(asked) <= 1 + READ_AHEAD


def test_the_thread_ends_with_a_consumer_that_stops_early():
    before, makers = set(threading.enumerate()), set()

    def make(step):
        makers.add(threading.current_thread())
        return step

    batches = ahead(make, 0, 1000)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    assert makers and makers.isdisjoint(before)
    batches.close()
    assert not any(thread.is_alive() for thread in makers)


def test_the_makers_error_comes_where_its_step_would():
    def make(step):
        if step == 6:
            raise ValueError("step six")
        return step

    made = []
    with pytest.raises(ValueError, match="step six"):
        for step in ahead(make, 0, 100):
            made.append(step)
    assert made == [0, 1, 2, 3, 4, 5]


def test_the_consumers_error_ends_the_thread():
    makers = set()
    with pytest.raises(KeyboardInterrupt):
        for step in (batches := ahead(lambda step: makers.add(threading.current_thread()), 0, 1000)):
            raise KeyboardInterrupt(step)
    batches.close()
    assert makers and not any(thread.is_alive() for thread in makers)


# ---- what is learnt from


def sequence(ids=(2, 9, 8, 7, 3), **more):
    return TaskSequence(0, np.array(ids, np.uint16), len(ids), **more)


def texts(label=1, ids=(2, 9, 8, 7, 3)):
    return Split("train", [TextExample("a", "x", None, label)], [sequence(ids)], 0)


def choices(label=1):
    return Split("train", [ChoiceExample("a", "x", "y", ("b", "c"), label)], [sequence(), sequence()], 0)


def tags(labels=(1, 2)):
    targets = np.array([IGNORED, labels[0], IGNORED, labels[1], IGNORED], np.int32)
    words = sequence(word_starts=np.array([1, 3], np.int32), labels=targets)
    return Split("train", [TaggingExample("a", ("x", "y"), tuple("ABC"[n] for n in labels))], [words], 0)


def questions(start=3):
    example = SquadExample("a", "", "x", "y z", (GoldAnswer("yz"[start - 3], 2 * start - 6),), False)
    offsets = np.array([[0, 1], [2, 3]], np.int32)
    ids = np.array([2, 9, 3, 8, 7, 3], np.uint16)
    return Split("train", [example], [SquadFeature(0, ids, 3, offsets, np.ones(2, bool), start, start, False, 0)], 0)


def test_the_same_data_has_the_same_fingerprint():
    assert fingerprint(texts()) == fingerprint(texts())
    assert fingerprint(tags()) == fingerprint(tags())
    assert fingerprint(questions()) == fingerprint(questions())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (texts(), texts(ids=(2, 9, 8, 6, 3))),
        (texts(), texts(ids=(2, 9, 8, 7, 7, 3))),
        (texts(), texts(label=0)),
        (texts(label=2.5), texts(label=2.6)),
        (texts(label=(0, 2)), texts(label=(0, 1))),
        (choices(), choices(label=0)),
        (tags(), tags(labels=(1, 0))),
        (questions(), questions(start=4)),
    ],
    ids="id length class number classes choice tag answer".split(),
)
def test_another_fingerprint_for_every_change(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_the_order_of_the_examples_is_part_of_the_fingerprint():
    first, second = texts(), texts(label=0, ids=(2, 8, 3))
    both = [first.examples + second.examples, first.sequences + second.sequences]
    swapped = [second.examples + first.examples, second.sequences + first.sequences]
    assert fingerprint(Split("train", *both, 0)) != fingerprint(Split("train", *swapped, 0))


# ---- predictions


MODEL = AlbertConfig(
    vocab_size=96,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=256,
    initializer_range=0.3,
)
CONFIG = FinetuneConfig("rte", compute=ComputeConfig("float32", "none"))
TASK = open_task(CONFIG, "rte")


def split_of(lengths) -> Split:
    rng = np.random.default_rng(0)
    sequences = [
        TaskSequence(i, np.array([2, *rng.integers(5, 96, n - 2), 3], np.uint16), int(rng.integers(2, n + 1)))
        for i, n in enumerate(lengths)
    ]
    return Split("dev", [TextExample(str(i), "", None, None) for i in range(len(lengths))], sequences, 0)


def predictions(split, sizes=(8, 1, 1), pad_id=0):
    mesh = make_mesh(MeshConfig(*sizes))
    params = initialize(MODEL, jax.random.key(0), AlbertForSequenceClassification)
    with jax.set_mesh(mesh):
        shardings = named(mesh, parameter_specs(params, mesh, MODEL))
        reader = compile_reader(TASK, MODEL, CONFIG, mesh, shardings)
        return predict(TASK, mesh, reader, jax.device_put(params, shardings), split, pad_id)


def plain_predictions(split):
    rows = np.zeros((3, len(split), 256), np.int32)
    for row, sequence in enumerate(split.sequences):
        n = len(sequence)
        rows[:, row, :n] = sequence.input_ids, sequence.token_type_ids, np.ones(n)
    params = initialize(MODEL, jax.random.key(0), AlbertForSequenceClassification)
    run = jax.jit(lambda *inputs: apply(MODEL, params, *inputs, network=AlbertForSequenceClassification).logits)
    return np.asarray(run(rows[0], rows[1], rows[2] > 0))


# Long sequences, so few that the short ones do not all find room beside them.
MANY = np.random.default_rng(1).permutation([200, 130, *[30] * 100])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_predictions_over_several_shapes_are_in_the_order_of_the_examples(sizes):
    split = split_of(MANY)
    shards = sizes[0] * sizes[1]
    shapes = [packed.input_ids.shape for packed in whole_batches(split.pairs, shards * 2048, shards, 0)]
    assert len(set(shapes)) > 1
    found = predictions(split, sizes)
    np.testing.assert_allclose(found, plain_predictions(split), rtol=1e-4, atol=1e-5)
    assert len(np.unique(found[:, 0])) == len(MANY), "each has its own"


def test_a_single_example_is_predicted_on_many_devices():
    split = split_of([7])
    np.testing.assert_allclose(predictions(split), plain_predictions(split), rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_what_padding_is():
    split = split_of([7, 40, 12])
    np.testing.assert_allclose(predictions(split, pad_id=50), predictions(split, pad_id=0), rtol=1e-6)


def test_predictions_need_no_labels():
    split = split_of([7, 40, 12])
    assert all(example.label is None for example in split.examples)
    labelled = dataclasses.replace(split, examples=[dataclasses.replace(e, label=1) for e in split.examples])
    np.testing.assert_array_equal(predictions(split), predictions(labelled))
