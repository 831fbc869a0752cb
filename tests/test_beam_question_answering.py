"""Google's SQuAD 2.0 head against a plain implementation of its squad_utils.py, in rows of one window and of many."""

import dataclasses
import functools
import json
import lzma
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from albert_jax import AlbertForBeamQuestionAnswering, AlbertModel, predict
from albert_jax import model as networks
from albert_jax.__main__ import main
from albert_jax.config import AlbertConfig
from albert_jax.convert import class_of, convert
from albert_jax.errors import UserError
from albert_jax.inputs.packing import pack
from albert_jax.interop.saved_model import SavedModel
from albert_jax.model import apply, initialize
from albert_jax.objectives import span_beam_sums, span_sums
from albert_jax.tasks.squad import (
    NO_SPAN_SCORE,
    BeamScores,
    SquadExample,
    SquadFeature,
    beam_answers,
    build_features,
)
from albert_jax.tokenizer import AlbertTokenizer

TINY = AlbertConfig(
    vocab_size=60,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
)
LENGTHS = (13, 3, 40, 9, 20, 31, 4, 25, 7, 18)
"""Ids of the windows: of some the context has fewer than five pieces, of one none."""
ROW = 40
NETWORK = networks.AlbertForBeamQuestionAnswering


@functools.cache
def random_params():
    """Numbers that differ everywhere, biases and LayerNorm too; large ones, so that tokens differ."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initialize(TINY, jax.random.key(0), NETWORK))
    random = {path: rng.normal(size=x.shape) * 0.6 for path, x in flatten_dict(shapes).items()}
    return unflatten_dict({p: (x + (p[-1] == "scale")).astype(np.float32) for p, x in random.items()})


class Window:
    """A question of two pieces, or of none in the shortest windows, and its context."""

    def __init__(self, number: int, length: int):
        rng = np.random.default_rng(number)
        self.ids = rng.integers(5, TINY.vocab_size, length).astype(np.int32)
        self.first = min(4, length - 1)
        places = np.arange(length)
        self.types = (places >= self.first).astype(np.int32)
        self.answerable = (places == 0) | ((places >= self.first) & (places < length - 1))
        context = np.flatnonzero(self.answerable[1:]) + 1
        self.impossible = number % 3 == 0 or not len(context)
        self.start, self.end = (0, 0) if self.impossible else sorted(rng.choice(context, 2).tolist())


WINDOWS = [Window(number, length) for number, length in enumerate(LENGTHS)]


def in_rows():
    """Each window in a row of its own, padded: inputs, and starts, ends, impossible and weights [B, 1]."""

    def side(of):
        return jnp.asarray(np.stack([np.pad(of(w), (0, ROW - len(w.ids))) for w in WINDOWS]))

    inputs = dict(
        input_ids=side(lambda w: w.ids),
        token_type_ids=side(lambda w: w.types),
        attention_mask=side(lambda w: np.ones(len(w.ids), bool)),
        answerable=side(lambda w: w.answerable),
    )
    gold = dict(
        starts=jnp.array([[w.start] for w in WINDOWS], jnp.int32),
        ends=jnp.array([[w.end] for w in WINDOWS], jnp.int32),
        impossible=jnp.array([[w.impossible] for w in WINDOWS], jnp.float32),
        weights=jnp.ones((len(WINDOWS), 1)),
    )
    return inputs, gold


def packed():
    """The same windows in few rows, and where each lies."""
    (batch,) = pack([(w.ids, w.types) for w in WINDOWS], 1024, pad_id=0)
    assert max(place.slot for place in batch.places) > 3
    answerable = np.zeros(batch.input_ids.shape, bool)
    shape = batch.first_positions.shape
    gold = {name: np.zeros(shape, np.int32) for name in ("starts", "ends")}
    gold |= {name: np.zeros(shape, np.float32) for name in ("impossible", "weights")}
    for index, row, slot, start, stop in batch.places:
        window = WINDOWS[index]
        answerable[row, start:stop] = window.answerable
        values = dict(starts=start + window.start, ends=start + window.end, impossible=window.impossible, weights=1)
        for name, value in values.items():
            gold[name][row, slot] = value
    names = "input_ids", "token_type_ids", "attention_mask", "position_ids", "first_positions"
    inputs = {name: jnp.asarray(getattr(batch, name)) for name in names} | {"answerable": jnp.asarray(answerable)}
    return inputs, jax.tree.map(jnp.asarray, gold), batch.places


def run(params, inputs, config=TINY, **more):
    """What the network says, under jit."""
    inputs = dict(inputs) | more
    settings = {name: inputs.pop(name) for name in ("dtype",) if name in inputs}
    three = [inputs.pop(name) for name in ("input_ids", "token_type_ids", "attention_mask")]
    return jax.jit(lambda p, three, inputs: apply(config, p, *three, network=NETWORK, **inputs, **settings))(
        params, three, inputs
    )


# ---- the head in plain numpy, in float64, as Google's code has it: with p_mask, and vectors side by side


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def layer_norm(x, part):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-12) * part["scale"] + part["bias"]


class Reference:
    """Of one window: `x` [n, H] and its p_mask, 1 where no answer may be."""

    def __init__(self, params, x, answerable):
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.x, self.p_mask = np.asarray(x, np.float64), 1.0 - answerable
        logits = self.x @ self.params["start_logits"]["kernel"][:, 0] + self.params["start_logits"]["bias"][0]
        self.start_log_probs = self.masked_log_softmax(logits)

    def masked_log_softmax(self, logits):
        return log_softmax(logits * (1 - self.p_mask) - 1e30 * self.p_mask)

    def end_log_probs(self, start):
        part = self.params["end_logits"]
        both = np.concatenate([self.x, np.tile(self.x[start], (len(self.x), 1))], axis=-1)
        hidden = np.tanh(both @ part["dense_0"]["kernel"] + part["dense_0"]["bias"])
        hidden = layer_norm(hidden, part["layer_norm"])
        return self.masked_log_softmax(hidden @ part["dense_1"]["kernel"][:, 0] + part["dense_1"]["bias"][0])

    def answer_class(self):
        part = self.params["answer_class"]
        both = np.concatenate([np.exp(self.start_log_probs) @ self.x, self.x[0]])
        hidden = np.tanh(both @ part["dense_0"]["kernel"] + part["dense_0"]["bias"])
        return hidden @ part["dense_1"]["kernel"][:, 0]

    def loss(self, window):
        p = 1 / (1 + np.exp(-self.answer_class()))
        span = -(self.start_log_probs[window.start] + self.end_log_probs(window.start)[window.end])
        return 0.5 * span + 0.5 * -np.log(p if window.impossible else 1 - p)


def references(output):
    """One for each window, from what the trunk gives it in its own row."""
    x = np.asarray(output.hidden["sequence_output"])
    return [Reference(random_params(), x[i, : len(w.ids)], w.answerable) for i, w in enumerate(WINDOWS)]


@pytest.fixture(scope="module")
def trained():
    inputs, gold = in_rows()
    return run(random_params(), inputs, start_positions=gold["starts"])


@pytest.fixture(scope="module")
def searched():
    return run(random_params(), in_rows()[0])


def assert_close(ours, theirs, message=""):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=message)


# ---- training


def test_log_probabilities_and_the_answer_class_are_googles(trained):
    for i, (window, expected) in enumerate(zip(WINDOWS, references(trained), strict=True)):
        here = np.flatnonzero(window.answerable)
        assert_close(trained.start_log_probs[i][here], expected.start_log_probs[here])
        assert_close(trained.end_log_probs[i][here], expected.end_log_probs(window.start)[here])
        assert_close(trained.answer_class[i, 0], expected.answer_class())


def test_nothing_but_what_may_be_an_answer_has_a_probability(trained):
    answerable = np.asarray(in_rows()[0]["answerable"])
    for log_probs in (trained.start_log_probs, trained.end_log_probs):
        assert np.asarray(log_probs)[~answerable].max() < -1e29
        np.testing.assert_allclose(np.exp(np.asarray(log_probs)).sum(-1), 1, rtol=1e-5)


def test_ends_depend_on_the_start_that_is_given(trained):
    inputs, gold = in_rows()
    other = run(random_params(), inputs, start_positions=gold["starts"] + 1)
    np.testing.assert_array_equal(other.start_log_probs, trained.start_log_probs)
    assert not np.allclose(other.end_log_probs[0, 0], trained.end_log_probs[0, 0], atol=1e-3)


def test_the_loss_is_googles(trained):
    sums = span_beam_sums(trained, **in_rows()[1])
    expected = [reference.loss(window) for window, reference in zip(WINDOWS, references(trained), strict=True)]
    assert_close(sums["loss"], np.sum(expected))
    assert sums["weight"] == len(WINDOWS)


def loss_of(params, inputs, gold):
    return span_beam_sums(run(params, inputs, start_positions=gold["starts"]), **gold)["loss"]


def test_a_weight_is_how_often_a_window_counts(trained):
    _, gold = in_rows()
    each = [
        span_beam_sums(trained, **gold | {"weights": jnp.zeros_like(gold["weights"]).at[i].set(1)})["loss"]
        for i in range(len(WINDOWS))
    ]
    assert_close(each, [reference.loss(w) for w, reference in zip(WINDOWS, references(trained), strict=True)])


def test_gradients_are_finite_and_reach_every_parameter_of_the_head_that_matters():
    """What adds the same to the logits of all tokens does not."""
    without = "start_logits/bias", "end_logits/dense_1/bias", "end_logits/layer_norm/bias"
    inputs, gold, _ = packed()
    gradients = flatten_dict(jax.grad(loss_of)(random_params(), inputs, gold), sep="/")
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        if not path.startswith("albert/") and path not in without:
            assert np.abs(gradient).max() > 1e-4, path


def test_gradients_are_those_of_googles_loss():
    """Along a random direction, beside the numeric derivative of the plain implementation."""
    inputs, gold = in_rows()
    params = random_params()
    x = run(params, inputs, start_positions=gold["starts"]).hidden["sequence_output"]
    rng = np.random.default_rng(1)
    head = {name: part for name, part in params.items() if name != "albert"}
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), head)

    def plain(distance):
        moved = jax.tree.map(lambda leaf, way: leaf + distance * way, head, direction)
        return sum(Reference(moved, x[i, : len(w.ids)], w.answerable).loss(w) for i, w in enumerate(WINDOWS))

    gradient = jax.grad(loss_of)(params, inputs, gold)
    gradient = {name: gradient[name] for name in head}
    products = jax.tree.map(lambda way, slope: np.sum(way * np.asarray(slope)), direction, gradient)
    assert sum(jax.tree.leaves(products)) == pytest.approx((plain(1e-5) - plain(-1e-5)) / 2e-5, rel=1e-4)


def test_dropout_is_of_the_answer_class_and_of_training_only():
    config = dataclasses.replace(TINY, classifier_dropout_prob=0.5)
    inputs, gold = in_rows()
    settings = dict(config=config, start_positions=gold["starts"])
    without = run(random_params(), inputs, **settings)
    one, same, other = (
        run(random_params(), inputs, keys=jax.random.split(jax.random.key(seed), len(WINDOWS)), **settings)
        for seed in (0, 0, 1)
    )
    for name in ("start_log_probs", "end_log_probs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(without, name))
    np.testing.assert_array_equal(one.answer_class, same.answer_class)
    assert not np.allclose(one.answer_class, without.answer_class, atol=1e-3)
    assert not np.allclose(one.answer_class, other.answer_class, atol=1e-3)


# ---- search


def test_the_beam_is_that_of_all_starts_and_ends_tried_one_by_one(searched):
    for i, (window, expected) in enumerate(zip(WINDOWS, references(searched), strict=True)):
        possible = np.flatnonzero(window.answerable)
        starts = sorted(possible, key=lambda place: -expected.start_log_probs[place])[:5]
        found = searched.start_top_index[i, 0], searched.start_top_log_probs[i, 0]
        assert found[0][: len(starts)].tolist() == starts
        assert_close(found[1][: len(starts)], expected.start_log_probs[starts])
        for k, start in enumerate(starts):
            log_probs = expected.end_log_probs(start)
            ends = sorted(possible, key=lambda place: -log_probs[place])[:5]
            assert searched.end_top_index[i, 0, k, : len(ends)].tolist() == ends
            assert_close(searched.end_top_log_probs[i, 0, k, : len(ends)], log_probs[ends])
        assert_close(searched.answer_class[i, 0], expected.answer_class())


def test_what_a_short_window_lacks_is_impossible(searched):
    short = [i for i, window in enumerate(WINDOWS) if window.answerable.sum() < 5]
    assert len(short) > 1
    for i in short:
        count = WINDOWS[i].answerable.sum()
        assert np.isfinite(searched.start_top_log_probs[i, 0, :count]).all()
        assert np.isneginf(searched.start_top_log_probs[i, 0, count:]).all()
        assert np.isneginf(searched.end_top_log_probs[i, 0, :, count:]).all()
        assert (np.asarray(searched.start_top_index)[i, 0, count:] == 0).all()
    for output in (searched.start_top_log_probs, searched.end_top_log_probs, searched.answer_class):
        assert not np.isnan(output).any()


def beams(output):
    return [
        BeamScores(
            np.asarray(output.start_top_log_probs[i, 0]),
            np.asarray(output.start_top_index[i, 0]),
            np.asarray(output.end_top_log_probs[i, 0]),
            np.asarray(output.end_top_index[i, 0]),
            float(output.answer_class[i, 0]),
        )
        for i in range(len(WINDOWS))
    ]


def test_only_possible_spans_become_answers(searched):
    """The context of a window is its pieces' places as letters, so that an answer says where it stands."""
    examples, features = [], []
    for i, window in enumerate(WINDOWS):
        count = len(window.ids) - 1 - window.first
        context = "".join(chr(0x4E00 + n) for n in range(count))
        examples.append(SquadExample(str(i), "", "", context, (), False))
        offsets = np.stack([np.arange(count), np.arange(count) + 1], 1).astype(np.int32)
        features.append(SquadFeature(i, window.ids, window.first, offsets, np.ones(count, bool), 0, 0, False, 0))
    answers = beam_answers(examples, features, beams(searched))
    for window, answer, expected in zip(WINDOWS, answers, references(searched), strict=True):
        for candidate in answer.candidates:
            if not candidate.text:
                assert candidate.score == NO_SPAN_SCORE
                continue
            start, end = window.first + candidate.start, window.first + candidate.stop - 1
            score = expected.start_log_probs[start] + expected.end_log_probs(start)[end]
            assert candidate.score == pytest.approx(score, abs=1e-4)
    assert any(answer.text for answer in answers)


