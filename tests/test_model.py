"""The network: its sizes, how its layers share parameters, and what its outputs may and may not depend on."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from albert_jax import model as networks
from albert_jax.config import AlbertConfig, albert_config
from albert_jax.inputs.packing import pack
from albert_jax.model import apply, initialize
from albert_jax.model.layers import dropout, fold_in, linear
from albert_jax.objectives import masked_lm_sums, sentence_order_sums, total_loss
from albert_jax.sharding import path_name
from albert_jax.trees import tree_size

TINY = AlbertConfig(
    vocab_size=60,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=32,
)
SHARING = {
    "all": {},
    "none": dict(num_hidden_groups=2),
    "attention": dict(num_hidden_groups=2, shared_across_groups="attention"),
    "ffn": dict(num_hidden_groups=2, shared_across_groups="ffn"),
    "groups": dict(num_hidden_layers=4, num_hidden_groups=2),
    "inner groups": dict(inner_group_num=2),
    "groups of inner groups, attention shared": dict(
        num_hidden_groups=2, inner_group_num=2, shared_across_groups="attention"
    ),
    "E = H": dict(embedding_size=16),
}
DROPOUT = dataclasses.replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)


def shapes(config: AlbertConfig):
    return jax.eval_shape(lambda: initialize(config, jax.random.key(0)))


def batch(count: int = 3, length: int = 12) -> dict[str, np.ndarray]:
    """Random sequences, of which all but the first end in padding."""
    rng = np.random.default_rng(0)
    lengths = length - np.arange(count)
    positions = np.stack([np.sort(rng.choice(length - count, 3, replace=False)) for _ in range(count)])
    return dict(
        input_ids=rng.integers(5, TINY.vocab_size, (count, length), dtype=np.int32),
        token_type_ids=np.repeat(np.int32([[0, 1]]), length // 2, axis=1).repeat(count, axis=0),
        attention_mask=np.arange(length) < lengths[:, None],
        masked_lm_positions=positions.astype(np.int32),
    )


@functools.cache
def compiled(config: AlbertConfig, **settings):
    def run(params, inputs, keys):
        return apply(config, params, *inputs, keys=keys, **settings)

    return jax.jit(run)


def outputs(config, params, inputs, *, keys=None, **settings):
    return compiled(config, **settings)(params, tuple(inputs.values()), keys)


def loss(config, params, inputs, **settings):
    output = apply(config, params, *map(jnp.asarray, inputs.values()), **settings)
    count, predictions = inputs["masked_lm_positions"].shape
    labels = jnp.arange(count * predictions).reshape(count, predictions) % config.vocab_size
    sums = masked_lm_sums(output.mlm_logits, labels, jnp.ones(labels.shape))
    sums |= sentence_order_sums(output.sop_logits, jnp.arange(count) % 2, jnp.ones(count))
    return total_loss(sums, sums["mlm_weight"], sums["sop_weight"])


def gradients(config, params, inputs, *, keys=None, **settings) -> dict[str, jax.Array]:
    def run(params, keys):
        return loss(config, params, inputs, keys=keys, **settings)

    return by_name(jax.jit(jax.grad(run))(params, keys))


def by_name(tree) -> dict[str, jax.Array]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# ---- sizes


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("size", "whole", "backbone"),
    [
        ("base", 11_813_810, 11_683_584),
        ("large", 17_847_474, 17_683_968),
        ("xlarge", 59_021_490, 58_724_864),
        ("xxlarge", 223_158_450, 222_595_584),
    ],
)
def test_released_size_has_exactly_its_parameters(size, version, whole, backbone):
    params = shapes(albert_config(size, version))
    assert (tree_size(params), tree_size(params["albert"])) == (whole, backbone)


def formula(config: AlbertConfig, attentions: int, ffns: int) -> int:
    """Parameters without the pretraining heads, with so many distinct attention and feed-forward parts."""
    size, hidden, wide = config.embedding_size, config.hidden_size, config.intermediate_size
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    attention = 4 * (hidden * hidden + hidden) + 2 * hidden
    ffn = hidden * wide + wide + wide * hidden + hidden + 2 * hidden
    projection = size * hidden + hidden if size != hidden else 0
    pooler = hidden * hidden + hidden
    return rows * size + 2 * size + projection + attentions * attention + ffns * ffn + pooler


@pytest.mark.parametrize("size", [64, 128, 256, 768])
@pytest.mark.parametrize(
    ("sharing", "attentions", "ffns"), [("all", 1, 1), ("attention", 1, 12), ("ffn", 12, 1), ("none", 12, 12)]
)
def test_sharing_of_the_papers_tables_has_exactly_its_parameters(size, sharing, attentions, ffns):
    fields = dict(num_hidden_groups=1 if sharing == "all" else 12)
    if sharing in ("attention", "ffn"):
        fields["shared_across_groups"] = sharing
    config = AlbertConfig(embedding_size=size, **fields)
    assert tree_size(shapes(config)["albert"]) == formula(config, attentions, ffns)


@pytest.mark.parametrize(
    ("fields", "attentions", "ffns"),
    [
        (dict(num_hidden_groups=2), 2, 2),
        (dict(inner_group_num=3), 3, 3),
        (dict(num_hidden_groups=2, inner_group_num=3), 6, 6),
        (dict(num_hidden_groups=4, inner_group_num=2, shared_across_groups="ffn"), 8, 2),
    ],
)
def test_every_group_has_its_inner_groups(fields, attentions, ffns):
    config = dataclasses.replace(TINY, **fields)
    assert tree_size(shapes(config)["albert"]) == formula(config, attentions, ffns)


def test_layers_are_dealt_to_groups_in_equal_runs():
    def groups(layers: int, count: int) -> tuple[int, ...]:
        return AlbertConfig(num_hidden_layers=layers, num_hidden_groups=count).layer_groups

    assert groups(12, 1) == (0,) * 12
    assert groups(12, 12) == tuple(range(12))
    assert groups(12, 4) == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert groups(5, 2) == (0, 0, 0, 1, 1)
    assert groups(24, 24) == tuple(range(24))


def test_projection_exists_only_where_the_sizes_differ():
    with_projection, without = shapes(TINY), shapes(dataclasses.replace(TINY, embedding_size=16))
    assert "embedding_hidden_mapping_in" in with_projection["albert"]["encoder"]
    assert "embedding_hidden_mapping_in" not in without["albert"]["encoder"]


# ---- sharing


@pytest.mark.parametrize("name", SHARING)
def test_every_parameter_of_every_sharing_variant_gets_a_gradient(name):
    config = dataclasses.replace(TINY, **(dict(num_hidden_layers=2) | SHARING[name]))
    params = initialize(config, jax.random.key(0))
    found = gradients(config, params, batch())
    # Softmax is blind to a constant that the key's bias adds to all scores of a row.
    still = {name for name, gradient in found.items() if not jnp.abs(gradient).max() > 1e-9}
    assert not {name for name in still if not name.endswith("key/bias")}


def test_layers_with_equal_parameters_are_the_shared_layer():
    """Four groups that hold copies of one block compute what one shared block computes."""
    params = initialize(TINY, jax.random.key(0))
    encoder = params["albert"]["encoder"]
    groups = {f"group_{g}": encoder["group_0"] for g in range(4)}
    copied = params | {"albert": params["albert"] | {"encoder": encoder | groups}}
    unshared = dataclasses.replace(TINY, num_hidden_groups=4)
    one, four = (outputs(c, p, batch()).mlm_logits for c, p in ((TINY, params), (unshared, copied)))
    np.testing.assert_allclose(one, four, atol=1e-6)


def test_every_blocks_output_can_be_asked_for():
    params = initialize(TINY, jax.random.key(0))
    inputs = batch()
    del inputs["masked_lm_positions"]
    hidden = outputs(TINY, params, inputs, every_block=True).hidden
    assert hidden["hidden_states"].shape == (4, 3, 12, 16)
    np.testing.assert_array_equal(hidden["hidden_states"][-1], hidden["sequence_output"])


@pytest.mark.parametrize("every_block", [False, True])
@pytest.mark.parametrize(
    "config", [TINY, dataclasses.replace(TINY, inner_group_num=2), dataclasses.replace(TINY, num_hidden_layers=1)]
)
def test_the_last_block_at_the_positions_that_are_read_is_that_of_all_positions(config, every_block):
    params, inputs = initialize(config, jax.random.key(0)), batch()
    positions = inputs.pop("masked_lm_positions")
    whole = outputs(config, params, inputs, every_block=every_block)
    read = outputs(config, params, inputs | dict(masked_lm_positions=positions), every_block=every_block)
    expected = np.take_along_axis(np.asarray(whole.hidden["sequence_output"]), positions[:, :, None], axis=1)
    np.testing.assert_allclose(read.hidden["sequence_output"], expected, atol=1e-6)
    np.testing.assert_allclose(read.sop_logits, whole.sop_logits, atol=1e-6)


def test_the_last_block_of_a_packed_row_reads_each_sequence_for_itself():
    params, inputs = initialize(TINY, jax.random.key(0)), batch()
    positions, numbers = inputs.pop("masked_lm_positions"), np.repeat([[1] * 5 + [2] * 4 + [0] * 3], 3, axis=0)
    inputs["attention_mask"] = numbers
    packing = dict(
        first_positions=jnp.asarray([[0, 5]] * 3), position_ids=jnp.asarray([[*range(5), *range(4), 0, 0, 0]] * 3)
    )
    whole, read = (
        apply(TINY, params, *map(jnp.asarray, inputs.values()), *given, **packing)
        for given in ((), (jnp.minimum(jnp.asarray(positions), 8),))
    )
    expected = np.take_along_axis(np.asarray(whole.mlm_logits), np.minimum(positions, 8)[:, :, None], axis=1)
    np.testing.assert_allclose(read.mlm_logits, expected, atol=1e-6)
    np.testing.assert_allclose(read.sop_logits, whole.sop_logits, atol=1e-6)


# ---- how it is computed


@pytest.mark.parametrize(
    ("config", "dtype", "rounding"),
    [(DROPOUT, "float32", 1e-5), (TINY, "bfloat16", 0.03)],
    ids=["float32", "bfloat16"],
)
def test_rematerialisation_changes_no_gradient(config, dtype, rounding):
    params, keys = initialize(config, jax.random.key(0)), None
    if config is DROPOUT:
        keys = jax.random.split(jax.random.key(1), 3)
    kept, *repeated = (
        gradients(config, params, batch(), keys=keys, dtype=dtype, remat=remat) for remat in ("none", "matmuls", "full")
    )
    for found in repeated:
        for name, gradient in kept.items():
            assert distance(found[name], gradient, kept) < rounding, name


def test_bfloat16_gradients_are_near_those_in_float32():
    params = initialize(TINY, jax.random.key(0))
    exact = gradients(TINY, params, batch(), dtype="float32")
    rounded = gradients(TINY, params, batch(), dtype="bfloat16")
    for name, gradient in exact.items():
        assert rounded[name].dtype == jnp.float32
        assert distance(rounded[name], gradient, exact) < 0.05, name


def distance(ours: jax.Array, other: jax.Array, gradients: dict[str, jax.Array]) -> float:
    """Norm of the difference over the tensor's own, or where that is tiny over a thousandth of the whole."""
    whole = math.sqrt(sum(float(jnp.sum(jnp.square(gradient))) for gradient in gradients.values()))
    return float(jnp.linalg.norm(ours - other)) / max(float(jnp.linalg.norm(other)), 1e-3 * whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_whatever_the_matrix_products_are(dtype):
    output = outputs(TINY, initialize(TINY, jax.random.key(0)), batch(), dtype=dtype)
    assert output.mlm_logits.dtype == output.sop_logits.dtype == jnp.float32
    assert output.hidden["sequence_output"].dtype == dtype


# ---- what the outputs depend on


def test_content_of_padding_never_reaches_a_token():
    params = initialize(TINY, jax.random.key(0))
    one = batch()
    padding = ~one["attention_mask"]
    other = one | dict(
        input_ids=np.where(padding, 59, one["input_ids"]),
        token_type_ids=np.where(padding, 0, one["token_type_ids"]),
    )
    for inputs in (one, other):
        del inputs["masked_lm_positions"]
    first, second = (outputs(TINY, params, inputs) for inputs in (one, other))
    tokens = one["attention_mask"]
    np.testing.assert_array_equal(first.hidden["sequence_output"][tokens], second.hidden["sequence_output"][tokens])
    np.testing.assert_array_equal(first.sop_logits, second.sop_logits)


def test_length_of_padding_changes_only_rounding():
    params = initialize(TINY, jax.random.key(0))
    one = batch(1)
    longer = {name: np.pad(one[name], ((0, 0), (0, 10))) for name in ("input_ids", "token_type_ids", "attention_mask")}
    first, second = (
        outputs(TINY, params, one),
        outputs(TINY, params, longer | {"p": one["masked_lm_positions"]}),
    )
    np.testing.assert_allclose(first.mlm_logits, second.mlm_logits, atol=1e-6)


def test_without_keys_there_is_no_dropout():
    params = initialize(DROPOUT, jax.random.key(0))
    np.testing.assert_array_equal(
        outputs(DROPOUT, params, batch()).mlm_logits, outputs(TINY, params, batch()).mlm_logits
    )


def test_dropout_of_a_sequence_depends_on_its_own_key_only():
    """A sequence alone, or elsewhere in a batch of another size, drops the same elements."""
    params = initialize(DROPOUT, jax.random.key(0))
    inputs, keys = batch(3), jax.random.split(jax.random.key(1), 3)
    whole = outputs(DROPOUT, params, inputs, keys=keys)
    for rows in (np.array([1]), np.array([2, 0])):
        some = outputs(DROPOUT, params, {name: array[rows] for name, array in inputs.items()}, keys=keys[rows])
        np.testing.assert_allclose(some.mlm_logits, whole.mlm_logits[rows], atol=1e-5)


def test_another_key_drops_other_elements():
    params = initialize(DROPOUT, jax.random.key(0))
    first, second = (
        outputs(DROPOUT, params, batch(), keys=jax.random.split(jax.random.key(seed), 3)).mlm_logits for seed in (1, 2)
    )
    assert jnp.abs(first - second).max() > 0.01


def test_layers_that_share_parameters_do_not_share_dropout():
    """Keys as the encoder derives them: by the number of the layer, then of the place in it."""
    keys = jax.random.split(jax.random.key(0), 1)
    masks = [dropout(jnp.ones((1, 1000)), 0.5, fold_in(fold_in(keys, layer), 1)) > 0 for layer in range(4)]
    for one in range(4):
        for other in range(one):
            assert 0.4 < float(jnp.mean(masks[one] == masks[other])) < 0.6


def test_dropout_keeps_the_mean_and_drops_its_share():
    dropped = dropout(jnp.ones((8, 10_000)), 0.1, jax.random.split(jax.random.key(0), 8))
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.1, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.005)


