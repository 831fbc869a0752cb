"""The mesh changes where arrays live and nothing else."""

import dataclasses
import re
from functools import cache, partial

import jax
import numpy as np
import pytest

from albert_jax.config import AlbertConfig, ComputeConfig, MeshConfig, OptimizerConfig
from albert_jax.errors import UserError
from albert_jax.model import (
    AlbertForBeamQuestionAnswering,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertWithoutHead,
    initialize,
)
from albert_jax.optim import make_optimizer
from albert_jax.sharding import PARAMETER_RULES, check_batch, make_mesh, parameter_specs, path_name
from albert_jax.tasks.pretraining import pretraining_objective
from albert_jax.train import compile_train_step, create_state, place_batches, zero_sums

MODEL = AlbertConfig(
    vocab_size=96,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)
NETWORKS = [
    AlbertForBeamQuestionAnswering,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertWithoutHead,
]
FACTORISATIONS = [
    (data, fsdp, 8 // data // fsdp) for data in (1, 2, 4, 8) for fsdp in (1, 2, 4, 8) if 8 % (data * fsdp) == 0
]


def random_batch(rows=16, length=24, places=6, seed=0):
    """Rows of different lengths and numbers of predictions, as a host batch."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    return dict(
        input_ids=np.where(mask, rng.integers(5, 96, (rows, length)), 0).astype(np.int32),
        token_type_ids=(mask & (np.arange(length) > lengths[:, None] // 2)).astype(np.int32),
        attention_mask=mask,
        masked_lm_positions=np.sort(rng.integers(1, 8, (rows, places))).astype(np.int32),
        masked_lm_labels=rng.integers(5, 96, (rows, places)).astype(np.int32),
        masked_lm_weights=(np.arange(places) < rng.integers(1, places + 1, rows)[:, None]).astype(np.float32),
        sentence_order_labels=rng.integers(0, 2, rows).astype(np.int32),
        sentence_order_weights=np.ones(rows, np.float32),
        ngram_counts=np.ones((rows, 3), np.int32),
        replacement_counts=np.ones((rows, 3), np.int32),
    )


@cache
def ten_steps(model, mesh_shape, accumulation):
    """Loss of each of ten steps, and the final state."""
    mesh = make_mesh(MeshConfig(*mesh_shape))
    objective = pretraining_objective(model, ComputeConfig("float32", "matmuls"))
    optimizer = make_optimizer(OptimizerConfig(peak_learning_rate=0.01, warmup_steps=2), 20)
    hosts = [random_batch(seed=step) for step in range(10)]
    with jax.set_mesh(mesh):
        batches = list(place_batches(iter(hosts), mesh, 16, accumulation))
        create, _, shardings = create_state(
            lambda: initialize(model, jax.random.key(0)),
            optimizer,
            lambda params: zero_sums(objective, params, batches[0]),
            mesh,
            model,
        )
        state, losses = create(), []
        step = compile_train_step(objective, optimizer, mesh, shardings)
        for batch in batches:
            state, outcome = step(state, batch, 3)
            losses.append(float(outcome.loss))
    return losses, state


@pytest.fixture(scope="module")
def reference():
    return ten_steps(MODEL, (8, 1, 1), 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", FACTORISATIONS, ids=lambda shape: "x".join(map(str, shape)))
def test_every_factorisation_trains_alike(reference, mesh_shape):
    np.testing.assert_allclose(ten_steps(MODEL, mesh_shape, 1)[0], reference, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "accumulation"), [((8, 1, 1), 2), ((1, 1, 8), 16), ((2, 2, 2), 4), ((1, 4, 2), 4)]
)
def test_every_accumulation_trains_alike(reference, mesh_shape, accumulation):
    np.testing.assert_allclose(ten_steps(MODEL, mesh_shape, accumulation)[0], reference, rtol=1e-5)


@pytest.mark.slow
def test_dropout_is_the_same_on_every_mesh_and_accumulation():
    model = dataclasses.replace(MODEL, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    losses = [ten_steps(model, shape, parts)[0] for shape, parts in (((8, 1, 1), 1), ((1, 2, 4), 1), ((2, 1, 4), 8))]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)
    assert np.abs(np.subtract(losses[0], ten_steps(MODEL, (8, 1, 1), 1)[0])).max() > 1e-3


@pytest.mark.slow
def test_sizes_that_no_axis_divides_train_alike():
    odd = dataclasses.replace(
        MODEL, vocab_size=97, embedding_size=15, hidden_size=33, num_attention_heads=3, intermediate_size=65
    )
    np.testing.assert_allclose(ten_steps(odd, (1, 2, 4), 1)[0], ten_steps(odd, (8, 1, 1), 1)[0], rtol=1e-5)


def test_parameters_are_really_split():
    _, state = ten_steps(MODEL, (2, 2, 2), 1)
    kernel = state.params["albert"]["encoder"]["group_0"]["inner_group_0"]["ffn"]["intermediate"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 32)}
    moment = state.optimizer.second["albert"]["embeddings"]["word"]
    assert {shard.data.shape for shard in moment.addressable_shards} == {(48, 8)}


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(embedding_size=32),
        dict(num_hidden_groups=2, inner_group_num=2),
        dict(num_hidden_groups=2, shared_across_groups="ffn"),
    ],
)
def test_every_parameter_has_a_rule(change):
    model = dataclasses.replace(MODEL, **change)
    params = jax.eval_shape(lambda: initialize(model, jax.random.key(0)))
    parameter_specs(params, make_mesh(MeshConfig()), model)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_of_every_head_has_a_rule(network):
    model = dataclasses.replace(MODEL, tie_word_embeddings=False)
    params = jax.eval_shape(partial(initialize, model, jax.random.key(0), network))
    parameter_specs(params, make_mesh(MeshConfig()), model)


def test_every_rule_has_a_parameter():
    model = dataclasses.replace(MODEL, tie_word_embeddings=False)
    trees = [jax.eval_shape(partial(initialize, model, jax.random.key(0), network)) for network in NETWORKS]
    names = [path_name(path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(trees)]
    for rule in PARAMETER_RULES:
        assert any(re.search(f"(^|/){rule.pattern}$", name) for name in names), rule.pattern


def test_a_parameter_without_a_rule_is_refused():
    with pytest.raises(KeyError, match="no rule in PARAMETER_RULES for new/kernel"):
        parameter_specs({"new": {"kernel": np.zeros((2, 2))}}, make_mesh(MeshConfig()), MODEL)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (2, 2, 1)])
def test_an_impossible_mesh_is_explained(sizes):
    with pytest.raises(UserError, match=r"mesh = data .* this run has 8 \(cpu\)"):
        make_mesh(MeshConfig(*sizes))


def test_a_batch_that_does_not_divide_names_those_that_do():
    with pytest.raises(UserError, match=r"phases.batch_size = 20: .* use 16 or 32"):
        check_batch(20, 2, make_mesh(MeshConfig()))
