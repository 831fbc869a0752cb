"""Every way to compute attention gives the plain one's results, each is chosen where it can run, and a choice that
cannot run is refused before training starts."""

import re
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

import pretrain
from albert_jax.config import (
    AlbertConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PhasesConfig,
    PretrainConfig,
)
from albert_jax.errors import UserError
from albert_jax.model import apply, attention_kernels, initialize
from albert_jax.model.attention import LONG_ROW, attention_bias, attention_by_row, make_attention, plain_attention
from albert_jax.model.attention_kernels import choose_attention, cudnn_attention, splash_attention
from albert_jax.model.encoder import rematerialized
from albert_jax.sharding import make_mesh

LENGTH = 256
MODEL = AlbertConfig(
    vocab_size=96,
    embedding_size=16,
    hidden_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=LENGTH,
)
BASE = AlbertConfig()
WITH_DROPOUT = AlbertConfig(attention_probs_dropout_prob=0.1)


def masks():
    """Two rows each: padding at the end, and numbers of packed sequences with padding after them."""
    lengths = np.array([[LENGTH], [100]])
    packed = np.zeros((2, LENGTH), np.int32)
    packed[0, :128], packed[0, 128:200], packed[1, :30], packed[1, 30:] = 1, 2, 1, 2
    return {"padded": jnp.arange(LENGTH) < lengths, "packed": jnp.asarray(packed)}


def heads(seed=0):
    """Query, key and value, [2, L, 2, 64]."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return tuple(jax.random.normal(key, (2, LENGTH, 2, 64)) for key in keys)


def plain(query, key, value, mask):
    return plain_attention(attention_bias(mask), 0.0, query, key, value, None)


def on_tokens(attend, mask):
    """Results, zero on padding, and the gradients of a function of them."""

    def weighted(query, key, value):
        context = jnp.where((mask > 0)[:, :, None], attend(query, key, value, mask), 0.0)
        return jnp.sum(context * jnp.cos(jnp.arange(context.size).reshape(context.shape))), context

    (_, context), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(*heads())
    return context, *gradients


@pytest.mark.parametrize(("kind", "block"), [("padded", 256), ("packed", 256), ("packed", 128)])
def test_the_tpu_kernel_gives_the_plain_results_and_gradients(kind, block, monkeypatch):
    monkeypatch.setattr(attention_kernels, "SPLASH_BLOCK", block)
    mask = masks()[kind]
    ours = on_tokens(partial(splash_attention, interpret=True), mask)
    for result, expected in zip(ours, on_tokens(plain, mask), strict=True):
        np.testing.assert_allclose(result, expected, atol=2e-5)


@cache
def model_gradients(kernel, kind, mesh_shape, remat):
    """Of a function of the hidden states on tokens; `kernel` in the TPU kernel's place."""
    params = initialize(MODEL, jax.random.key(0))
    mask = masks()[kind].repeat(2, axis=0)
    ids = jax.random.randint(jax.random.key(1), mask.shape, 5, 96)

    def loss(params):
        output = apply(
            MODEL, params, ids, jnp.zeros_like(ids), mask, remat=remat, attention="splash" if kernel else "plain"
        )
        hidden = output.hidden["sequence_output"]
        return jnp.sum(jnp.where((mask > 0)[:, :, None], hidden**3, 0.0)) / hidden.size

    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(MeshConfig(*mesh_shape))):
        patch.setattr(attention_kernels, "platform", lambda: "tpu")
        patch.setattr("albert_jax.model.attention.splash_attention", partial(splash_attention, interpret=True))
        return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_a_model_has_the_same_gradients_with_the_tpu_kernel_split_over_a_mesh(kind):
    ours = model_gradients(True, kind, (2, 2, 2), "matmuls")
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), ours, model_gradients(False, kind, (8, 1, 1), "none")
    )


