import builtins
import dataclasses
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.interop.google import (
    checkpoint_prefix,
    from_google,
    google_config,
    google_groups,
    parameters_from_google,
    read_checkpoint,
    to_google,
    variable_names,
    write_checkpoint,
)
from albert_jax.model import (
    AlbertForBeamQuestionAnswering,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    apply,
    initialize,
)

TINY = AlbertConfig(
    vocab_size=11,
    embedding_size=4,
    hidden_size=8,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
)
GROUPED = dataclasses.replace(TINY, num_hidden_groups=2, inner_group_num=2)
CONFIGS = {
    "shared": TINY,
    "groups": GROUPED,
    "square": dataclasses.replace(TINY, embedding_size=8),
}
SLOTS = ("adam_m", "adam_v", "LAMB", "Adam_1")


def random_params(config, network=AlbertForPreTraining, **sizes):
    """Numbers that differ everywhere, biases and LayerNorm too, so that a dropped or swapped one shows."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), network, **sizes))
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)


def variables_of(config=TINY):
    return to_google(config, random_params(config))


def renamed(variables, rule):
    return {rule(name): array for name, array in variables.items()}


def with_keras_norms(config, variables, named=False, change=0.0):
    """The variables that Google's code has when `tf.keras.layers.LayerNormalization` makes its LayerNorms: new ones in
    every layer, numbered from the embeddings' on. `change` is how much they differ from layer to layer."""
    old = {name: array for name, array in variables.items() if "LayerNorm" not in name}
    number = iter(range(1000))

    def put(scope, module, source, shift=0.0):
        n = next(number)
        module = module if named else f"layer_normalization_{n}".removesuffix("_0")
        for leaf in ("gamma", "beta"):
            old[f"{scope}/{module}/{leaf}"] = variables[f"{source}/{leaf}"] + np.float32(shift)

    put("bert/embeddings", "LayerNorm", "bert/embeddings/LayerNorm")
    transformer = "bert/encoder/transformer"
    for layer, group in enumerate(config.layer_groups):
        again = layer - config.layer_groups.index(group)
        scope = f"{transformer}/group_{group}" + (f"_{again}" if again else "") + f"/layer_{layer}"
        for inner in range(config.inner_group_num):
            for module in ("LayerNorm", "LayerNorm_1"):
                source = f"{transformer}/group_{group}/inner_group_{inner}/{module}"
                put(f"{scope}/inner_group_{inner}", module, source, change * layer)
    put("cls/predictions/transform", "LayerNorm", "cls/predictions/transform/LayerNorm")
    return old


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def logits(config, params):
    tokens = jnp.arange(10).reshape(2, 5)
    return apply(config, params, tokens, tokens % 2, tokens < 9).mlm_logits


# Names and parameters