def test_a_row_without_any_place_for_an_answer_gives_none():
    inputs, _ = in_rows()
    output = run(random_params(), inputs | {"answerable": inputs["answerable"].at[0].set(False)})
    assert np.isneginf(output.start_top_log_probs[0]).all() and np.isneginf(output.end_top_log_probs[0]).all()
    assert np.isfinite(output.answer_class).all()


def test_answerable_is_by_default_what_google_leaves_unmasked():
    for inputs, *_ in (in_rows(), packed()):
        given = run(random_params(), inputs)
        default = run(random_params(), {name: value for name, value in inputs.items() if name != "answerable"})
        jax.tree.map(np.testing.assert_array_equal, given, default)


def test_bfloat16_agrees_roughly_and_what_is_said_stays_float32(searched, trained):
    inputs, gold = in_rows()
    rough = run(random_params(), inputs, dtype="bfloat16")
    assert rough.start_top_log_probs.dtype == rough.end_top_log_probs.dtype == rough.answer_class.dtype == "float32"
    np.testing.assert_allclose(rough.start_top_log_probs[:, 0, 0], searched.start_top_log_probs[:, 0, 0], atol=0.1)
    rough = run(random_params(), inputs, dtype="bfloat16", start_positions=gold["starts"])
    assert rough.start_log_probs.dtype == rough.end_log_probs.dtype == rough.answer_class.dtype == "float32"
    assert_close(jnp.exp(rough.end_log_probs).sum(-1), 1)


