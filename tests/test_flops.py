"""The arithmetic of a training step against XLA's own count of the compiled program, and a hand count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from albert_jax.config import AlbertConfig, ComputeConfig, OptimizerConfig, albert_config
from albert_jax.flops import activation_bytes_per_sequence, slow_bfloat16, training_flops_per_sequence
from albert_jax.model import apply, attention, initialize
from albert_jax.objectives import masked_lm_sums, sentence_order_sums, total_loss
from albert_jax.optim import make_optimizer
from albert_jax.sharding import AXES
from albert_jax.tasks.pretraining import pretraining_objective
from albert_jax.train import compile_train_step, create_state, zero_sums
from albert_jax.trees import tree_bytes

LENGTH, PREDICTIONS = 512, 20
# Layers of base in groups of their own: XLA counts the body of a loop once, however often it runs.
TWO_LAYERS = AlbertConfig(num_hidden_layers=2, num_hidden_groups=2)


def batch_of(rows: tuple[int, ...], sequences: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch: `rows` are its leading dimensions, each packed with `sequences` unless None."""
    slots = () if sequences is None else (sequences,)
    shapes = dict(
        input_ids=(LENGTH,), token_type_ids=(LENGTH,), masked_lm_positions=(PREDICTIONS,),
        masked_lm_labels=(PREDICTIONS,), sentence_order_labels=slots, ngram_counts=(3,), replacement_counts=(3,),
    )  # fmt: skip
    if sequences:
        shapes |= dict(position_ids=(LENGTH,), first_positions=slots)
    batch = {name: jax.ShapeDtypeStruct((*rows, *shape), jnp.int32) for name, shape in shapes.items()}
    weights = dict(masked_lm_weights=(PREDICTIONS,), sentence_order_weights=slots)
    batch |= {name: jax.ShapeDtypeStruct((*rows, *shape), jnp.float32) for name, shape in weights.items()}
    mask_type = jnp.bool_ if sequences is None else jnp.int32
    return batch | dict(attention_mask=jax.ShapeDtypeStruct((*rows, LENGTH), mask_type))


def loss(config, params, batch):
    inputs = ("input_ids", "token_type_ids", "attention_mask", "masked_lm_positions")
    packed = {name: batch[name] for name in ("position_ids", "first_positions") if name in batch}
    output = apply(config, params, *(batch[name] for name in inputs), **packed)
    sums = masked_lm_sums(output.mlm_logits, batch["masked_lm_labels"], batch["masked_lm_weights"])
    sums |= sentence_order_sums(output.sop_logits, batch["sentence_order_labels"], batch["sentence_order_weights"])
    return total_loss(sums, sums["mlm_weight"], sums["sop_weight"])


def xla_flops(config: AlbertConfig, transform, sequences: int | None = None) -> float:
    params = jax.eval_shape(lambda: initialize(config, jax.random.key(0)))
    compiled = (
        jax.jit(transform(lambda params, batch: loss(config, params, batch)))
        .lower(params, batch_of((1,), sequences))
        .compile()
    )
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "config",
    [
        TWO_LAYERS,
        dataclasses.replace(TWO_LAYERS, num_hidden_layers=1, num_hidden_groups=1, inner_group_num=2),
        dataclasses.replace(TWO_LAYERS, embedding_size=768),
    ],
    ids=["two groups", "two inner groups", "E = H"],
)
def test_training_flops_are_xlas(config):
    counted = training_flops_per_sequence(config, LENGTH, PREDICTIONS)
    assert counted == pytest.approx(xla_flops(config, jax.value_and_grad), rel=0.03)


def test_training_flops_of_a_packed_row_are_xlas():
    counted = training_flops_per_sequence(TWO_LAYERS, LENGTH, PREDICTIONS, 16)
    assert counted == pytest.approx(xla_flops(TWO_LAYERS, jax.value_and_grad, sequences=16), rel=0.03)
    # 15 more poolers, classifiers and places that the last block computes, forward and backward.
    more = 2 * 768**2 + 4 * 768 + 4 * 768**2 + 4 * 768 * 3072 + 4 * LENGTH * 768
    assert counted - training_flops_per_sequence(TWO_LAYERS, LENGTH, PREDICTIONS) == 3 * 15 * more