def test_names_are_googles():
    names = variable_names(GROUPED)
    ours = "albert/encoder/group_1/inner_group_1"
    theirs = "bert/encoder/transformer/group_1/inner_group_1"
    assert names[f"{ours}/attention/query/kernel"] == f"{theirs}/attention_1/self/query/kernel"
    assert names[f"{ours}/attention/output/bias"] == f"{theirs}/attention_1/output/dense/bias"
    assert names[f"{ours}/attention/layer_norm/scale"] == f"{theirs}/LayerNorm/gamma"
    assert names[f"{ours}/ffn/intermediate/kernel"] == f"{theirs}/ffn_1/intermediate/dense/kernel"
    assert names[f"{ours}/ffn/output/kernel"] == f"{theirs}/ffn_1/intermediate/output/dense/kernel"
    assert names[f"{ours}/ffn/layer_norm/bias"] == f"{theirs}/LayerNorm_1/beta"
    assert names["sop_classifier/kernel"] == "cls/seq_relationship/output_weights"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_names_are_of_the_networks_parameters(config):
    assert set(variable_names(config)) == set(flatten_dict(random_params(config), sep="/"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_round_trip_is_exact(config):
    params = random_params(config)
    found = parameters_from_google(config, to_google(config, params))
    assert_same(found.parameters, flatten_dict(params, sep="/"))
    assert (found.left_over, found.notes, found.config) == ([], [], config)


def test_real_variables_come_back_bit_for_bit(google_fixture):
    config = AlbertConfig.from_json_file(google_fixture / "albert_config.json")
    variables = dict(np.load(google_fixture / "variables.npz"))
    found = parameters_from_google(config, variables)
    assert (found.left_over, found.notes, found.config) == ([], [], config)
    assert_same(to_google(config, unflatten_dict(found.parameters, sep="/")), variables)


def test_head_matrices_are_transposed():
    variables = variables_of()
    kernel = parameters_from_google(TINY, variables).parameters["sop_classifier/kernel"]
    np.testing.assert_array_equal(kernel, variables["cls/seq_relationship/output_weights"].T)


def test_part_of_a_checkpoint_gives_part_of_the_parameters():
    variables = {name: array for name, array in variables_of().items() if name.startswith("bert/pooler")}
    assert set(parameters_from_google(TINY, variables).parameters) == {"albert/pooler/kernel", "albert/pooler/bias"}


def test_all_of_the_pretraining_variables_are_demanded_by_the_strict_reader():
    variables = variables_of()
    del variables["bert/pooler/dense/bias"]
    with pytest.raises(UserError, match=r"lacks 1 of .* bert/pooler/dense/bias"):
        from_google(TINY, variables)


@pytest.mark.parametrize("scope", ["module/", "teacher/", "a/b/", "bert/", "module/inner/"])
def test_scope_around_the_model_is_dropped(scope):
    found = parameters_from_google(TINY, renamed(variables_of(), lambda name: scope + name))
    assert_same(found.parameters, parameters_from_google(TINY, variables_of()).parameters)
    assert found.left_over == []


def test_head_may_be_outside_the_models_scope():
    variables = renamed(variables_of(), lambda name: f"module/{name}") | {"output_bias": np.zeros(3, np.float32)}
    assert "classifier/bias" in parameters_from_google(TINY, variables).parameters


def test_second_model_in_a_scope_is_left_over():
    copy = renamed(variables_of(), lambda name: f"teacher/{name}")
    found = parameters_from_google(TINY, variables_of() | copy)
    assert found.left_over == sorted(copy)


def test_two_models_in_scopes_are_refused():
    both = {f"{scope}/{name}": array for name, array in variables_of().items() for scope in ("student", "teacher")}
    with pytest.raises(UserError, match="2 models, in the scopes student/, teacher/"):
        parameters_from_google(TINY, both)


def test_keys_of_object_checkpoints_are_understood():
    def key(name):
        return name.replace("/", ".S") + "/.ATTRIBUTES/VARIABLE_VALUE"

    counter = {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.int64(3)}
    found = parameters_from_google(TINY, renamed(variables_of(), key) | counter)
    assert_same(found.parameters, parameters_from_google(TINY, variables_of()).parameters)
    assert found.left_over == []


def test_tensor_names_are_understood():
    found = parameters_from_google(TINY, renamed(variables_of(), lambda name: f"{name}:0"))
    assert len(found.parameters) == len(variables_of()) and found.left_over == []


def test_optimizer_slots_and_steps_are_no_parameters():
    slots = {f"{name}/{slot}": array for name, array in variables_of().items() for slot in SLOTS}
    steps = {"global_step": np.int64(7), "beta1_power": np.float32(0.9), "training/beta2_power": np.float32(0.9)}
    found = parameters_from_google(TINY, variables_of() | slots | steps)
    assert len(found.parameters) == len(variables_of()) and found.left_over == []


def test_averaged_weights_are_left_over_and_not_dropped_in_silence():
    averages = renamed(variables_of(), lambda name: f"{name}/ExponentialMovingAverage")
    found = parameters_from_google(TINY, variables_of() | averages)
    assert found.left_over == sorted(averages)


@pytest.mark.parametrize("name", ["bert/embeddings/word_embedding", "bert/encoder/layer_0/output/dense/bias", "foo"])
def test_unknown_name_is_left_over(name):
    found = parameters_from_google(TINY, variables_of() | {name: np.zeros(4, np.float32)})
    assert found.left_over == [name]
    assert len(found.parameters) == len(variables_of())


@pytest.mark.parametrize("name", ["group_1/inner_group_0", "group_0/inner_group_1", "group_0_4/layer_4/inner_group_0"])
def test_group_that_the_configuration_does_not_have_is_refused(name):
    variable = f"bert/encoder/transformer/{name}/LayerNorm/gamma"
    with pytest.raises(UserError, match=rf"{variable}: the configuration has \w+ = "):
        parameters_from_google(TINY, variables_of() | {variable: np.zeros(8, np.float32)})


def test_two_variables_for_one_parameter_are_refused():
    copy = {"bert/pooler/dense/bias:0": np.zeros(8, np.float32)}
    with pytest.raises(UserError, match="bert/pooler/dense/bias and bert/pooler/dense/bias:0 are both for one"):
        parameters_from_google(TINY, variables_of() | copy)


def test_shared_layer_norm_beside_one_of_a_layer_is_refused():
    variables = variables_of() | with_keras_norms(TINY, variables_of())
    with pytest.raises(UserError, match="are both for one parameter"):
        parameters_from_google(TINY, variables)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_are_read_as_float32(dtype):
    variables = {name: array.astype(dtype) for name, array in variables_of().items()}
    found = parameters_from_google(TINY, variables)
    assert found.notes == [f"{len(variables)} variables of type {np.dtype(dtype).name}: read as float32"]
    assert_same(to_google(TINY, unflatten_dict(found.parameters, sep="/")), variables)


def test_quantised_variable_is_refused():
    variables = variables_of() | {"bert/pooler/dense/kernel": np.zeros((8, 8), np.int8)}
    with pytest.raises(UserError, match="bert/pooler/dense/kernel: is of type int8"):
        parameters_from_google(TINY, variables)


def test_projection_where_sizes_are_equal_is_kept():
    square = CONFIGS["square"]
    name = "bert/encoder/embedding_hidden_mapping_in"
    more = {f"{name}/kernel": np.ones((8, 8), np.float32), f"{name}/bias": np.ones(8, np.float32)}
    found = parameters_from_google(square, variables_of(square) | more)
    assert found.config == dataclasses.replace(square, always_project_embeddings=True)
    assert len(found.notes) == 1


# LayerNorm of each layer


@pytest.mark.parametrize("named", [False, True], ids=["numbered", "named"])
@pytest.mark.parametrize("config", [TINY, GROUPED], ids=["shared", "groups"])
def test_equal_layer_norms_of_the_layers_are_shared_again(config, named):
    variables = variables_of(config)
    found = parameters_from_google(config, with_keras_norms(config, variables, named))
    assert found.config == config and found.left_over == []
    assert found.notes == ["every layer has a LayerNorm of its own, equal within each group: read as shared"]
    assert_same(to_google(config, unflatten_dict(found.parameters, sep="/")), variables)


@pytest.mark.parametrize("named", [False, True], ids=["numbered", "named"])
@pytest.mark.parametrize("config", [TINY, GROUPED], ids=["shared", "groups"])
def test_different_layer_norms_make_a_group_of_every_layer(config, named):
    variables = variables_of(config)
    found = parameters_from_google(config, with_keras_norms(config, variables, named, change=1.0))
    assert found.config == dataclasses.replace(config, num_hidden_groups=config.num_hidden_layers)
    assert found.left_over == []
    assert "read with num_hidden_groups = 4" in found.notes[0]
    assert set(found.parameters) == set(variable_names(found.config))
    for layer, group in enumerate(config.layer_groups):
        for inner in range(config.inner_group_num):
            ours = f"albert/encoder/group_{layer}/inner_group_{inner}"
            theirs = f"bert/encoder/transformer/group_{group}/inner_group_{inner}"
            for path, name, change in [
                ("attention/key/kernel", "attention_1/self/key/kernel", 0),
                ("ffn/output/bias", "ffn_1/intermediate/output/dense/bias", 0),
                ("attention/layer_norm/scale", "LayerNorm/gamma", layer),
                ("ffn/layer_norm/bias", "LayerNorm_1/beta", layer),
            ]:
                expected = variables[f"{theirs}/{name}"] + np.float32(change)
                np.testing.assert_array_equal(found.parameters[f"{ours}/{path}"], expected)


def test_group_of_every_layer_computes_the_same():
    """What is read where LayerNorms differ, with those of one layer put in everywhere, is the shared model."""
    shared = parameters_from_google(TINY, variables_of())
    found = parameters_from_google(TINY, with_keras_norms(TINY, variables_of(), change=1.0))
    for path in found.parameters:
        scope, norm, leaf = path.partition("/layer_norm/")
        if norm and scope.startswith("albert/encoder"):
            first = re.sub(r"/group_\d/", "/group_0/", scope)
            found.parameters[path] = shared.parameters[f"{first}{norm}{leaf}"]
    assert found.config.num_hidden_groups == 4
    one, other = (logits(each.config, unflatten_dict(each.parameters, sep="/")) for each in (found, shared))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_numbering_may_start_later():
    def later(name):
        for number in range(20, -1, -1):
            old = f"layer_normalization_{number}/" if number else "layer_normalization/"
            if old in name:
                return name.replace(old, f"layer_normalization_{number + 10}/")
        return name

    found = parameters_from_google(TINY, renamed(with_keras_norms(TINY, variables_of()), later))
    assert found.left_over == [] and found.config == TINY


def test_layer_norm_with_an_unexpected_number_is_left_over():
    variables = renamed(
        with_keras_norms(TINY, variables_of()), lambda name: name.replace("normalization_3/", "normalization_33/")
    )
    found = parameters_from_google(TINY, variables)
    assert found.left_over == sorted(name for name in variables if "_33/" in name)
    assert "albert/encoder/group_1/inner_group_0/attention/layer_norm/scale" not in found.parameters


def test_strict_reader_refuses_layer_norms_that_differ():
    with pytest.raises(UserError, match=r"not of this configuration: .*num_hidden_groups = 4"):
        from_google(TINY, with_keras_norms(TINY, variables_of(), change=1.0))


# Groups in Google's arithmetic


def test_groups_are_googles_but_for_rounding():
    assert google_groups(GROUPED) == list(GROUPED.layer_groups)
    odd = dataclasses.replace(TINY, num_hidden_layers=22, num_hidden_groups=22)
    assert google_groups(odd)[15] == 14 and odd.layer_groups[15] == 15


@pytest.mark.parametrize("groups", [22, 44])
def test_layers_share_what_they_share_in_googles_arithmetic(groups):
    config = dataclasses.replace(TINY, num_hidden_layers=44, num_hidden_groups=groups)
    variables = {}
    for group in set(google_groups(config)):
        name = f"bert/encoder/transformer/group_{group}/inner_group_0/LayerNorm/gamma"
        variables[name] = np.full(8, group, np.float32)
    found = parameters_from_google(config, variables)
    got = [
        found.parameters[f"albert/encoder/group_{group}/inner_group_0/attention/layer_norm/scale"][0]
        for group in found.config.layer_groups
    ]
    assert got == google_groups(config)


def test_groups_that_google_divides_otherwise_are_not_written():
    config = dataclasses.replace(TINY, num_hidden_layers=22, num_hidden_groups=22)
    with pytest.raises(UserError, match="divides 22 layers into groups differently"):
        to_google(config, random_params(config))


# Heads


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_classifier_is_googles_output_weights(labels):
    params = random_params(TINY, AlbertForSequenceClassification, num_labels=labels)
    variables = to_google(TINY, params)
    assert variables["output_weights"].shape == (labels, 8)
    assert variables["output_bias"].shape == (labels,)
    assert_same(parameters_from_google(TINY, variables).parameters, flatten_dict(params, sep="/"))


def test_multiple_choice_is_googles_race_head():
    params = random_params(TINY, AlbertForMultipleChoice)
    variables = to_google(TINY, params)
    assert variables["output_weights"].shape == (1, 8)
    assert_same(parameters_from_google(TINY, variables).parameters, flatten_dict(params, sep="/"))


def test_question_answering_is_googles_squad_1_head():
    params = random_params(TINY, AlbertForQuestionAnswering)
    variables = to_google(TINY, params)
    np.testing.assert_array_equal(variables["cls/squad/output_weights"], params["qa_outputs"]["kernel"].T)
    assert not any(name.startswith("bert/pooler") for name in variables)
    assert_same(parameters_from_google(TINY, variables).parameters, flatten_dict(params, sep="/"))


SQUAD_2_SHAPES = {
    "start_logits/dense/kernel": (8, 1),
    "start_logits/dense/bias": (1,),
    "end_logits/dense_0/kernel": (16, 8),
    "end_logits/dense_0/bias": (8,),
    "end_logits/LayerNorm/gamma": (8,),
    "end_logits/LayerNorm/beta": (8,),
    "end_logits/dense_1/kernel": (8, 1),
    "end_logits/dense_1/bias": (1,),
    "answer_class/dense_0/kernel": (16, 8),
    "answer_class/dense_0/bias": (8,),
    "answer_class/dense_1/kernel": (8, 1),
}


def test_beam_question_answering_is_googles_squad_2_head():
    params = random_params(TINY, AlbertForBeamQuestionAnswering)
    variables = to_google(TINY, params)
    head = {name: array.shape for name, array in variables.items() if not name.startswith("bert/")}
    assert head == SQUAD_2_SHAPES
    for ours, theirs in (
        ("start_logits/kernel", "start_logits/dense/kernel"),
        ("end_logits/dense_0/kernel", "end_logits/dense_0/kernel"),
        ("end_logits/layer_norm/scale", "end_logits/LayerNorm/gamma"),
        ("answer_class/dense_1/kernel", "answer_class/dense_1/kernel"),
    ):
        np.testing.assert_array_equal(variables[theirs], flatten_dict(params, sep="/")[ours], err_msg=theirs)
    found = parameters_from_google(TINY, variables)
    assert_same(found.parameters, flatten_dict(params, sep="/"))
    assert (found.left_over, found.notes) == ([], [])


@pytest.mark.parametrize("prefix", ["start_logits/bias", "end_logits/layer_norm/", "start_logits/", "answer_class/"])
def test_incomplete_squad_2_head_is_not_written(prefix):
    flat = flatten_dict(random_params(TINY, AlbertForBeamQuestionAnswering), sep="/")
    kept = {path: array for path, array in flat.items() if not path.startswith(prefix)}
    with pytest.raises(UserError, match=f"{len(flat) - len(kept)} parameters are missing: {prefix}"):
        to_google(TINY, unflatten_dict(kept, sep="/"))


# What Google's code does not have


@pytest.mark.parametrize("shared", ["attention", "ffn"])
def test_shared_sub_blocks_are_written_for_every_group(shared):
    config = dataclasses.replace(TINY, num_hidden_groups=4, shared_across_groups=shared)
    params = random_params(config)
    apart = dataclasses.replace(config, shared_across_groups="nothing")
    back = from_google(apart, to_google(config, params))
    np.testing.assert_allclose(logits(apart, back), logits(config, params), rtol=1e-5, atol=1e-5)


def test_reading_into_shared_sub_blocks_is_refused():
    config = dataclasses.replace(TINY, num_hidden_groups=4, shared_across_groups="ffn")
    with pytest.raises(UserError, match="shared_across_groups = 'ffn'"):
        parameters_from_google(config, {})


def test_projection_where_sizes_are_equal_is_not_written():
    config = dataclasses.replace(CONFIGS["square"], always_project_embeddings=True)
    with pytest.raises(UserError, match="no projection where embedding_size = hidden_size = 8"):
        to_google(config, random_params(config))


def test_untied_decoder_is_not_written():
    config = dataclasses.replace(TINY, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"tie_word_embeddings = False: .* multiplies with the word embeddings"):
        to_google(config, random_params(config))


def test_unknown_parameter_is_not_written():
    params = random_params(TINY) | {"lm_head": {"kernel": np.zeros((8, 11), np.float32)}}
    with pytest.raises(UserError, match="no place for lm_head/kernel"):
        to_google(TINY, params)


@pytest.mark.parametrize("path", ["albert/embeddings/word", "albert/pooler/bias", "predictions/bias"])
def test_incomplete_part_is_not_written(path):
    flat = flatten_dict(random_params(TINY), sep="/")
    del flat[path]
    with pytest.raises(UserError, match=f"1 parameters are missing: {path}"):
        to_google(TINY, unflatten_dict(flat, sep="/"))


def test_sentence_order_head_of_three_labels_is_not_written():
    with pytest.raises(UserError, match="sop_classifier/kernel: has 3 outputs"):
        to_google(TINY, random_params(TINY, num_labels=3))


@pytest.mark.parametrize(("name", "written"), [("gelu", "gelu"), ("gelu_new", "gelu"), ("relu", "relu")])
def test_configuration_has_googles_name_of_the_activation(name, written):
    assert google_config(dataclasses.replace(TINY, hidden_act=name))["hidden_act"] == written


def test_configuration_has_googles_keys(google_fixture):
    config = AlbertConfig.from_json_file(google_fixture / "albert_config.json")
    assert AlbertConfig(**google_config(config)) == config
    assert "layer_norm_eps" not in google_config(config)


@pytest.mark.parametrize("change", [{"hidden_act": "gelu_erf"}, {"layer_norm_eps": 1e-5}], ids=["gelu_erf", "epsilon"])
def test_what_google_does_not_compute_is_not_written(change):
    with pytest.raises(UserError, match=f"model.{next(iter(change))} = .*Google's code"):
        google_config(dataclasses.replace(TINY, **change))


# Paths


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


CHECKPOINT_FILES = ("model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001", "model.ckpt-best.meta")


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, "model.ckpt-best", ""])
def test_checkpoint_is_found_by_each_of_its_names(tmp_path, name):
    assert checkpoint_prefix(files(tmp_path, *CHECKPOINT_FILES) / name) == tmp_path / "model.ckpt-best"