# ---- packed rows


def test_a_packed_window_is_trained_as_it_is_alone(trained):
    inputs, gold, places = packed()
    output = run(random_params(), inputs, start_positions=gold["starts"])
    for index, row, slot, start, stop in places:
        here = np.flatnonzero(WINDOWS[index].answerable)
        for name in ("start_log_probs", "end_log_probs"):
            together = np.asarray(getattr(output, name)[row, start:stop])
            assert_close(together[here], np.asarray(getattr(trained, name)[index])[here], name)
        assert_close(output.answer_class[row, slot], trained.answer_class[index, 0])
    assert_close(span_beam_sums(output, **gold)["loss"], span_beam_sums(trained, **in_rows()[1])["loss"])
    assert span_beam_sums(output, **gold)["weight"] == len(WINDOWS)


def test_a_packed_window_is_searched_as_it_is_alone(searched):
    inputs, _, places = packed()
    output = run(random_params(), inputs)
    for index, row, slot, start, _ in places:
        count = min(5, WINDOWS[index].answerable.sum())
        assert_close(output.start_top_log_probs[row, slot], searched.start_top_log_probs[index, 0])
        together = np.asarray(output.start_top_index[row, slot]) - start
        np.testing.assert_array_equal(together[:count], searched.start_top_index[index, 0, :count])
        ends = output.end_top_log_probs[row, slot, :count], output.end_top_index[row, slot, :count, :count] - start
        assert_close(ends[0], searched.end_top_log_probs[index, 0, :count])
        np.testing.assert_array_equal(ends[1], searched.end_top_index[index, 0, :count, :count])
        assert_close(output.answer_class[row, slot], searched.answer_class[index, 0])


