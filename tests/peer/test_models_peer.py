"""Our models beside transformers' own, in both directions: random weights everywhere, unusual shapes, all heads.

Run in an environment that has transformers (4.57 or 5) and torch: `pip install -e ".[test,peer]"; pytest -m peer`.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

import albert_jax
from albert_jax.pretrained import CLASSES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

SIZES = dict(
    vocab_size=61,
    embedding_size=8,
    hidden_size=24,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=19,
    type_vocab_size=2,
    classifier_dropout_prob=0.1,
)
NETWORKS = {
    "shared": {},
    "groups": dict(num_hidden_groups=2),
    "inner groups": dict(inner_group_num=2, num_hidden_groups=2),
    "E = H": dict(embedding_size=24),
    "relu": dict(hidden_act="relu"),
    "gelu by erf": dict(hidden_act="gelu"),
    "untied": dict(tie_word_embeddings=False),
    "one layer, one head, odd epsilon": dict(num_hidden_layers=1, num_attention_heads=1, layer_norm_eps=1e-6),
}
HEADS = [
    ("AlbertModel", 2),
    ("AlbertForPreTraining", 2),
    ("AlbertForPreTraining", 3),
    ("AlbertForMaskedLM", 2),
    ("AlbertForSequenceClassification", 1),
    ("AlbertForSequenceClassification", 4),
    ("AlbertForTokenClassification", 3),
    ("AlbertForQuestionAnswering", 2),
    ("AlbertForMultipleChoice", 2),
]


def random_peer(head, labels, **changes):
    """A model of transformers in which nothing is zero or one: a swapped bias or LayerNorm shows."""
    torch.manual_seed(0)
    config = transformers.AlbertConfig(**(SIZES | changes), num_labels=labels)
    peer = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return peer


def random_inputs(head, vocab_size=61, rows=3, length=13):
    """Rows of different lengths with both segments; a choice more for each row of multiple choice."""
    rng = np.random.default_rng(1)
    shape = (rows, 2, length) if head == "AlbertForMultipleChoice" else (rows, length)
    lengths = rng.integers(4, length + 1, shape[:-1])
    mask = np.arange(length) < lengths[..., None]
    ids = np.where(mask, rng.integers(5, vocab_size, shape), 0)
    types = (np.arange(length) > lengths[..., None] // 2) & mask
    return dict(input_ids=ids, token_type_ids=types.astype(int), attention_mask=mask.astype(int))


def assert_same_outputs(ours, peer, head, hidden_states=True):
    inputs = random_inputs(head, ours.config.vocab_size)
    mine = ours(**inputs, hidden_states=True)
    with torch.no_grad():
        theirs = peer(**{name: torch.tensor(value) for name, value in inputs.items()}, output_hidden_states=True)
    names = [name for name in theirs if name not in ("loss", "attentions")]
    assert set(names) & {"logits", "start_logits", "prediction_logits", "last_hidden_state"}
    for name in names:
        value = getattr(mine, name)
        if name == "hidden_states":
            if len(value) != len(theirs[name]):  # transformers 4 leaves out what lies within a layer
                value = (value[0], *value[ours.config.inner_group_num :: ours.config.inner_group_num])
            assert len(value) == len(theirs[name])
            value, expected = np.stack(value), torch.stack(theirs[name]).numpy()
        else:
            expected = theirs[name].numpy()
        if name in ("last_hidden_state", "hidden_states", "prediction_logits") or "logits" in name:
            # What padding computes is of no concern, but it agrees too.
            scale = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("head", "labels"), HEADS)
def test_both_directions_agree(tmp_path, head, labels, network):
    peer = random_peer(head, labels, **NETWORKS[network])
    peer.save_pretrained(tmp_path / "theirs")
    ours = getattr(albert_jax, head).from_pretrained(tmp_path / "theirs")
    assert not ours.report.initialized
    assert not ours.report.left_over
    assert_same_outputs(ours, peer, head)

    ours.save_pretrained(tmp_path / "ours")
    back, info = getattr(transformers, head).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same_outputs(ours, back.eval(), head)
    for (name, one), (_, other) in zip(peer.named_parameters(), back.named_parameters(), strict=True):
        unused = name == "predictions.bias" and not peer.config.tie_word_embeddings  # decoder.bias is computed with
        assert unused or torch.equal(one, other), name


@pytest.mark.parametrize("head", CLASSES)
def test_auto_classes_find_our_models(tmp_path, head):
    from albert_jax.interop.model_card import AUTO_CLASSES

    config = albert_jax.AlbertModel.from_config(small_config()).config
    getattr(albert_jax, head).from_config(config).save_pretrained(tmp_path / "ours")
    peer = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(tmp_path / "ours")
    assert type(peer).__name__ == (head if hasattr(transformers, head) else "AlbertModel")


def small_config(**changes):
    from albert_jax.config import AlbertConfig

    return AlbertConfig(**(SIZES | changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_hidden_groups=4, shared_across_groups="attention"),
        dict(num_hidden_groups=4, shared_across_groups="ffn"),
        dict(embedding_size=24),
        dict(hidden_act="gelu"),
        dict(hidden_act="gelu_erf"),
        dict(hidden_act="tanh"),
    ],
)
def test_what_transformers_lacks_is_written_out(tmp_path, changes):
    config = small_config(**changes)
    ours = albert_jax.AlbertForPreTraining.from_config(config, seed=3)
    ours.save_pretrained(tmp_path / "ours")
    peer = transformers.AlbertForPreTraining.from_pretrained(tmp_path / "ours").eval()
    assert_same_outputs(ours, peer, "AlbertForPreTraining")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_folders_are_read(tmp_path, dtype):
    peer = random_peer("AlbertForMaskedLM", 2).to(getattr(torch, dtype))
    peer.save_pretrained(tmp_path / "theirs")
    ours = albert_jax.AlbertForMaskedLM.from_pretrained(tmp_path / "theirs")
    assert_same_outputs(ours, peer.float(), "AlbertForMaskedLM")


def test_shards_are_read(tmp_path):
    peer = random_peer("AlbertForPreTraining", 2)
    peer.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    ours = albert_jax.AlbertForPreTraining.from_pretrained(tmp_path / "theirs")
    assert_same_outputs(ours, peer, "AlbertForPreTraining")


def test_a_torch_file_is_read_as_weights_alone(tmp_path):
    peer = random_peer("AlbertForQuestionAnswering", 2)
    peer.config.save_pretrained(tmp_path)
    torch.save(peer.state_dict(), tmp_path / "pytorch_model.bin")
    ours = albert_jax.AlbertForQuestionAnswering.from_pretrained(tmp_path)
    assert_same_outputs(ours, peer, "AlbertForQuestionAnswering")


@pytest.mark.parametrize("stored", ["bias", "weight", "both"])
def test_a_stored_decoder_that_differs_is_computed_with_as_transformers_5_does(tmp_path, stored):
    if transformers.__version__.startswith("4"):
        pytest.skip("transformers 4 ties a decoder that differs")
    from safetensors.torch import load_file, save_file

    peer = random_peer("AlbertForMaskedLM", 2)
    peer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if stored != "weight":
        tensors["predictions.decoder.bias"] = torch.randn(61)
    if stored != "bias":
        tensors["predictions.decoder.weight"] = torch.randn(61, 8)
    save_file(tensors, file, metadata={"format": "pt"})
    peer = transformers.AlbertForMaskedLM.from_pretrained(tmp_path).eval()
    assert_same_outputs(albert_jax.AlbertForMaskedLM.from_pretrained(tmp_path), peer, "AlbertForMaskedLM")


def test_the_bare_model_of_a_folder_with_a_head_agrees(tmp_path):
    peer = random_peer("AlbertForSequenceClassification", 3)
    peer.save_pretrained(tmp_path / "theirs")
    ours = albert_jax.AlbertModel.from_pretrained(tmp_path / "theirs")
    assert ours.report.left_over == ["classifier/bias", "classifier/kernel"]
    bare = transformers.AlbertModel.from_pretrained(tmp_path / "theirs").eval()
    assert_same_outputs(ours, bare, "AlbertModel")


def test_a_head_from_a_bare_folder_is_new(tmp_path):
    random_peer("AlbertModel", 2).save_pretrained(tmp_path / "theirs")
    ours = albert_jax.AlbertForTokenClassification.from_pretrained(tmp_path / "theirs", labels=("O", "B-X", "I-X"))
    assert ours.report.initialized == ["classifier/bias", "classifier/kernel"]
    assert ours(**random_inputs("AlbertForTokenClassification")).logits.shape == (3, 13, 3)


def test_label_names_and_problem_type_travel(tmp_path):
    labels = ("bad", "good", "ugly")
    config = small_config()
    ours = albert_jax.AlbertForSequenceClassification.from_config(config, labels=labels)
    ours.problem_type = "multi_label_classification"
    ours.save_pretrained(tmp_path / "ours")
    peer = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert peer.id2label == dict(enumerate(labels))
    assert peer.problem_type == "multi_label_classification"
    peer.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours" / "model.safetensors").rename(tmp_path / "theirs" / "model.safetensors")
    back = albert_jax.AlbertForSequenceClassification.from_pretrained(tmp_path / "theirs")
    assert (back.labels, back.problem_type) == (labels, "multi_label_classification")


def test_every_field_of_the_configuration_survives(tmp_path):
    peer = random_peer("AlbertModel", 2, num_hidden_groups=2, attention_probs_dropout_prob=0.2)
    peer.save_pretrained(tmp_path / "theirs")
    albert_jax.AlbertModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    theirs, ours = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours"))
    for name in {f.name for f in dataclasses.fields(small_config())} & theirs.keys():
        assert ours[name] == theirs[name], name


@pytest.mark.parametrize("head", CLASSES)
def test_what_the_flax_classes_saved_is_read(tmp_path, head):
    """Of transformers 4: version 5 has them no more, but the folders that they saved are still there."""
    try:
        peer = getattr(transformers, f"Flax{head}")(transformers.AlbertConfig(**SIZES, inner_group_num=2), seed=0)
    except (AttributeError, ImportError, RuntimeError) as error:
        pytest.skip(f"no Flax classes in transformers {transformers.__version__}: {type(error).__name__}")
    rng = np.random.default_rng(0)
    peer.params = jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), peer.params)
    peer.save_pretrained(tmp_path / "theirs")
    assert not list((tmp_path / "theirs").glob("*.safetensors"))

    ours = getattr(albert_jax, head).from_pretrained(tmp_path / "theirs")
    assert not ours.report.initialized
    assert not ours.report.left_over
    inputs = random_inputs(head)
    mine, theirs = ours(**inputs), peer(**inputs)
    assert theirs.keys()
    for name, expected in theirs.items():
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(getattr(mine, name), expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