@pytest.mark.parametrize("named", ["b.ckpt-2", "/train/machine/b.ckpt-2", "b\\056ckpt-2"])
def test_folder_means_the_checkpoint_that_it_names(tmp_path, named):
    files(tmp_path, "a.ckpt-1.index", "b.ckpt-2.index")
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "a.ckpt-1"\n')
    assert checkpoint_prefix(tmp_path) == tmp_path / "b.ckpt-2"


def test_checkpoint_of_a_copied_folder_is_the_copy(tmp_path):
    old, new = files(tmp_path / "old", "m.ckpt.index"), files(tmp_path / "new", "m.ckpt.index")
    (new / "checkpoint").write_text(f'model_checkpoint_path: "{old}/m.ckpt"\n')
    assert checkpoint_prefix(new) == new / "m.ckpt"


def test_several_checkpoints_in_a_folder_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"several .*: a\.ckpt-1, b\.ckpt-2; give the path of one"):
        checkpoint_prefix(files(tmp_path, "a.ckpt-1.index", "b.ckpt-2.index"))


def test_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: TensorFlow checkpoints: none"):
        read_checkpoint(tmp_path)


def test_named_checkpoint_that_is_gone_is_refused(tmp_path):
    files(tmp_path, "a.ckpt-1.index")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "b.ckpt-2"\n')
    with pytest.raises(UserError, match=r"checkpoint: names b\.ckpt-2, which is not there"):
        checkpoint_prefix(tmp_path)


