"""Hugging Face's folders: what their configurations and weights are taken to say, and what is refused.

Whether transformers agrees is for tests/peer/test_models_peer.py and tests/test_golden_peer.py.
"""

import dataclasses
import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import flax.serialization
import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from albert_jax.config import ALBERT_SIZES, AlbertConfig, albert_config
from albert_jax.errors import UserError
from albert_jax.interop.huggingface import (
    FLAX,
    INDEX,
    SAFETENSORS,
    TORCH,
    config_values,
    parameters_from_huggingface,
    read_config,
    read_folder,
    read_weights,
    to_huggingface,
    write_config,
    write_weights,
)
from albert_jax.model import AlbertForPreTraining, initialize
from albert_jax.pretrained import AlbertForMaskedLM

TINY = AlbertConfig(
    vocab_size=11,
    embedding_size=4,
    hidden_size=8,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
)
UNTIED = dataclasses.replace(TINY, tie_word_embeddings=False)
SQUARE = dataclasses.replace(TINY, embedding_size=8)
WORD = "albert.embeddings.word_embeddings.weight"
DECODER = "predictions.decoder.weight"
PROJECTION = "albert.encoder.embedding_hidden_mapping_in"


def random_parameters(config=TINY):
    """By path; numbers that differ everywhere, so that a swapped or transposed one shows."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), AlbertForPreTraining))
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    return {path: generator.normal(size=leaf.shape).astype(np.float32) for path, leaf in flat.items()}


def tensors_of(config=TINY, bare=False):
    return to_huggingface(config, random_parameters(config), bare)


def parameters_of(tensors, config=TINY):
    return parameters_from_huggingface(config, tensors, "a file").parameters


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for path, array in ours.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, theirs[path], err_msg=path)


def write_values(folder, config=TINY, **changes):
    """A config.json as transformers writes it; None takes a field out."""
    values = config_values(config, "AlbertForPreTraining") | {"written_by": None} | changes
    folder.mkdir(exist_ok=True)
    write_config(folder / "config.json", {name: value for name, value in values.items() if value is not None})
    return folder / "config.json"


@pytest.fixture
def folder(tmp_path):
    """A whole model."""
    write_values(tmp_path)
    write_weights(tmp_path / SAFETENSORS, tensors_of(), "float32")
    return tmp_path


def refused(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        read_folder(folder)
    return str(caught.value)


# ---- config.json


def test_a_field_that_is_missing_has_transformers_default(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    config, _ = read_config(tmp_path / "config.json")
    assert (config.vocab_size, config.embedding_size, config.hidden_size) == (30_000, 128, 4096)
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (12, 64, 16_384)
    assert (config.hidden_act, config.hidden_dropout_prob, config.classifier_dropout_prob) == ("gelu_new", 0.0, 0.1)
    assert (config.max_position_embeddings, config.layer_norm_eps) == (512, 1e-12)


def test_every_field_that_is_there_is_read(tmp_path):
    config = dataclasses.replace(
        TINY,
        num_hidden_groups=2,
        inner_group_num=2,
        hidden_act="relu",
        hidden_dropout_prob=0.25,
        attention_probs_dropout_prob=0.125,
        classifier_dropout_prob=0.5,
        type_vocab_size=3,
        initializer_range=0.1,
        layer_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    write_config(tmp_path / "config.json", config_values(config, "AlbertModel"))
    assert read_config(tmp_path / "config.json")[0] == config


def test_fields_of_neither_network_are_ignored(tmp_path):
    path = write_values(tmp_path, net_structure_type=0, gap_size=0, position_embedding_type="absolute")
    assert read_config(path)[0] == dataclasses.replace(TINY, hidden_act="gelu_new")


def test_whole_numbers_may_stand_for_dropouts(tmp_path):
    dropout = read_config(write_values(tmp_path, hidden_dropout_prob=0))[0].hidden_dropout_prob
    assert (dropout, type(dropout)) == (0, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "bert"}', "model_type is 'bert', expected 'albert'"),
        ('{"hidden_size": 8}', "model_type is None, expected 'albert'"),
        ('{"model_type": "albert"', "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[1, 2]", "holds a list, expected a JSON object"),
        ('"albert"', "holds a str, expected a JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("\ud800", "cannot be read as JSON"),
    ],
)
def test_what_is_no_configuration_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert str(tmp_path / "config.json") in refused(tmp_path, message)


def test_a_folder_without_configuration_says_so(folder):
    (folder / "config.json").unlink()
    refused(folder, "config.json: no such file")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "8"),
        ("hidden_size", 8.0),
        ("hidden_size", 0),
        ("hidden_size", 7),
        ("num_hidden_groups", 5),
        ("layer_norm_eps", "1e-12"),
        ("layer_norm_eps", float("nan")),
        ("hidden_dropout_prob", 2),
        ("hidden_dropout_prob", 10**400),
        ("hidden_dropout_prob", [0.1]),
        ("tie_word_embeddings", "yes"),
        ("hidden_act", "swish"),
        ("hidden_act", ["gelu"]),
        ("num_labels", "three"),
        ("num_labels", 0),
        ("num_labels", 10**9),
        ("num_hidden_layers", 10**9),
        ("inner_group_num", 10**7),
        ("problem_type", "classification"),
        ("id2label", ["bad", "good"]),
        ("id2label", {}),
        ("id2label", {"0": "bad", "2": "good"}),
        ("id2label", {"one": "bad"}),
        ("id2label", {"0": "bad", "1": None}),
    ],
)
def test_a_field_with_a_wrong_value_is_refused_by_name(tmp_path, field, value):
    path = write_values(tmp_path, **{field: value})
    with pytest.raises(UserError, match=field) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_labels_that_utf_8_cannot_hold_are_refused(tmp_path):
    path = write_values(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "bad", "1": "\ud800"}}))
    with pytest.raises(UserError, match=r"id2label names 1 .*, expected text that UTF-8 can hold"):
        read_config(path)


@pytest.mark.parametrize("value", [[], ["AnotherModel"], [["nested"]], [{}], "AlbertModel", 3])
def test_an_unusual_architecture_does_no_harm(tmp_path, value):
    write_values(tmp_path, architectures=value)
    write_weights(tmp_path / SAFETENSORS, tensors_of(), "float32")
    assert AlbertForMaskedLM.from_pretrained(tmp_path, verbose=False).report.initialized == []
    from albert_jax.convert import class_of

    assert class_of(read_folder(tmp_path)) == "AlbertForPreTraining"


def test_labels_are_in_the_order_of_their_numbers(tmp_path):
    path = write_values(tmp_path, id2label={"2": "c", "0": "a", "1": "b"})
    assert read_config(path)[1]["labels"] == ("a", "b", "c")


def test_labels_known_by_number_alone_are_named_as_transformers_does(tmp_path):
    assert read_config(write_values(tmp_path, num_labels=3))[1]["labels"] == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert read_config(write_values(tmp_path))[1]["labels"] == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("gelu", "gelu_erf"), ("gelu_new", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"), ("relu", "relu")],
)
def test_activations_are_those_of_transformers(tmp_path, theirs, ours):
    assert read_config(write_values(tmp_path, hidden_act=theirs))[0].hidden_act == ours


@pytest.mark.parametrize("ours", ["gelu", "gelu_new", "gelu_erf", "relu", "tanh", "linear"])
def test_activations_survive_writing_and_reading(tmp_path, ours):
    config = dataclasses.replace(TINY, hidden_act=ours)
    again, _ = read_config(write_values(tmp_path, config))
    assert again.hidden_act == {"gelu": "gelu_new"}.get(ours, ours)


def test_where_transformers_rounds_layers_into_other_groups_is_refused(tmp_path):
    odd = dataclasses.replace(TINY, num_hidden_layers=18, num_hidden_groups=14)
    with pytest.raises(UserError, match="deals 18 layers out to 14 groups differently"):
        config_values(odd, "AlbertModel")
    with pytest.raises(UserError, match=r"config.json: transformers.* 18 layers out to 14 groups differently"):
        read_config(write_values(tmp_path, num_hidden_layers=18, num_hidden_groups=14))


def test_transformers_rounding_is_ours_wherever_groups_divide_the_layers():
    for layers in range(1, 49):
        for groups in (groups for groups in range(1, layers + 1) if layers % groups == 0):
            config_values(dataclasses.replace(TINY, num_hidden_layers=layers, num_hidden_groups=groups), "AlbertModel")


# ---- the two errors of the published configurations


def published(tmp_path, size, **changes):
    """The configuration of a released model, with what its config.json says."""
    sizes = ALBERT_SIZES[size] | (dict(num_attention_heads=16) if size == "xlarge" else {})
    config = AlbertConfig(**sizes, hidden_act="gelu_new")
    return read_config(write_values(tmp_path, config, **changes))


def test_the_heads_of_published_xlarge_are_corrected(tmp_path):
    config, description = published(tmp_path, "xlarge")
    assert config.num_attention_heads == 32
    assert any("16 -> 32" in note for note in description["notes"])


@pytest.mark.parametrize(
    "change",
    [
        dict(vocab_size=21_128),
        dict(embedding_size=256),
        dict(num_hidden_layers=12),
        dict(num_hidden_groups=24),
        dict(intermediate_size=4096),
        dict(inner_group_num=2),
    ],
)
def test_the_heads_of_other_networks_are_not(tmp_path, change):
    config, description = published(tmp_path, "xlarge", **change)
    assert config.num_attention_heads == 16
    assert description["notes"] == []


@pytest.mark.parametrize("size", ["base", "large", "xxlarge"])
def test_the_other_sizes_keep_their_heads(tmp_path, size):
    assert published(tmp_path, size)[0].num_attention_heads == ALBERT_SIZES[size]["num_attention_heads"]


@pytest.mark.parametrize("size", ALBERT_SIZES)
def test_version_1_computes_the_tanh_form_of_gelu(tmp_path, size):
    dropout = 0 if size == "xxlarge" else 0.1
    config, description = published(tmp_path, size, hidden_act="gelu", hidden_dropout_prob=dropout)
    assert config.hidden_act == "gelu_new"
    assert any("this is ALBERT v1" in note for note in description["notes"])


@pytest.mark.parametrize("change", [dict(vocab_size=21_128), dict(hidden_dropout_prob=0.0), dict(num_hidden_layers=6)])
def test_another_networks_gelu_is_the_one_of_transformers(tmp_path, change):
    config, description = published(tmp_path, "base", **dict(hidden_act="gelu", hidden_dropout_prob=0.1) | change)
    assert config.hidden_act == "gelu_erf"
    assert any("erf form" in note for note in description["notes"])


def test_our_own_configuration_means_what_it_says(tmp_path):
    ours = dataclasses.replace(albert_config("xlarge", 1), num_attention_heads=16, hidden_act="gelu_erf")
    write_config(tmp_path / "config.json", config_values(ours, "AlbertModel"))
    config, description = read_config(tmp_path / "config.json")
    assert config == ours
    assert not description["notes"]


# ---- names of tensors


def test_names_are_transformers():
    names = tensors_of(dataclasses.replace(UNTIED, num_hidden_groups=2, inner_group_num=2))
    block = "albert.encoder.albert_layer_groups.1.albert_layers.1"
    assert names[f"{block}.attention.query.weight"].shape == (8, 8)
    assert names[f"{block}.ffn.weight"].shape == (12, 8)
    assert names[f"{block}.ffn_output.weight"].shape == (8, 12)
    assert names[f"{block}.full_layer_layer_norm.bias"].shape == (8,)
    assert names[f"{PROJECTION}.weight"].shape == (8, 4)
    assert names[WORD].shape == names[DECODER].shape == (11, 4)
    assert names["sop_classifier.classifier.weight"].shape == (2, 8)
    assert "predictions.decoder.bias" in names


def test_a_tied_decoder_is_not_stored():
    assert not [name for name in tensors_of() if "decoder" in name]


def test_parameters_survive_writing_and_reading():
    assert_same(parameters_of(tensors_of()), random_parameters())


def test_a_bare_models_tensors_have_no_prefix():
    bare = tensors_of(bare=True)
    assert "embeddings.word_embeddings.weight" in bare
    assert not [name for name in bare if name.startswith("albert.")]
    assert_same(parameters_of(bare), random_parameters())


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"module.{name}".replace("module.albert.", "module."),
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
    ids=["DataParallel", "DataParallel of a bare model", "gamma and beta"],
)
def test_older_names_are_known(rename):
    assert_same(parameters_of({rename(name): tensor for name, tensor in tensors_of().items()}), random_parameters())


@pytest.mark.parametrize("again", ["embeddings.word_embeddings.weight", f"module.{WORD}"])
def test_two_names_for_one_tensor_are_refused(again):
    tensors = tensors_of()
    tensors[again] = tensors[WORD] + 1
    with pytest.raises(UserError, match=r"a file: holds both .* which are one tensor"):
        parameters_of(tensors)


def test_position_ids_are_no_parameter():
    tensors = tensors_of() | {"albert.embeddings.position_ids": np.arange(6)[None]}
    saved = parameters_from_huggingface(TINY, tensors, "a file")
    assert saved.left_over == []
    assert_same(saved.parameters, random_parameters())


def test_unknown_tensors_are_left_over_by_the_name_that_they_have():
    tensors = tensors_of() | {"module.lm_head.weight": np.zeros(3, np.float32), "adapter.scale": np.zeros(())}
    saved = parameters_from_huggingface(TINY, tensors, "a file")
    assert saved.left_over == ["adapter.scale", "module.lm_head.weight"]


def test_a_group_beyond_the_configuration_is_left_over():
    grouped = dataclasses.replace(TINY, num_hidden_groups=2)
    saved = parameters_from_huggingface(TINY, tensors_of(grouped), "a file")
    assert len(saved.left_over) == 16
    assert all(".albert_layer_groups.1." in name for name in saved.left_over)


# ---- decoder, projection


def test_a_stored_decoder_that_equals_the_word_embeddings_is_tied():
    tensors = tensors_of()
    saved = parameters_from_huggingface(TINY, tensors | {DECODER: tensors[WORD].copy()}, "a file")
    assert saved.config.tie_word_embeddings
    assert saved.notes == []
    assert_same(saved.parameters, random_parameters())


def test_a_stored_decoder_that_differs_is_kept_and_told():
    decoder = np.ones((11, 4), np.float32)
    saved = parameters_from_huggingface(TINY, tensors_of() | {DECODER: decoder}, "a file")
    assert not saved.config.tie_word_embeddings
    np.testing.assert_array_equal(saved.parameters["predictions/decoder"], decoder)
    assert any("both are kept" in note for note in saved.notes)


def test_a_decoder_that_the_configuration_unties_needs_no_telling():
    saved = parameters_from_huggingface(UNTIED, tensors_of(UNTIED), "a file")
    assert not saved.config.tie_word_embeddings
    assert saved.notes == []
    assert_same(saved.parameters, random_parameters(UNTIED))


def test_the_decoders_own_bias_is_the_one_computed_with():
    bias = np.full(11, 7.0, np.float32)
    saved = parameters_from_huggingface(TINY, tensors_of() | {"predictions.decoder.bias": bias}, "a file")
    np.testing.assert_array_equal(saved.parameters["predictions/bias"], bias)
    assert saved.left_over == []


def test_e_equal_to_h_is_written_with_an_identity_and_read_without():
    tensors = tensors_of(SQUARE)
    np.testing.assert_array_equal(tensors[f"{PROJECTION}.weight"], np.eye(8))
    assert not tensors[f"{PROJECTION}.bias"].any()
    saved = parameters_from_huggingface(SQUARE, tensors, "a file")
    assert not saved.config.projects_embeddings
    assert_same(saved.parameters, random_parameters(SQUARE))


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_e_equal_to_h_with_a_real_projection_keeps_it(part):
    tensors = tensors_of(SQUARE)
    tensors[f"{PROJECTION}.{part}"].flat[3] = 0.5
    saved = parameters_from_huggingface(SQUARE, tensors, "a file")
    assert saved.config.projects_embeddings
    np.testing.assert_array_equal(
        saved.parameters["albert/encoder/embedding_hidden_mapping_in/kernel"], tensors[f"{PROJECTION}.weight"].T
    )


@pytest.mark.parametrize("shape", [(), (8,), (3, 8), (8, 3)])
def test_a_projection_of_another_shape_is_a_mismatch_and_no_crash(tmp_path, shape):
    write_values(tmp_path, SQUARE)
    tensors = tensors_of(SQUARE) | {f"{PROJECTION}.weight": np.zeros(shape, np.float32)}
    write_weights(tmp_path / SAFETENSORS, tensors, "float32")
    with pytest.raises(UserError, match="embedding_hidden_mapping_in/kernel has shape"):
        AlbertForMaskedLM.from_pretrained(tmp_path, verbose=False)


def test_what_all_groups_share_is_copied_into_each():
    config = dataclasses.replace(TINY, num_hidden_groups=4, shared_across_groups="attention")
    tensors = tensors_of(config)
    blocks = [f"albert.encoder.albert_layer_groups.{group}.albert_layers.0" for group in range(4)]
    query = [tensors[f"{block}.attention.query.weight"] for block in blocks]
    ffn = [tensors[f"{block}.ffn.weight"] for block in blocks]
    assert all(np.array_equal(query[0], other) for other in query)
    assert not any(np.array_equal(ffn[0], other) for other in ffn[1:])


# ---- safetensors


def test_weights_survive_writing_and_reading(folder):
    assert_same(read_folder(folder).parameters, random_parameters())


def test_the_file_names_a_format_that_transformers_4_takes(folder):
    from safetensors import safe_open

    with safe_open(folder / SAFETENSORS, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16), ("float32", np.float32)]
)
def test_half_precision_is_written_rounded_and_read_exactly(tmp_path, dtype, kind):
    write_values(tmp_path)
    write_weights(tmp_path / SAFETENSORS, tensors_of(), dtype)
    assert load_file(tmp_path / SAFETENSORS)[WORD].dtype == kind
    rounded = {path: value.astype(kind).astype(np.float32) for path, value in random_parameters().items()}
    assert_same(read_folder(tmp_path).parameters, rounded)


def test_a_file_of_several_types_is_read(tmp_path):
    write_values(tmp_path)
    tensors = tensors_of()
    tensors[WORD] = tensors[WORD].astype(np.float64)
    tensors["predictions.bias"] = np.arange(11, dtype=np.float16)
    save_file(tensors, tmp_path / SAFETENSORS)
    np.testing.assert_array_equal(read_folder(tmp_path).parameters["predictions/bias"], np.arange(11, dtype=np.float32))


@pytest.mark.parametrize("name", ["config.json", SAFETENSORS])
def test_a_pipe_or_device_in_the_place_of_a_file_is_not_waited_for(folder, name):
    for make, kind in ((os.mkfifo, "a pipe or device"), (os.mkdir, "a folder")):
        (folder / name).unlink()
        make(folder / name)
        assert f"{name}: is {kind}, expected a file" in refused(folder, name)
        (folder / name).rmdir() if kind == "a folder" else None
    (folder / name).symlink_to("/dev/zero")
    refused(folder, "is a pipe or device")


def test_types_that_numpy_lacks_are_named(folder):
    tensors = {name: tensor.astype(ml_dtypes.float8_e4m3fn) for name, tensor in tensors_of().items()}
    save_file(tensors, folder / SAFETENSORS)
    refused(
        folder, r"model\.safetensors: holds tensors of a type that numpy lacks .*; parameters are read from float32"
    )


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_values(tmp_path)
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({WORD: tensors_of()[WORD]}, tmp_path / shard)
    weight_map = {WORD: "a.safetensors", "other": "b.safetensors"}
    (tmp_path / f"{SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, f"b.safetensors: holds {WORD}, which another shard holds too")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_a_shard_with_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    write_values(tmp_path)
    (tmp_path / f"{SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": {WORD: name}}))
    refused(tmp_path, "index.json: names the file .* which is no name of a file")


def test_missing_shards_by_the_thousand_are_named_in_part(tmp_path):
    write_values(tmp_path)
    weight_map = {str(number): f"{number}.safetensors" for number in range(5000)}
    (tmp_path / f"{SAFETENSORS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert len(refused(tmp_path, "5000 of 5000 shards are missing")) < 500


def test_parameters_that_are_whole_numbers_are_refused(tmp_path):
    write_values(tmp_path)
    save_file(tensors_of() | {"predictions.bias": np.arange(11)}, tmp_path / SAFETENSORS)
    with pytest.raises(UserError, match=r"predictions.bias is of type int64"):
        read_folder(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_refused_by_name(folder, size):
    content = (folder / SAFETENSORS).read_bytes()
    (folder / SAFETENSORS).write_bytes(content[:size])
    assert "copy or download it again" in refused(folder, "model.safetensors: not a whole safetensors file")


@pytest.mark.parametrize(
    "content",
    [
        (2**62).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"not json!",
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 47\n",
    ],
    ids=["huge header", "header is not JSON", "a page of the web", "a pointer of git-lfs"],
)
def test_what_is_no_safetensors_is_refused_by_name(folder, content):
    (folder / SAFETENSORS).write_bytes(content)
    refused(folder, "model.safetensors: not a whole safetensors file")


def test_a_file_without_tensors_is_refused(folder):
    save_file({}, folder / SAFETENSORS)
    refused(folder, "model.safetensors: holds no tensors")


def test_damage_anywhere_is_at_worst_a_message(folder):
    content = (folder / SAFETENSORS).read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(1000)] = generator.randrange(256)
        (folder / SAFETENSORS).write_bytes(damaged)
        try:
            read_folder(folder)
        except UserError as error:
            assert str(folder) in str(error)


def test_a_folder_without_weights_says_what_it_lacks(tmp_path):
    write_values(tmp_path)
    refused(tmp_path, "has no weights; expected one of model.safetensors")


# ---- shards


@pytest.fixture
def shards(tmp_path):
    """A whole model in two files."""
    write_values(tmp_path)
    tensors = tensors_of()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        write_weights(tmp_path / file, {name: tensors[name] for name in part}, "float32")
    write_index(tmp_path, {name: file for file, part in parts.items() for name in part})
    return tmp_path


def write_index(folder, weight_map, **others):
    (folder / (SAFETENSORS + INDEX)).write_text(json.dumps({"weight_map": weight_map, **others}))


def test_shards_are_read_as_one(shards):
    path, _ = read_weights(shards)
    assert path.name == SAFETENSORS + INDEX
    assert_same(read_folder(shards).parameters, random_parameters())


def test_a_missing_shard_is_named(shards):
    (shards / "model-00002-of-00002.safetensors").unlink()
    refused(shards, "1 of 2 shards are missing: model-00002-of-00002.safetensors")


def test_a_truncated_shard_is_named(shards):
    shard = shards / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    refused(shards, "model-00001-of-00002.safetensors: not a whole safetensors file")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", ""])
def test_an_index_that_leads_out_of_its_folder_is_refused(shards, name):
    (shards.parent / "x.safetensors").write_bytes((shards / "model-00001-of-00002.safetensors").read_bytes())
    write_index(shards, {WORD: name})
    refused(shards, r"does not lie in the same folder|is not a file of weights")


@pytest.mark.parametrize(
    "content",
    ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}', '{"weight_map": null}'],
)
def test_an_index_without_a_map_is_refused(shards, content):
    (shards / (SAFETENSORS + INDEX)).write_text(content)
    refused(shards, r"model.safetensors.index.json: has no weight_map")


def test_an_index_that_is_no_json_is_refused(shards):
    (shards / (SAFETENSORS + INDEX)).write_text("{")
    refused(shards, r"model.safetensors.index.json: cannot be read as JSON")


def test_an_index_may_not_name_a_file_of_another_kind(shards):
    (shards / "weights.pkl").write_bytes(pickle.dumps({}))
    write_index(shards, {WORD: "weights.pkl"})
    refused(shards, "weights.pkl: is not a file of weights")


# ---- torch


class Evil:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def write_pickle(path, content, zipped):
    """As torch lays it out now (a zip file), or as it did before version 1.6."""
    if not zipped:
        path.write_bytes(pickle.dumps(content, protocol=2))
        return
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")


@pytest.fixture
def torch_folder(tmp_path):
    write_values(tmp_path)
    return tmp_path


@pytest.mark.peer
@pytest.mark.parametrize("content", ["names", "types", "list", "repeated"])
def test_a_torch_file_of_other_things_is_refused(torch_folder, content):
    torch = pytest.importorskip("torch")
    tensors = {
        "names": {1: torch.zeros(2)},
        "types": {WORD: torch.zeros(2, dtype=torch.int8)},
        "list": [torch.zeros(2)],
        "repeated": {"classifier.weight": torch.zeros(1).expand(2**20, 2**20)},  # 4 TiB, were it written out
    }
    torch.save(tensors[content], torch_folder / TORCH)
    refused(torch_folder, r"pytorch_model\.bin: ")


@pytest.mark.peer
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
def test_a_malicious_torch_file_is_refused_and_not_executed(torch_folder, zipped):
    pytest.importorskip("torch")
    write_pickle(torch_folder / TORCH, {WORD: Evil(torch_folder / "owned")}, zipped)
    refused(torch_folder, "pytorch_model.bin: torch cannot load this as weights alone")
    assert not (torch_folder / "owned").exists()
    if not zipped:
        pickle.loads((torch_folder / TORCH).read_bytes())
        assert (torch_folder / "owned").exists(), "the file was no threat, so the test shows nothing"


@pytest.mark.peer
@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_truncated_torch_file_is_refused(torch_folder, size):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(tensor) for name, tensor in tensors_of().items()}, torch_folder / TORCH)
    content = (torch_folder / TORCH).read_bytes()
    (torch_folder / TORCH).write_bytes(content[:size])
    refused(torch_folder, "pytorch_model.bin: torch cannot load this as weights alone")


@pytest.mark.peer
@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"a": "text"}])
def test_a_torch_file_of_something_else_is_refused(torch_folder, content):
    torch = pytest.importorskip("torch")
    torch.save(content, torch_folder / TORCH)
    refused(torch_folder, "pytorch_model.bin: torch cannot load this as weights alone")


@pytest.mark.peer
@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_is_read(torch_folder, legacy):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(tensor) for name, tensor in tensors_of().items()}
    torch.save(tensors, torch_folder / TORCH, _use_new_zipfile_serialization=not legacy)
    assert_same(read_folder(torch_folder).parameters, random_parameters())


def test_a_torch_file_without_torch_says_what_to_do(torch_folder, monkeypatch):
    write_pickle(torch_folder / TORCH, {WORD: Evil(torch_folder / "owned")}, zipped=True)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    assert "pip install torch" in refused(torch_folder, "pytorch_model.bin: reading torch's own format needs torch")
    assert not (torch_folder / "owned").exists()


def test_safetensors_are_preferred_to_torch(folder):
    (folder / TORCH).write_bytes(b"never read")
    assert_same(read_folder(folder).parameters, random_parameters())


# ---- Flax


def flax_tree(tensors):
    """Torch's tensors as the Flax classes of transformers 4 laid them out."""
    flat = {}
    for name, tensor in tensors.items():
        module, kind = name.rsplit(".", 1)
        if kind == "weight":
            kind = "scale" if module.endswith(("LayerNorm", "layer_norm")) else "kernel"
            kind = "embedding" if module.endswith("_embeddings") else kind
        flat[tuple(f"{module}.{kind}".split("."))] = tensor.T if kind == "kernel" else tensor
    return flax.traverse_util.unflatten_dict(flat)