def test_forward_pass_is_a_third_of_the_training_flops():
    counted = training_flops_per_sequence(TWO_LAYERS, LENGTH, PREDICTIONS) / 3
    assert counted == pytest.approx(xla_flops(TWO_LAYERS, lambda function: function), rel=0.03)


@pytest.mark.parametrize(
    ("size", "at_512", "at_128", "exaflops"),
    [
        ("base", 0.570, 0.528, 150),
        ("large", 1.967, 1.854, 516),
        ("xlarge", 7.555, 7.329, 1981),
        ("xxlarge", 14.805, 14.579, 3881),
    ],
)
def test_training_flops_are_those_counted_by_hand(size, at_512, at_128, exaflops):
    """GFLOPs per token of the whole network at 512 tokens with 77 predictions, at 128 with 20, and the paper's run in
    EFLOPs; less what the last block is spared."""
    config = albert_config(size, 1)

    def counted(length: int, predictions: int) -> float:
        hidden, wide = config.hidden_size, config.intermediate_size
        spared = (length - predictions - 1) * (4 * hidden * hidden + 4 * hidden * wide + 4 * length * hidden)
        return training_flops_per_sequence(config, length, predictions) + 3 * spared

    assert counted(512, 77) / 512 / 1e9 == pytest.approx(at_512, abs=6e-4)
    assert counted(128, 20) / 128 / 1e9 == pytest.approx(at_128, abs=6e-4)
    assert counted(512, 77) * 4096 * 125_000 / 1e18 == pytest.approx(exaflops, abs=0.6)


def test_sharing_parameters_saves_no_arithmetic():
    alone = AlbertConfig(num_hidden_groups=12)
    assert training_flops_per_sequence(alone, 512, 20) == training_flops_per_sequence(AlbertConfig(), 512, 20)


@pytest.mark.parametrize(
    ("remat", "dropout", "sequences"),
    [("none", 0.0, None), ("matmuls", 0.0, None), ("matmuls", 0.1, None), ("full", 0.0, None), ("full", 0.0, 16)],
)
def test_estimate_of_memory_is_near_what_xla_allocates(remat, dropout, sequences, monkeypatch):
    """Temporary memory of the real training step, compiled but not run, less one copy of the gradients. In
    float32: a CPU emulates bfloat16 with copies; with the scores of all rows at once, as accelerators have them."""
    monkeypatch.setattr(attention, "LONG_ROW", 1024)
    config = AlbertConfig(
        vocab_size=1000,
        num_hidden_layers=4,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    allocated = temporary_bytes(config, ComputeConfig(dtype="float32", remat=remat), batch_of((1, 4), sequences)) / 4
    estimate = activation_bytes_per_sequence(config, LENGTH, PREDICTIONS, 4, remat, packed=sequences is not None)
    assert allocated <= estimate * 1.1
    assert estimate <= allocated * 1.25


def temporary_bytes(config: AlbertConfig, compute: ComputeConfig, batch: dict[str, jax.ShapeDtypeStruct]) -> int:
    mesh = jax.make_mesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    objective, optimizer = pretraining_objective(config, compute), make_optimizer(OptimizerConfig(), 10_000)
    with jax.set_mesh(mesh):
        _, state, shardings = create_state(
            lambda: initialize(config, jax.random.key(0)),
            optimizer,
            lambda params: zero_sums(objective, params, batch),
            mesh,
            config,
        )
        step = compile_train_step(objective, optimizer, mesh, shardings)
        memory = step.lower(state, batch, 0).compile().memory_analysis()
    return memory.temp_size_in_bytes - tree_bytes(state.params)


def test_bfloat16_that_gains_nothing_is_said():
    note = slow_bfloat16("bfloat16")
    assert (note is None) == (jax.__version_info__ >= (0, 11))
    assert note is None or f"jax {jax.__version__}" in note
    assert slow_bfloat16("float32") is None