@pytest.mark.parametrize("text", ["", "garbage\n", 'all_model_checkpoint_paths: "a"\n'])
def test_checkpoint_file_that_names_nothing_is_refused(tmp_path, text):
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(UserError, match="names no checkpoint"):
        checkpoint_prefix(tmp_path)


def test_wrong_path_lists_what_is_there(tmp_path):
    files(tmp_path, "model.ckpt-5.index")
    with pytest.raises(
        UserError, match=r"model\.ckpt-6: no TensorFlow checkpoint .*its folder has model\.ckpt-5\.index"
    ):
        read_checkpoint(tmp_path / "model.ckpt-6")


def test_path_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no TensorFlow checkpoint"):
        read_checkpoint(tmp_path / "nowhere" / "model.ckpt")


def test_missing_data_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"m\.ckpt\.data-00000-of-00001: is missing"):
        read_checkpoint(files(tmp_path, "m.ckpt.index"))


def test_missing_shard_is_named(tmp_path):
    files(tmp_path, "m.ckpt.index", "m.ckpt.data-00000-of-00003", "m.ckpt.data-00002-of-00003")
    with pytest.raises(UserError, match=r"m\.ckpt\.data-00001-of-00003: is missing"):
        read_checkpoint(tmp_path)


def test_tensorflow_is_asked_for_where_it_is_not_installed(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_tensorflow(name, *args, **kwargs):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError("No module named 'tensorflow'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tensorflow)
    for use in (
        lambda: read_checkpoint(files(tmp_path, *CHECKPOINT_FILES)),
        lambda: write_checkpoint(tmp_path, TINY, random_params(TINY)),
    ):
        with pytest.raises(UserError, match=r'pip install -e "\.\[tf\]"'):
            use()


# Files, through TensorFlow


@pytest.fixture
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.fixture
def save(tensorflow, tmp_path):
    """Writes a checkpoint as TF1's Saver does, from variables in a graph, and returns its prefix."""

    def save(variables):
        tf1 = tensorflow.compat.v1
        with tensorflow.Graph().as_default(), tf1.Session() as session:
            for name, array in variables.items():
                tf1.get_variable(name, initializer=tensorflow.constant(array), use_resource=False)
            session.run(tf1.global_variables_initializer())
            return tf1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=7)

    return save


@pytest.mark.parametrize("name", ["", "model.ckpt-0", "model.ckpt-0.index", "model.ckpt-0.data-00000-of-00001"])
def test_googles_checkpoint_is_read_bit_for_bit(tensorflow, google_fixture, name):
    assert_same(read_checkpoint(google_fixture / name), dict(np.load(google_fixture / "variables.npz")))


def test_written_checkpoint_is_read_back_bit_for_bit(tensorflow, google_fixture, tmp_path):
    config = AlbertConfig.from_json_file(google_fixture / "albert_config.json")
    variables = read_checkpoint(google_fixture)
    prefix = write_checkpoint(tmp_path / "new", config, from_google(config, variables), step=9)
    assert prefix == tmp_path / "new" / "model.ckpt-best"
    assert_same(read_checkpoint(tmp_path / "new"), variables)
    assert AlbertConfig.from_json_file(tmp_path / "new" / "albert_config.json") == config


def test_written_checkpoint_is_tensorflows_latest(tensorflow, tmp_path):
    prefix = write_checkpoint(tmp_path / "é.ckpt-3", TINY, random_params(TINY), step=3)
    assert tensorflow.train.latest_checkpoint(tmp_path) == str(prefix) == str(checkpoint_prefix(tmp_path))
    assert tensorflow.train.load_variable(str(prefix), "global_step") == 3


def test_writing_over_a_checkpoint_replaces_it(tensorflow, tmp_path):
    write_checkpoint(tmp_path, GROUPED, random_params(GROUPED))
    write_checkpoint(tmp_path, TINY, random_params(TINY))
    assert_same(read_checkpoint(tmp_path), variables_of())


def test_tf1_code_starts_from_a_written_checkpoint(tensorflow, tmp_path):
    """As Google's scripts do: `init_from_checkpoint` over the variables of the graph."""
    prefix, tf1 = write_checkpoint(tmp_path, TINY, random_params(TINY)), tensorflow.compat.v1
    expected = variables_of()
    with tensorflow.Graph().as_default(), tf1.Session() as session:
        graph = {name: tf1.get_variable(name, array.shape) for name, array in expected.items()}
        tf1.train.init_from_checkpoint(str(prefix), {name: name for name in expected})
        session.run(tf1.global_variables_initializer())
        assert_same(session.run(graph), expected)


def test_saver_of_tf1_restores_a_written_checkpoint(tensorflow, tmp_path):
    """As Google's Estimator does when it predicts: every variable of the graph, `global_step` too."""
    params = random_params(TINY, AlbertForSequenceClassification, num_labels=3)
    prefix, tf1 = write_checkpoint(tmp_path, TINY, params, step=5), tensorflow.compat.v1
    expected = to_google(TINY, params)
    with tensorflow.Graph().as_default(), tf1.Session() as session:
        graph = {name: tf1.get_variable(name, array.shape) for name, array in expected.items()}
        step = tf1.train.get_or_create_global_step()
        tf1.train.Saver().restore(session, str(prefix))
        assert_same(session.run(graph), expected)
        assert session.run(step) == 5


def test_fine_tuned_checkpoint_of_tf1_is_read(save):
    heads = {
        "output_weights": np.ones((3, 8), np.float32),
        "output_bias": np.ones(3, np.float32),
        "cls/squad/output_weights": np.ones((2, 8), np.float32),
        "cls/squad/output_bias": np.ones(2, np.float32),
        **{name: np.ones(shape, np.float32) for name, shape in SQUAD_2_SHAPES.items()},
    }
    found = parameters_from_google(TINY, read_checkpoint(save(variables_of() | heads)))
    assert found.left_over == []
    assert found.parameters["classifier/kernel"].shape == (8, 3)
    assert found.parameters["qa_outputs/kernel"].shape == (8, 2)
    assert found.parameters["end_logits/dense_0/kernel"].shape == (16, 8)


def test_checkpoint_in_the_hubs_scope_is_read(save):
    found = parameters_from_google(TINY, read_checkpoint(save(renamed(variables_of(), lambda name: f"module/{name}"))))
    assert_same(to_google(TINY, unflatten_dict(found.parameters, sep="/")), variables_of())


@pytest.mark.parametrize("change", [0.0, 1.0], ids=["equal", "different"])
def test_checkpoint_with_keras_layer_norms_is_read(save, change):
    variables = with_keras_norms(TINY, variables_of(), change=change)
    found = parameters_from_google(TINY, read_checkpoint(save(variables)))
    assert_same(found.parameters, parameters_from_google(TINY, variables).parameters)
    assert found.config.num_hidden_groups == (4 if change else 1)


def test_unrolled_checkpoint_is_written_and_read_back(save, tmp_path):
    variables = with_keras_norms(TINY, variables_of(), change=1.0)
    found = parameters_from_google(TINY, variables)
    write_checkpoint(tmp_path / "new", found.config, unflatten_dict(found.parameters, sep="/"))
    config = AlbertConfig.from_json_file(tmp_path / "new" / "albert_config.json")
    assert_same(parameters_from_google(config, read_checkpoint(tmp_path / "new")).parameters, found.parameters)


def test_object_checkpoint_is_read(tensorflow, tmp_path):
    holder = tensorflow.train.Checkpoint()
    for name, array in variables_of().items():
        setattr(holder, name, tensorflow.Variable(array))
    holder.save(str(tmp_path / "objects.ckpt"))
    found = parameters_from_google(TINY, read_checkpoint(tmp_path))
    assert_same(to_google(TINY, unflatten_dict(found.parameters, sep="/")), variables_of())
    assert found.left_over == []


def test_slots_and_steps_are_not_read(save):
    slots = {f"{name}/{slot}": array for name, array in variables_of().items() for slot in SLOTS}
    assert set(read_checkpoint(save(variables_of() | slots | {"global_step": np.int64(7)}))) == set(variables_of())


def test_loading_tensorflow_prints_nothing(tensorflow, tmp_path):
    write_checkpoint(tmp_path, TINY, random_params(TINY))
    script = f"from albert_jax.interop.google import read_checkpoint; print(len(read_checkpoint({str(tmp_path)!r})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == (f"{len(variables_of())}\n", "")


# Damage. A tensor's bytes and an index's blocks have checksums; TensorFlow raises and does not abort.


def damaged(tmp_path, suffix, change):
    path = write_checkpoint(tmp_path, TINY, random_params(TINY))
    file = path.with_name(path.name + suffix)
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)
    return file