@pytest.fixture
def flax_folder(tmp_path):
    write_values(tmp_path)
    (tmp_path / FLAX).write_bytes(flax.serialization.to_bytes(flax_tree(tensors_of())))
    return tmp_path


def test_a_flax_file_is_read(flax_folder):
    tree = flax.serialization.msgpack_restore((flax_folder / FLAX).read_bytes())
    block = tree["albert"]["encoder"]["albert_layer_groups"]["0"]["albert_layers"]["0"]
    assert block["ffn"]["kernel"].shape == (8, 12)
    assert block["full_layer_layer_norm"]["scale"].shape == (8,)
    assert tree["albert"]["embeddings"]["word_embeddings"]["embedding"].shape == (11, 4)
    assert_same(read_folder(flax_folder).parameters, random_parameters())


def test_an_untied_flax_file_is_read(flax_folder):
    write_values(flax_folder, UNTIED)
    (flax_folder / FLAX).write_bytes(flax.serialization.to_bytes(flax_tree(tensors_of(UNTIED))))
    assert_same(read_folder(flax_folder).parameters, random_parameters(UNTIED))


def test_a_flax_file_in_bfloat16_is_read(flax_folder):
    tree = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), flax_tree(tensors_of()))
    (flax_folder / FLAX).write_bytes(flax.serialization.to_bytes(tree))
    rounded = {p: v.astype(ml_dtypes.bfloat16).astype(np.float32) for p, v in random_parameters().items()}
    assert_same(read_folder(flax_folder).parameters, rounded)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_flax_file_is_refused_by_name(flax_folder, size):
    content = (flax_folder / FLAX).read_bytes()
    (flax_folder / FLAX).write_bytes(content[:size])
    refused(flax_folder, "flax_model.msgpack: not a whole Flax checkpoint")