def test_unused_places_of_a_row_say_nothing():
    inputs, _, places = packed()
    output = run(random_params(), inputs)
    unused = np.ones(output.answer_class.shape, bool)
    for place in places:
        unused[place.row, place.slot] = False
    assert unused.any()
    assert np.isneginf(np.asarray(output.start_top_log_probs)[unused]).all()
    assert np.isfinite(output.answer_class).all()


def test_another_window_of_the_row_changes_nothing():
    inputs, gold, places = packed()
    first = next(place for place in places if place.slot == 0)
    changed = inputs | {"input_ids": inputs["input_ids"].at[first.row, first.stop :].set(7)}
    one, other = (run(random_params(), i, start_positions=gold["starts"]) for i in (inputs, changed))
    for name in ("start_log_probs", "end_log_probs"):
        np.testing.assert_array_equal(
            getattr(one, name)[first.row, : first.stop], getattr(other, name)[first.row, : first.stop]
        )
    np.testing.assert_array_equal(one.answer_class[first.row, 0], other.answer_class[first.row, 0])


# ---- the plain head's loss


def test_the_loss_of_the_plain_head_is_over_all_tokens_of_a_window():
    rng = np.random.default_rng(0)
    inputs, gold, places = packed()
    logits = rng.normal(size=(*inputs["input_ids"].shape, 2)).astype(np.float32) * 3
    expected = 0.0
    for index, row, _, start, stop in places:
        window = WINDOWS[index]
        for side, place in enumerate((window.start, window.end)):
            expected -= 0.5 * log_softmax(logits[row, start:stop, side].astype(np.float64))[place]
    gold = {name: gold[name] for name in ("starts", "ends", "weights")}
    sums = span_sums(jnp.asarray(logits), inputs["attention_mask"], **gold)
    assert_close(sums["loss"], expected)
    assert sums["weight"] == len(WINDOWS)
    gradient = jax.grad(lambda x: span_sums(x, inputs["attention_mask"], **gold)["loss"])(jnp.asarray(logits))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[np.asarray(inputs["attention_mask"]) == 0].any()