@pytest.fixture
def cudnn_at_hand(monkeypatch):
    """As if cuDNN were installed, beside an H100: enough to trace and lower, not to run."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_compute_capability", lambda _: True)


def layer_gradient(attend, remat):
    """Value and gradient of rematerialised attention, as a function of query, key, value and mask."""
    layer = rematerialized(lambda *inputs: jnp.sum(attend(*inputs).astype(jnp.float32)), remat)
    return jax.value_and_grad(layer, (0, 1, 2))


def inputs_of(kind):
    half = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in heads()]
    return *half, masks()[kind]


def primitives(jaxpr):
    """The names of all operations of a jaxpr and of those within it, kernels by their own."""
    for equation in jaxpr.eqns:
        yield str(equation.params.get("name") or equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)  # noqa: PLW2901
                if hasattr(inner, "eqns") and not equation.primitive.name.startswith("pallas_call"):
                    yield from primitives(inner)


@pytest.mark.parametrize("kind", ["padded", "packed"])
@pytest.mark.parametrize(
    ("attend", "forward", "backward"),
    [
        (splash_attention, "splash_mha_fwd", "splash_mha_dkv"),
        (cudnn_attention, "dot_product_attention_fwd", "dot_product_attention_bwd"),
    ],
    ids=["splash", "cudnn"],
)
def test_a_kernel_runs_forwards_once_unless_all_is_repeated(attend, forward, backward, kind, cudnn_at_hand):
    for remat, expected in (("none", 1), ("matmuls", 1), ("full", 2)):
        jaxpr = jax.make_jaxpr(layer_gradient(attend, remat))(*inputs_of(kind)).jaxpr
        # Some versions of JAX leave it to the compiler to drop what nothing needs.
        needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        names = list(primitives(needed))
        assert sum(name.startswith(forward) for name in names) == expected
        assert sum(name.startswith(backward) for name in names) == 1


@pytest.mark.parametrize(("kind", "target"), [("padded", "fmhaSoftmax"), ("packed", "fmhaScaleBiasSoftmax")])
def test_cudnns_kernels_are_what_is_lowered_for_nvidia_gpus(kind, target, cudnn_at_hand):
    traced = jax.jit(layer_gradient(cudnn_attention, "matmuls")).trace(*inputs_of(kind))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert re.findall(r"__cudnn\$\w+", text) == [f"__cudnn${target}", f"__cudnn${target}Backward"]


def test_the_tpu_kernels_are_what_is_lowered_for_tpus():
    traced = jax.jit(layer_gradient(splash_attention, "matmuls")).trace(*inputs_of("packed"))
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call") == 2


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "model", "chosen"),
    [
        ("cpu", "bfloat16", 512, BASE, "plain"),
        ("gpu", "bfloat16", 512, BASE, "cudnn"),
        ("gpu", "float32", 512, BASE, "plain"),
        ("gpu", "bfloat16", 511, BASE, "plain"),
        ("gpu", "bfloat16", 512, WITH_DROPOUT, "plain"),
        ("gpu", "bfloat16", 512, AlbertConfig(hidden_size=36, num_attention_heads=3), "plain"),
        ("tpu", "bfloat16", 512, BASE, "splash"),
        ("tpu", "float32", 128, BASE, "splash"),
        ("tpu", "bfloat16", 64, BASE, "plain"),
        ("tpu", "bfloat16", 512, WITH_DROPOUT, "plain"),
    ],
)
def test_auto_is_the_kernel_where_it_can_do_the_work(platform, dtype, length, model, chosen, monkeypatch):
    monkeypatch.setattr(attention_kernels, "platform", lambda: platform)
    assert choose_attention("auto", model, dtype, length, batch=8) == chosen


def test_auto_leaves_the_kernel_where_it_cannot_be_split_over_the_mesh(monkeypatch):
    monkeypatch.setattr(attention_kernels, "platform", lambda: "tpu")
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 8))):
        assert choose_attention("auto", BASE, "bfloat16", 512, batch=8) == "plain"  # 12 heads
    with jax.set_mesh(make_mesh(MeshConfig(4, 2, 1))):
        assert choose_attention("auto", BASE, "bfloat16", 512, batch=12) == "plain"
        assert choose_attention("auto", BASE, "bfloat16", 512, batch=16) == "splash"


@pytest.mark.parametrize(("capability", "chosen"), [("7.0", "plain"), ("8.0", "plain"), ("9.0", "cudnn")])
def test_auto_knows_the_gpus_that_cudnns_kernel_runs_on(capability, chosen, monkeypatch):
    """Heads of 256 need an H100."""
    monkeypatch.setattr(attention_kernels, "platform", lambda: "gpu")
    monkeypatch.setattr(attention_kernels, "compute_capability", lambda: float(capability))
    wide = AlbertConfig(hidden_size=1024, num_attention_heads=4)
    assert choose_attention("auto", wide, "bfloat16", 512, batch=8) == chosen


def pretraining(model, compute, length=512):
    return PretrainConfig(
        run_dir="run",
        data=DataConfig(corpus=("corpus",), tokenizer="spiece.model"),
        model=model,
        phases=PhasesConfig(steps=(10,), sequence_length=(length,), batch_size=(8,)),
        optimizer=OptimizerConfig(warmup_steps=1),
        compute=compute,
    )


@pytest.mark.parametrize(
    ("attention", "dtype", "model", "length", "reason"),
    [
        ("cudnn", "float32", BASE, 512, "computes in bfloat16, not float32; set compute.dtype bfloat16"),
        ("cudnn", "bfloat16", WITH_DROPOUT, 512, "has no dropout, and model.attention_probs_dropout_prob is 0.1"),
        ("splash", "bfloat16", WITH_DROPOUT, 512, "has no dropout, and model.attention_probs_dropout_prob is 0.1"),
        ("splash", "bfloat16", BASE, 192, "a length that 128 divides, not 192"),
        ("cudnn", "bfloat16", BASE, 129, "even length, not 129"),
        ("cudnn", "bfloat16", AlbertConfig(hidden_size=36, num_attention_heads=3), 512, "that 8 divides, not 12"),
    ],
)
def test_a_choice_that_cannot_run_anywhere_is_refused_in_the_configuration(attention, dtype, model, length, reason):
    with pytest.raises(UserError, match=f"compute.attention = '{attention}': .*{re.escape(reason)}"):
        pretraining(model, ComputeConfig(dtype, attention=attention), length)


@pytest.mark.parametrize(("attention", "devices"), [("cudnn", "NVIDIA GPUs"), ("splash", "TPUs")])
def test_a_choice_that_cannot_run_here_is_refused_before_training(attention, devices, tmp_path):
    reason = f"compute.attention = '{attention}': runs on {devices} only, and the devices here are of the kind cpu"
    with pytest.raises(UserError, match=reason):
        choose_attention(attention, BASE, "bfloat16", 512, batch=8)
    config = replace(pretraining(BASE, ComputeConfig(attention=attention)), run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match=reason):
        pretrain.pretrain(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rate", [None, 0.1])
def test_attention_row_by_row_is_that_of_all_rows(packed, rate):
    """As long rows are attended to on a CPU; dropout's masks are those of the rows."""
    query, key, value, gradient = jax.random.normal(jax.random.key(0), (4, 3, 24, 2, 8))
    numbers = jnp.repeat(jnp.asarray([[1] * 10 + [2] * 9 + [0] * 5]), 3, axis=0)
    bias = attention_bias(numbers if packed else numbers > 0)
    keys = None if rate is None else jax.random.split(jax.random.key(1), 3)

    def results(attend):
        context, pull = jax.vjp(lambda *arrays: attend(bias, rate or 0.0, *arrays, keys), query, key, value)
        return context, *pull(gradient.reshape(context.shape))

    for ours, plain in zip(results(attention_by_row), results(plain_attention), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_long_rows_are_attended_to_one_by_one_on_a_cpu():
    config, mask = AlbertConfig(), jnp.ones((2, LONG_ROW), bool)
    assert make_attention("plain", config, mask, "float32").func is attention_by_row
    assert make_attention("plain", config, mask[:, :-1], "float32").func is plain_attention
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert make_attention("plain", config, mask, "float32").func is plain_attention