@pytest.mark.parametrize("tree", [{"a": {"kernel": "text"}}, {"a": None}, [1, 2], 5, "text"])
def test_a_flax_file_of_something_else_is_refused_by_name(flax_folder, tree):
    (flax_folder / FLAX).write_bytes(flax.serialization.msgpack_serialize(tree))
    refused(flax_folder, "flax_model.msgpack: not a whole Flax checkpoint")


# ---- overrides


def test_what_was_corrected_can_be_overridden(tmp_path):
    """The published error is corrected by size alone, so the sizes here are real; the parameters are not needed."""
    from albert_jax.pretrained import _overridden

    config, _ = published(tmp_path, "xlarge", hidden_act="gelu", hidden_dropout_prob=0.1)
    assert (config.num_attention_heads, config.hidden_act) == (32, "gelu_new")
    config = _overridden(config, dict(num_attention_heads=16, hidden_act="gelu_erf"))
    assert (config.num_attention_heads, config.hidden_act) == (16, "gelu_erf")


def test_version_1_is_overridden_in_a_whole_model(tmp_path):
    """The published base model, with zeros for parameters."""
    config = AlbertConfig(**ALBERT_SIZES["base"], hidden_dropout_prob=0.1, hidden_act="gelu_erf")
    path = write_values(tmp_path, config)
    assert json.loads(path.read_text())["hidden_act"] == "gelu"
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), AlbertForPreTraining))
    zeros = {p: np.zeros(x.shape, np.float32) for p, x in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    write_weights(tmp_path / SAFETENSORS, to_huggingface(config, zeros, bare=False), "bfloat16")
    for override, act in (({}, "gelu_new"), ({"hidden_act": "gelu_erf"}, "gelu_erf")):
        assert AlbertForMaskedLM.from_pretrained(tmp_path, verbose=False, **override).config.hidden_act == act


def test_an_activation_is_overridden_in_a_whole_model(folder):
    default, other = (
        AlbertForMaskedLM.from_pretrained(folder, verbose=False, **override)
        for override in ({}, {"hidden_act": "gelu_erf"})
    )
    assert (default.config.hidden_act, other.config.hidden_act) == ("gelu_new", "gelu_erf")
    ids = np.arange(6)[None]
    assert not np.array_equal(default(ids).logits, other(ids).logits)


def test_reading_changes_nothing(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    copy = shutil.copytree(folder, Path(f"{folder}_copy"))
    read_folder(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