# ---- the model as users hold it


@pytest.fixture(scope="module")
def model():
    return AlbertForBeamQuestionAnswering(TINY, random_params())


def test_a_model_says_what_the_network_says(model, searched):
    inputs, _ = in_rows()
    for given in (inputs, {name: value for name, value in inputs.items() if name != "answerable"}):
        output = model(**given)
        assert_close(output.cls_logits, searched.answer_class[:, 0])
        for name in ("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"):
            assert_close(getattr(output, name), getattr(searched, name)[:, 0], name)
    narrow = model(**inputs | {"answerable": inputs["answerable"].at[:, 0].set(False)})
    assert not np.allclose(narrow.cls_logits, searched.answer_class[:, 0])
    with pytest.raises(UserError, match=r"answerable: of shape \(3,\), but input_ids of \(10, 40\)"):
        model(**inputs | {"answerable": np.ones(3)})


@pytest.mark.parametrize("part", ["start_logits/kernel", "end_logits/layer_norm/scale", "answer_class/dense_1/kernel"])
def test_a_head_of_which_a_part_is_lost_is_not_asked(model, part, tmp_path):
    from safetensors.numpy import save_file

    from albert_jax.interop.huggingface import tensor_names

    model.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    del tensors[tensor_names(TINY)[part]]
    save_file(tensors, tmp_path / "saved" / "model.safetensors")
    again = AlbertForBeamQuestionAnswering.from_pretrained(tmp_path / "saved", verbose=False)
    with pytest.raises(UserError, match=f"has no trained {part}"):
        again.require_trained_head()