# ---- packed rows

HEADS = {
    "pretraining": networks.AlbertForPreTraining,
    "masked LM": networks.AlbertForMaskedLM,
    "none": networks.AlbertWithoutHead,
    "sequence classification": networks.AlbertForSequenceClassification,
    "token classification": networks.AlbertForTokenClassification,
    "question answering": networks.AlbertForQuestionAnswering,
}


def sequences() -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences with both segments, together more than a row of 128 tokens."""
    rng = np.random.default_rng(0)
    lengths = (13, 3, 16, 9, 20, 31, 18, 25, 7)
    return [(rng.integers(5, TINY.vocab_size, n), (np.arange(n) > n // 2).astype(int)) for n in lengths]


def packed_batch():
    """The one batch that they are packed into."""
    (batch,) = pack(sequences(), 256, pad_id=0)
    return batch._replace(**{name: jnp.asarray(x) for name, x in batch._asdict().items() if name != "places"})


def on_packed(config, params, batch, network, **settings):
    """What the network says of a packed batch."""

    @jax.jit
    def run(params, ids, types, mask, settings):
        return apply(config, params, ids, types, mask, network=network, **settings)

    places = dict(position_ids=batch.position_ids, first_positions=batch.first_positions)
    return run(params, batch.input_ids, batch.token_type_ids, batch.attention_mask, places | settings)


def on_rows(config, params, network):
    """What it says of every sequence in a row of its own."""
    given = sequences()
    ids, types = (np.stack([np.pad(sides[n], (0, 32 - len(sides[n]))) for sides in given]) for n in (0, 1))
    mask = np.arange(32) < np.array([len(ids) for ids, _ in given])[:, None]
    return jax.jit(lambda *inputs: apply(config, *inputs, network=network))(params, ids, types, mask)


def assert_alike_packed(config, network):
    """Every output of a sequence in a packed row is its output alone: of its tokens, or of its slot."""
    params = initialize(config, jax.random.key(0), network)
    # Far from the tiny initial weights, under which attention hardly matters.
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, params)
    batch = packed_batch()
    together, apart = on_packed(config, params, batch, network), on_rows(config, params, network)
    together, apart = (
        {"sequence": output.hidden["sequence_output"], "pooled": output.hidden["pooled_output"]} | output._asdict()
        for output in (together, apart)
    )
    for index, row, slot, start, stop in batch.places:
        for name, expected in apart.items():
            if name == "hidden" or expected is None:
                continue
            of_tokens = expected.shape[1] == 32 and expected.ndim == 3
            ours = together[name][row, start:stop] if of_tokens else together[name][row, slot]
            theirs = expected[index, : stop - start] if of_tokens else expected[index]
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_a_packed_sequence_gets_the_outputs_that_it_gets_alone(head):
    assert_alike_packed(dataclasses.replace(TINY, num_hidden_layers=2), HEADS[head])


@pytest.mark.parametrize("name", list(SHARING)[1:])
def test_packing_is_exact_however_layers_are_shared(name):
    config = dataclasses.replace(TINY, **(dict(num_hidden_layers=2) | SHARING[name]))
    assert_alike_packed(config, networks.AlbertForPreTraining)


def test_another_sequence_of_the_row_changes_nothing():
    network = networks.AlbertForTokenClassification
    params, batch = initialize(TINY, jax.random.key(0), network), packed_batch()
    first = batch.places[0]
    changed = batch._replace(input_ids=batch.input_ids.at[first.row, first.stop :].set(7))
    one, other = (on_packed(TINY, params, b, network).logits[first.row, : first.stop] for b in (batch, changed))
    np.testing.assert_array_equal(one, other)


def test_chosen_positions_of_a_packed_row_get_their_masked_lm_logits():
    network = networks.AlbertForMaskedLM
    params, batch = initialize(TINY, jax.random.key(0), network), packed_batch()
    positions = jnp.tile(jnp.array([[0, 5, 40, 5]]), (len(batch.input_ids), 1))
    everywhere = on_packed(TINY, params, batch, network).logits
    chosen = on_packed(TINY, params, batch, network, masked_lm_positions=positions).logits
    np.testing.assert_allclose(chosen, everywhere[:, positions[0]], atol=1e-6)


# ---- initialisation


def test_initialisation_is_googles():
    """Matrices and embeddings: normal of deviation 0.02, redrawn beyond two, which leaves 0.88 of it."""
    config = dataclasses.replace(TINY, vocab_size=2000, embedding_size=64, hidden_size=64, intermediate_size=256)
    for name, leaf in by_name(initialize(config, jax.random.key(0))).items():
        if name.endswith("layer_norm/scale"):
            assert (leaf == 1).all(), name
        elif name.endswith("bias"):
            assert (leaf == 0).all(), name
        else:
            assert float(jnp.abs(leaf).max()) <= 0.04, name
            if leaf.size > 4000:
                assert float(leaf.std()) == pytest.approx(0.02 * 0.8796, rel=0.03), name
                assert abs(float(leaf.mean())) < 0.001, name


def test_no_two_matrices_start_alike():
    found = by_name(initialize(dataclasses.replace(TINY, num_hidden_groups=4), jax.random.key(0)))
    random = [leaf for leaf in found.values() if leaf.ndim == 2]
    assert len({tuple(np.asarray(leaf).ravel()[:16].tolist()) for leaf in random}) == len(random)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("rows", [(6,), (2, 3), (2, 1, 3)])
def test_the_gradients_of_a_linear_map_are_those_that_jax_derives(rows, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((*rows, 5), (5, 4), (4,), (*rows, 4))
    x, kernel, bias, weights = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))

    def gradients(function):
        return jax.grad(lambda *inputs: (function(*inputs) * weights).sum().astype("float32"), (0, 1, 2))(
            x, kernel, bias
        )

    for found, expected in zip(gradients(linear), gradients(lambda x, k, b: x @ k + b), strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(expected, np.float32), rtol=tolerance, atol=tolerance
        )