def cut_to(share):
    return lambda content: content.__delitem__(slice(int(len(content) * share), None))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_index_is_named(tensorflow, tmp_path, share):
    file = damaged(tmp_path, ".index", cut_to(share))
    with pytest.raises(UserError, match=f"{file}: damaged"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_data_is_named(tensorflow, tmp_path, share):
    file = damaged(tmp_path, ".data-00000-of-00001", cut_to(share))
    with pytest.raises(UserError, match=f"{file}: .* cannot be read"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_flipped_bit_of_the_index_is_found(tensorflow, tmp_path, place):
    def flip(content):
        content[int(len(content) * place)] ^= 1

    file = damaged(tmp_path, ".index", flip)
    with pytest.raises(UserError, match=f"{file}: damaged"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_flipped_bit_of_a_parameter_is_found(tensorflow, tmp_path, place):
    def flip(content):
        content[int(len(content) * place)] ^= 1

    file = damaged(tmp_path, ".data-00000-of-00001", flip)
    with pytest.raises(UserError, match=f"{file}: .* cannot be read"):
        read_checkpoint(tmp_path)


def test_foreign_file_for_an_index_is_refused(tensorflow, tmp_path):
    files(tmp_path, *CHECKPOINT_FILES)
    (tmp_path / "model.ckpt-best.index").write_text("<html>404 Not Found</html>" * 50)
    with pytest.raises(UserError, match=r"model\.ckpt-best\.index: damaged, or no TensorFlow checkpoint"):
        read_checkpoint(tmp_path)


def test_writing_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file"):
        write_checkpoint(tmp_path / "file", TINY, random_params(TINY))