def test_a_saved_model_is_read_bit_for_bit_under_names_like_xlnets(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items() if not name.startswith("albert.")} == {
        "start_logits.dense.weight": (1, 16),
        "start_logits.dense.bias": (1,),
        "end_logits.dense_0.weight": (16, 32),
        "end_logits.dense_0.bias": (16,),
        "end_logits.LayerNorm.weight": (16,),
        "end_logits.LayerNorm.bias": (16,),
        "end_logits.dense_1.weight": (1, 16),
        "end_logits.dense_1.bias": (1,),
        "answer_class.dense_0.weight": (16, 32),
        "answer_class.dense_0.bias": (16,),
        "answer_class.dense_1.weight": (1, 16),
    }
    again = AlbertForBeamQuestionAnswering.from_pretrained(tmp_path / "saved", verbose=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, random_params())
    again.require_trained_head()
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert values["architectures"] == ["AlbertForBeamQuestionAnswering"]
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "AutoModel.from_pretrained(FOLDER)" in card and "the encoder alone" in card
    assert "from albert_jax import AlbertForBeamQuestionAnswering" in card


def test_the_encoder_below_the_head_is_a_model(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    bare = AlbertModel.from_pretrained(tmp_path / "saved", verbose=False)
    jax.tree.map(np.testing.assert_array_equal, bare.params["albert"]["encoder"], random_params()["albert"]["encoder"])
    assert len(bare.report.left_over) == 11


def test_transformers_loads_the_encoder(model, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(tmp_path / "saved")
    peer = transformers.AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert type(peer).__name__ == "AlbertModel"
    inputs = {name: np.asarray(value) for name, value in in_rows()[0].items() if name != "answerable"}
    with torch.no_grad():
        theirs = peer(**{name: torch.tensor(value).long() for name, value in inputs.items()}).last_hidden_state.numpy()
    mask = inputs["attention_mask"]
    assert_close(np.asarray(model(**inputs).last_hidden_state)[mask], theirs[mask])


def test_a_source_with_this_head_is_of_this_class():
    saved = SavedModel("a source", TINY, {"answer_class/dense_1/kernel": np.zeros((16, 1), np.float32)})
    assert class_of(saved) == "AlbertForBeamQuestionAnswering"


def test_the_model_is_converted_and_compared(model, tmp_path):
    model.save_pretrained(tmp_path / "source")
    lines = convert(str(tmp_path / "source"), tmp_path / "target")
    assert any("every parameter is the same bit for bit" in line for line in lines)
    convert(str(tmp_path / "source"), tmp_path / "half", dtype="bfloat16")
    lines = convert(str(tmp_path / "source"), tmp_path / "program", to="stablehlo")
    assert "outputs agree" in lines[-1]


def test_the_model_goes_to_google_and_back(model, tmp_path):
    pytest.importorskip("tensorflow")
    model.save_google(tmp_path / "google")
    lines = convert(str(tmp_path / "google"), tmp_path / "target")
    assert lines[0].startswith("AlbertForBeamQuestionAnswering from")
    again = AlbertForBeamQuestionAnswering.from_pretrained(tmp_path / "target", verbose=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, random_params())


# ---- answers to questions

QUESTION = "what is it?"


def contexts():
    """Of none to many words, and one of several windows."""
    rng = np.random.default_rng(0)
    syllables = ["wa", "ter", "sto", "ne", "ri", "ver", "li", "ght", "door", "ro", "om", "ca", "fe"]
    return [" ".join("".join(rng.choice(syllables, 2)) for _ in range(count)) for count in (9, 1, 0, 5, 12, 3, 7, 60)]


@pytest.fixture(scope="module")
def reader():
    """A model with a tokenizer of 400 pieces."""
    vocabulary = Path(__file__).parent / "golden_peer" / "tokenizer" / "spiece.model.xz"
    config = dataclasses.replace(TINY, vocab_size=400, max_position_embeddings=64)
    reader = AlbertForBeamQuestionAnswering.from_config(
        config, AlbertTokenizer(lzma.decompress(vocabulary.read_bytes()))
    )
    reader.params = jax.tree.map(lambda x: x * 30 if x.ndim > 1 else x, reader.params)
    return reader


def answers_by_hand(reader, context):
    """By the ranking of SQuAD's evaluation, from a row for each window."""
    examples = [SquadExample("0", "", QUESTION, context, (), False)]
    features = build_features(examples, reader.tokenizer, training=False, max_length=64, stride=64)
    found = []
    for feature in features:
        inputs = dict(input_ids=feature.input_ids, token_type_ids=feature.token_type_ids, answerable=feature.answerable)
        given = {name: np.pad(value.astype(int), (0, 64 - len(value)))[None] for name, value in inputs.items()}
        output = reader(**given, attention_mask=np.arange(64)[None] < len(feature.input_ids))
        names = "start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"
        found.append(BeamScores(*(np.asarray(getattr(output, n)[0]) for n in names), float(output.cls_logits[0])))
    (answer,) = beam_answers(examples, features, found)
    return answer


@pytest.mark.parametrize("sign", [1, -1])
def test_answers_are_those_of_the_evaluation(reader, sign):
    """Windows do not overlap here: then each piece has its maximum context where it is. This model always thinks that
    there is an answer, and with the other sign never."""
    params = jax.tree.map(lambda x: x, reader.params)
    params["answer_class"]["dense_1"]["kernel"] *= sign
    reader = AlbertForBeamQuestionAnswering(reader.config, params, reader.tokenizer)
    given = contexts()
    questions = [QUESTION] * len(given)
    found = predict.answer(reader, questions, given, n_best=200, max_length=64, stride=64)
    with_none = predict.answer(reader, questions, given, n_best=200, max_length=64, stride=64, no_answer=True)
    first_is_none = set()
    for context, answers, answers_or_none in zip(given, found, with_none, strict=True):
        expected = answers_by_hand(reader, context)
        best = expected.candidates[0]
        assert answers[0][:3] == best[:3]
        if not best.text:
            assert answers == answers_or_none == [("", 0, 0, 1.0)]
            continue
        # Of a text that stands in several places the evaluation keeps the best.
        ours = {answer.text: np.log(answer.score) for answer in reversed(answers)}
        for candidate in expected.candidates[:5]:
            difference = ours[candidate.text] - ours[best.text]
            assert difference == pytest.approx(candidate.score - best.score, abs=1e-4)
        odds = {answer.text: np.log(answer.score) for answer in reversed(answers_or_none)}
        assert odds[""] - odds[best.text] == pytest.approx(expected.null_odds, abs=1e-4)
        first_is_none.add(answers_or_none[0].text == "")
        assert (answers_or_none[0].text == "") == (expected.predict(0.0) == "")
    assert first_is_none == {sign == -1}


def test_answers_are_no_longer_than_told(reader):
    (context,) = contexts()[-1:]
    pieces = reader.tokenizer.encode_with_offsets(context)[1]
    pieces = pieces[pieces[:, 1] > pieces[:, 0]]
    for longest in (1, 3):
        (answers,) = predict.answer(reader, [QUESTION], [context], n_best=20, max_answer_length=longest)
        spans = [(pieces[:, 0] >= answer.start) & (pieces[:, 1] <= answer.stop) for answer in answers]
        assert 1 <= max(span.sum() for span in spans) <= longest


def test_the_command_line_answers_with_this_model_too(reader, tmp_path, monkeypatch, capsys):
    reader.save_pretrained(tmp_path / "reader")
    context = contexts()[0]
    arguments = ["answer", str(tmp_path / "reader"), "--question", QUESTION, "--context", context]
    monkeypatch.setattr(sys, "argv", ["albert-jax", *arguments])
    main()
    printed = json.loads(capsys.readouterr().out)
    ((expected,),) = predict.answer(reader, [QUESTION], [context])
    assert printed["answers"][0]["text"] == expected.text != ""
