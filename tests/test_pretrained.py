"""Models as users hold them: read from every kind of source, evaluated, and written."""

import dataclasses
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import pretrain
from albert_jax import (
    AlbertForBeamQuestionAnswering,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
)
from albert_jax.checkpoint import Checkpoints
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
from albert_jax.model import initialize
from albert_jax.pretrained import CLASSES, EXPORT_FILES, find_source
from albert_jax.tokenizer import AlbertTokenizer

TINY = AlbertConfig(
    vocab_size=90,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=24,
    hidden_act="gelu_new",
)
IDS = np.arange(20).reshape(2, 10) % 7 + 5
POOLER = ["albert/pooler/bias", "albert/pooler/kernel"]
CLASSIFIER = ["classifier/bias", "classifier/kernel"]
PREDICTIONS = [f"predictions/{name}" for name in ("bias", "dense/bias", "dense/kernel")]
PREDICTIONS += ["predictions/layer_norm/bias", "predictions/layer_norm/scale"]
SOP = ["sop_classifier/bias", "sop_classifier/kernel"]
BEAM = ["answer_class/dense_0/bias", "answer_class/dense_0/kernel", "answer_class/dense_1/kernel"]
BEAM += [f"end_logits/dense_{number}/{name}" for number in (0, 1) for name in ("bias", "kernel")]
BEAM += ["end_logits/layer_norm/bias", "end_logits/layer_norm/scale", "start_logits/bias", "start_logits/kernel"]


# ---- what is read


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of made-up words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abdegiklmnorstu"), rng.integers(2, 6))) for _ in range(150)]
    paragraphs = [
        " ".join(" ".join(rng.choice(words, 6)).capitalize() + "." for _ in range(5)) + "\n" * (1 + (i % 4 == 3))
        for i in range(64)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(paragraphs))
    return path


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run of `pretrain.py`, four steps long, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = PretrainConfig(
        run_dir=str(folder / "run"),
        data=DataConfig(
            sources=(str(text),),
            tokenizer=str(folder / "spiece.model"),
            corpus=(str(folder / "corpus"),),
            held_out_fraction=0.2,
        ),
        model=dataclasses.replace(TINY, hidden_act="gelu"),
        phases=PhasesConfig(steps=(4,), sequence_length=(16,), batch_size=(4,)),
        optimizer=OptimizerConfig(peak_learning_rate=0.01, warmup_steps=1),
        compute=ComputeConfig(dtype="float32", remat="none"),
        mesh=MeshConfig(data=2, tensor=4) if jax.device_count() == 8 else MeshConfig(),
        log_every=4,
        evaluate_every=4,
        evaluate_sequences=4,
        checkpoint_every=2,
        keep_checkpoints=2,
    )
    assert pretrain.pretrain(config) is None
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def tokenizer(finished):
    return AlbertTokenizer.load(finished / "tokenizer")


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A folder of a pretrained model, with its tokenizer."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    randomized(AlbertForPreTraining, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def randomized(cls, config=TINY, tokenizer=None, labels=("LABEL_0", "LABEL_1")):
    """A model in which no parameter is zero or one."""
    sizes = {"num_labels": len(labels)} if cls.label_head else {}
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), cls.network, **sizes))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), shapes)
    return cls(config, params, tokenizer, labels=labels)


def flat(params):
    return {path: np.asarray(x) for path, x in flax.traverse_util.flatten_dict(params, sep="/").items()}


def assert_same(ours, theirs):
    ours, theirs = flat(ours), flat(theirs)
    assert set(ours) == set(theirs)
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg=path)


def assert_same_outputs(ours, theirs, **tolerance):
    for name in ours.__dataclass_fields__:
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None), name
        if one is not None and tolerance:
            np.testing.assert_allclose(one, other, err_msg=name, **tolerance)
        elif one is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(cls, source, **settings):
    return cls.from_pretrained(source, verbose=False, **settings)


# ---- runs


def test_a_run_gives_its_latest_checkpoint(finished):
    model = load(AlbertForPreTraining, finished)
    assert_same(model.params, Checkpoints(finished / "checkpoints").load(4)["params"])
    assert "step 4" in model.report.source
    assert (model.report.initialized, model.report.left_over) == ([], [])
    assert model.config == dataclasses.replace(TINY, hidden_act="gelu")


def test_a_run_gives_the_checkpoint_that_is_asked_for(finished):
    model = load(AlbertForPreTraining, finished, checkpoint=2)
    assert_same(model.params, Checkpoints(finished / "checkpoints").load(2)["params"])
    assert "step 2" in model.report.source


def test_a_run_is_found_by_its_checkpoints_too(finished):
    assert_same(load(AlbertModel, finished / "checkpoints").params, load(AlbertModel, finished).params)


def test_a_runs_tokenizer_comes_with_it(finished, tokenizer):
    assert load(AlbertModel, finished).tokenizer.fingerprint == tokenizer.fingerprint


def test_a_missing_step_is_named_with_those_that_there_are(finished):
    with pytest.raises(UserError, match="has no checkpoint of step 3; there are 2, 4"):
        load(AlbertModel, finished, checkpoint=3)


def test_a_run_without_a_checkpoint_says_so(run):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no complete checkpoint yet"):
        load(AlbertModel, run)


def truncate(checkpoint):
    for file in (checkpoint / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:100])


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run, capsys):
    truncate(run / "checkpoints" / "4")
    before = contents(run)
    assert "step 2" in load(AlbertModel, run).report.source
    warning = capsys.readouterr().err
    assert re.search(r"checkpoints/4/state/\S+: truncated, 100 bytes instead of \d+; .* step 2 is read", warning)
    assert contents(run) == before


def test_a_damaged_checkpoint_that_is_asked_for_is_named_with_the_others(run):
    truncate(run / "checkpoints" / "4")
    with pytest.raises(UserError, match=r"checkpoints/4/.*this checkpoint is damaged; there are also 2"):
        load(AlbertModel, run, checkpoint=4)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run):
    for step in ("2", "4"):
        truncate(run / "checkpoints" / step)
    with pytest.raises(UserError, match=r"all checkpoints are damaged: .*checkpoints/4/.*checkpoints/2/"):
        load(AlbertModel, run)


def test_a_run_from_before_checksums_is_read_as_it_is(run):
    for step in ("2", "4"):
        (run / "checkpoints" / step / "checksums.json").unlink()
    assert "step 4" in load(AlbertModel, run).report.source
    truncate(run / "checkpoints" / "4")
    with pytest.raises(UserError, match=r"checkpoints/4: this checkpoint is damaged .*; there are also 2"):
        load(AlbertModel, run)


def test_a_checkpoint_that_is_not_sealed_yet_is_not_read(run):
    (run / "checkpoints" / "4" / "checksums.json").unlink()
    assert "step 2" in load(AlbertModel, run).report.source


def test_a_checkpoint_under_way_is_neither_read_nor_touched(run):
    unfinished = run / "checkpoints" / "6.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "4", unfinished)
    (unfinished / "commit_success.txt").unlink()
    before = contents(run)
    assert "step 4" in load(AlbertModel, run).report.source
    assert contents(run) == before


def test_a_run_of_another_model_json_is_refused(run):
    values = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(values | {"hidden_size": 32}))
    with pytest.raises(UserError, match=r"of shape \(16,\), the run's configuration makes it \(32,\)"):
        load(AlbertModel, run)


def test_a_run_of_a_model_json_with_more_parameters_is_refused(run):
    values = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(values | {"num_hidden_groups": 2}))
    with pytest.raises(UserError, match=r"4: holds no albert/encoder/group_1/.*; they do not belong together"):
        load(AlbertModel, run)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"a":' * 100_000,
        '{"hidden_size": "16"}',
        f'{{"layer_norm_eps": {10**400}}}',
        '{"num_hidden_layers": 1000000000}',
    ],
    ids=lambda damage: damage[:20],
)
def test_a_damaged_model_json_is_named(run, damage):
    (run / "model.json").write_text(damage)
    with pytest.raises(UserError, match=r"model\.json: "):
        load(AlbertModel, run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["checkpoints", "tokenizer", "."])
def test_a_folder_that_may_not_be_read_is_named(run, name):
    (run / name).chmod(0)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        load(AlbertModel, run)
    (run / name).chmod(0o755)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_no_numbers_are_refused(saved, tmp_path, value):
    from safetensors.numpy import save_file

    folder = shutil.copytree(saved, tmp_path / "diverged")
    tensors = load_file(folder / "model.safetensors")
    tensors["albert.pooler.bias"][3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="albert/pooler/bias has values that are no numbers or infinite"):
        load(AlbertModel, folder)
    load(AlbertForMaskedLM, folder)  # has no pooler


def test_a_model_without_a_part_of_its_encoder_is_not_asked(saved, tmp_path):
    from safetensors.numpy import save_file

    folder = shutil.copytree(saved, tmp_path / "half")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if ".ffn" not in n}, folder / "model.safetensors")
    model = load(AlbertForMaskedLM, folder)
    for require in (model.require_trained_encoder, model.require_trained_head):
        with pytest.raises(UserError, match=r"has no trained albert/encoder/.*a part of it is lost"):
            require()


def test_a_classifier_without_its_pooler_is_not_asked(classifier, tmp_path):
    from safetensors.numpy import save_file

    folder = shutil.copytree(classifier, tmp_path / "poolerless")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, folder / "model.safetensors")
    with pytest.raises(UserError, match="has no trained albert/pooler/bias"):
        load(AlbertForSequenceClassification, folder).require_trained_head()


def test_a_step_of_what_has_no_steps_is_refused(saved):
    with pytest.raises(UserError, match="has no numbered checkpoints; leave out checkpoint = 4"):
        load(AlbertModel, saved, checkpoint=4)


# ---- from a pretrained model to every class

WHOLE = sorted(flat(AlbertForPreTraining.from_config(TINY).params))
FITS = {
    AlbertModel: ([], PREDICTIONS + SOP),
    AlbertForPreTraining: ([], []),
    AlbertForMaskedLM: ([], POOLER + SOP),
    AlbertForSequenceClassification: (CLASSIFIER, PREDICTIONS + SOP),
    AlbertForTokenClassification: (CLASSIFIER, POOLER + PREDICTIONS + SOP),
    AlbertForQuestionAnswering: (["qa_outputs/bias", "qa_outputs/kernel"], POOLER + PREDICTIONS + SOP),
    AlbertForBeamQuestionAnswering: (BEAM, POOLER + PREDICTIONS + SOP),
    AlbertForMultipleChoice: (CLASSIFIER, PREDICTIONS + SOP),
}


@pytest.mark.parametrize("cls", FITS)
@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_class_takes_what_it_has_and_reports_the_rest(cls, kind, finished, saved):
    initialized, left_over = FITS[cls]
    source = load(AlbertForPreTraining, finished if kind == "run" else saved)
    model = load(cls, finished if kind == "run" else saved)
    assert model.report.initialized == initialized
    assert model.report.left_over == sorted(left_over)
    assert model.report.loaded == sorted(set(WHOLE) - set(left_over))
    before, after = flat(source.params), flat(model.params)
    assert set(after) == set(model.report.loaded) | set(initialized)
    for path in model.report.loaded:
        np.testing.assert_array_equal(before[path], after[path], err_msg=path)


def test_new_parameters_depend_on_the_seed_alone(saved):
    one, same, other = (flat(load(AlbertForTokenClassification, saved, seed=seed).params) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["classifier/kernel"], same["classifier/kernel"])
    assert not np.array_equal(one["classifier/kernel"], other["classifier/kernel"])


def test_the_report_says_what_happened(saved, capsys):
    AlbertForSequenceClassification.from_pretrained(saved)
    printed = capsys.readouterr().err
    assert f"AlbertForSequenceClassification from {saved}: " in printed
    assert "newly initialized (2): classifier/bias, classifier/kernel" in printed
    assert "left over (7)" in printed


def test_a_new_head_is_not_to_be_used_untrained(saved):
    model = load(AlbertForQuestionAnswering, saved)
    with pytest.raises(UserError, match="has no trained qa_outputs/bias, and AlbertForQuestionAnswering would"):
        model.require_trained_head()


@pytest.mark.parametrize("cls", [AlbertModel, AlbertForMaskedLM, AlbertForPreTraining])
def test_a_trained_head_is_to_be_used(cls, saved):
    load(cls, saved).require_trained_head()


def test_a_head_of_a_bare_model_is_new(tmp_path):
    randomized(AlbertModel).save_pretrained(tmp_path / "bare")
    model = load(AlbertForPreTraining, tmp_path / "bare")
    assert model.report.initialized == sorted(PREDICTIONS + SOP)
    with pytest.raises(UserError, match="has no trained predictions/bias"):
        model.require_trained_head()


def test_what_holds_no_encoder_is_refused(saved, tmp_path):
    from safetensors.numpy import save_file

    folder = shutil.copytree(saved, tmp_path / "heads")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("albert.")}, folder / "model.safetensors")
    with pytest.raises(UserError, match="holds no parameters of an ALBERT encoder"):
        load(AlbertModel, folder)


def test_a_shape_that_does_not_fit_is_named_with_both(saved):
    with pytest.raises(UserError, match=r"albert/embeddings/position has shape \(24, 8\), this model needs \(48, 8\)"):
        load(AlbertModel, saved, max_position_embeddings=48)


def test_a_shape_that_does_not_fit_may_be_initialised(saved):
    model = load(AlbertModel, saved, max_position_embeddings=48, ignore_mismatched_sizes=True)
    assert model.report.initialized == ["albert/embeddings/position"]
    assert any("(24, 8) does not fit (48, 8)" in note for note in model.report.notes)
    assert model(np.zeros((1, 48), int)).last_hidden_state.shape == (1, 48, 16)


# ---- labels


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "model"
    model = randomized(AlbertForSequenceClassification, labels=("bad", "good", "ugly"))
    model.problem_type = "multi_label_classification"
    model.save_pretrained(folder)
    return folder


def test_labels_and_problem_type_are_the_sources(classifier):
    model = load(AlbertForSequenceClassification, classifier)
    assert model.labels == ("bad", "good", "ugly")
    assert model.problem_type == "multi_label_classification"
    assert model(IDS).logits.shape == (2, 3)


def test_labels_can_be_renamed(classifier):
    model = load(AlbertForSequenceClassification, classifier, labels=["a", "b", "c"])
    assert model.labels == ("a", "b", "c")
    assert model.report.initialized == []


@pytest.mark.parametrize(("labels", "names"), [(5, tuple(f"LABEL_{n}" for n in range(5))), (("x",), ("x",))])
def test_a_new_head_has_as_many_labels_as_are_given(saved, labels, names):
    model = load(AlbertForTokenClassification, saved, labels=labels)
    assert model.labels == names
    assert model(IDS).logits.shape == (2, 10, len(names))


@pytest.mark.parametrize("labels", [0, -1, 10**9, "bad", ["bad", "bad"], ["bad", 5], {"bad": 0}, ["\ud800"], 1.5])
def test_labels_that_are_none_are_refused(saved, labels):
    with pytest.raises(UserError, match="labels = "):
        load(AlbertForSequenceClassification, saved, labels=labels)


def test_another_number_of_labels_needs_a_new_head(classifier):
    with pytest.raises(UserError, match=r"classifier/.* has shape .*3.*give as many labels as it has"):
        load(AlbertForSequenceClassification, classifier, labels=4)
    model = load(AlbertForSequenceClassification, classifier, labels=4, ignore_mismatched_sizes=True)
    assert model.report.initialized == CLASSIFIER
    assert model(IDS).logits.shape == (2, 4)


def test_labels_that_only_the_weights_tell_are_numbered(tmp_path, finished):
    """Google's checkpoints name none: their number is that of the head's outputs."""
    from albert_jax.interop.saved_model import SavedModel
    from albert_jax.pretrained import _label_names

    saved = SavedModel("a source", TINY, {"classifier/bias": np.zeros(3, np.float32)})
    assert _label_names(saved, "classifier/") == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert load(AlbertForSequenceClassification, finished).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("cls", [AlbertModel, AlbertForMaskedLM, AlbertForQuestionAnswering, AlbertForMultipleChoice])
def test_models_without_labels_have_none(classifier, cls):
    assert load(cls, classifier, ignore_mismatched_sizes=True).labels == ()


# ---- overrides, tokenizers


def test_fields_can_be_overridden(saved):
    config = load(AlbertModel, saved, hidden_act="gelu_erf", hidden_dropout_prob=0.1).config
    assert config == dataclasses.replace(TINY, hidden_act="gelu_erf", hidden_dropout_prob=0.1)


def test_an_unknown_field_is_refused_with_those_that_there_are(saved):
    with pytest.raises(UserError, match=r"hidden_dropout: no such field of the model; there are .*hidden_dropout_prob"):
        load(AlbertModel, saved, hidden_dropout=0.1)


def test_a_value_that_makes_no_model_is_refused(saved):
    with pytest.raises(UserError, match=r"must be a multiple of model\.num_attention_heads = 3"):
        load(AlbertModel, saved, num_attention_heads=3)


def test_an_untied_decoder_of_a_tied_model_is_new(saved):
    model = load(AlbertForMaskedLM, saved, tie_word_embeddings=False)
    assert model.report.initialized == ["predictions/decoder"]


def test_a_tokenizer_larger_than_the_model_is_refused(tokenizer, tmp_path):
    randomized(AlbertModel, dataclasses.replace(TINY, vocab_size=60), tokenizer).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"its tokenizer has 90 pieces, the model only 60 embeddings"):
        load(AlbertModel, tmp_path / "model")


def test_a_model_may_have_more_embeddings_than_its_tokenizer_pieces(tokenizer, tmp_path):
    randomized(AlbertModel, dataclasses.replace(TINY, vocab_size=96), tokenizer).save_pretrained(tmp_path / "model")
    assert load(AlbertModel, tmp_path / "model").tokenizer.vocab_size == 90


def test_no_tokenizer_is_told(classifier):
    model = load(AlbertModel, classifier)
    assert model.tokenizer is None
    assert "no tokenizer was found beside it" in model.report.notes


def test_a_wordpiece_vocabulary_is_told(classifier, tmp_path):
    folder = shutil.copytree(classifier, tmp_path / "model")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    model = load(AlbertModel, folder)
    assert model.tokenizer is None
    assert any("WordPiece" in note for note in model.report.notes)


def test_a_damaged_tokenizer_is_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "spiece.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"spiece\.model"):
        load(AlbertModel, folder)


# ---- saving

SAVED = {
    "tied": {},
    "untied": dict(tie_word_embeddings=False),
    "E = H": dict(embedding_size=16),
    "E = H, projected": dict(embedding_size=16, always_project_embeddings=True),
    "groups": dict(num_hidden_groups=2, inner_group_num=2),
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("changes", SAVED.values(), ids=SAVED)
def test_what_is_saved_is_read_bit_for_bit(name, changes, tmp_path):
    cls, config = CLASSES[name], dataclasses.replace(TINY, **changes)
    model = randomized(cls, config, **({"labels": ("a", "b", "c")} if cls.label_head else {}))
    model.save_pretrained(tmp_path / "saved")
    again = load(cls, tmp_path / "saved")
    assert_same(again.params, model.params)
    assert (again.report.initialized, again.report.left_over) == ([], [])
    assert again.labels == model.labels
    has_decoder = "predictions/decoder" in flat(model.params)
    assert again.config == dataclasses.replace(config, tie_word_embeddings=not has_decoder)


@pytest.mark.parametrize("shared", ["attention", "ffn"])
def test_what_all_groups_share_is_written_out_and_computes_the_same(shared, tmp_path):
    config = dataclasses.replace(TINY, num_hidden_groups=2, shared_across_groups=shared)
    model = randomized(AlbertForPreTraining, config)
    model.save_pretrained(tmp_path / "saved")
    again = load(AlbertForPreTraining, tmp_path / "saved")
    assert again.config.shared_across_groups == "nothing"
    assert_same_outputs(again(IDS), model(IDS), rtol=1e-6, atol=1e-6)


def test_a_tokenizer_is_saved_with_the_model(saved, tokenizer):
    again = load(AlbertForPreTraining, saved).tokenizer
    assert again.fingerprint == tokenizer.fingerprint
    values = json.loads((saved / "config.json").read_text())
    assert (values["pad_token_id"], values["bos_token_id"], values["eos_token_id"]) == (0, 2, 3)


def test_a_saved_folder_holds_what_transformers_needs_and_no_more(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "spiece.model",
        "README.md",
    }
    assert names < EXPORT_FILES


def test_saved_files_have_ordinary_modes(saved):
    umask = os.umask(0)
    os.umask(umask)
    for path in saved.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name
    assert stat.S_IMODE(saved.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_saved_when_asked_for(dtype, tmp_path):
    model = randomized(AlbertForPreTraining)
    model.save_pretrained(tmp_path / "saved", dtype=dtype)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    again = load(AlbertForPreTraining, tmp_path / "saved")
    assert_same(again.params, jax.tree.map(lambda x: x.astype(dtype).astype("float32"), model.params))


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file" / "model", tmp_path / "file" / "deep" / "model"):
        with pytest.raises(UserError, match="is a file; give another folder"):
            randomized(AlbertModel).save_pretrained(folder)
    assert contents(tmp_path) == {Path("file"): b"kept"}


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="exists and is not a folder; give another"):
        randomized(AlbertModel).save_pretrained(tmp_path / "file")
    assert contents(tmp_path) == {Path("file"): b"kept"}


def test_a_folder_with_other_things_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "config.json").write_text("mine")
    (tmp_path / "thesis" / "chapter.tex").write_text("mine too")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"exists and holds other things \(chapter.tex\); nothing was written"):
        randomized(AlbertModel).save_pretrained(tmp_path / "thesis")
    assert contents(tmp_path) == before


def test_an_older_export_is_replaced_whole(saved, classifier, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    load(AlbertForSequenceClassification, classifier).save_pretrained(folder)
    assert contents(folder) == contents(classifier), "also the tokenizer of another model is gone"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_can_be_saved_where_it_was_read(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    load(AlbertForPreTraining, folder).save_pretrained(folder)
    assert contents(folder) == contents(saved)


def test_a_failure_midway_leaves_the_older_export_and_nothing_else(saved, text, tmp_path):
    import io

    import sentencepiece

    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.read_text().splitlines()),
        model_writer=vocabulary,
        model_type="bpe",  # which tokenizer.json of an ALBERT tokenizer cannot express
        vocab_size=80,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    folder = shutil.copytree(saved, tmp_path / "model")
    model = randomized(AlbertModel, tokenizer=AlbertTokenizer(vocabulary.getvalue()))
    for target in (folder, tmp_path / "new"):
        with pytest.raises(UserError, match="is no unigram model"):
            model.save_pretrained(target)
    assert contents(folder) == contents(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_layer_groups_that_transformers_deals_out_otherwise_are_not_saved(tmp_path):
    model = randomized(AlbertModel, dataclasses.replace(TINY, num_hidden_layers=18, num_hidden_groups=14))
    with pytest.raises(UserError, match="deals 18 layers out to 14 groups differently"):
        model.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_the_readme_says_how_to_load_it(saved):
    text = (saved / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    assert "AutoModelForPreTraining.from_pretrained(FOLDER)" in text
    assert "from albert_jax import AlbertForPreTraining" in text


# ---- calling


def test_a_fresh_model_depends_on_the_seed_alone():
    one, same, other = (flat(AlbertForMaskedLM.from_config(TINY, seed=seed).params) for seed in (1, 1, 2))
    word = "albert/embeddings/word"
    np.testing.assert_array_equal(one[word], same[word])
    assert not np.array_equal(one[word], other[word])


@pytest.fixture(scope="module")
def model():
    return randomized(AlbertForPreTraining)


def test_a_sequence_beyond_the_positions_is_refused(model):
    assert model(np.zeros((1, 24), int)).sop_logits.shape == (1, 2)
    with pytest.raises(UserError, match="input_ids of length 25: the model has only 24 positions"):
        model(np.zeros((1, 25), int))


@pytest.mark.parametrize("wrong", [90, -1, 100_000])
def test_an_id_outside_the_vocabulary_is_named(model, wrong):
    with pytest.raises(UserError, match=rf"input_ids: {wrong} is outside the vocabulary of 90"):
        model([[2, wrong, 3]])


@pytest.mark.parametrize("wrong", [2, -1])
def test_a_segment_that_the_model_lacks_is_named(model, wrong):
    with pytest.raises(UserError, match=rf"token_type_ids: {wrong} is outside the segment types"):
        model([[2, 7, 3]], token_type_ids=[[0, wrong, 0]])


def test_segments_are_0_and_nothing_is_padding_unless_given(model):
    given = model(IDS, token_type_ids=np.zeros_like(IDS), attention_mask=np.ones_like(IDS))
    assert_same_outputs(model(IDS), given)
    other = model(IDS, token_type_ids=np.ones_like(IDS))
    assert not np.allclose(other.sop_logits, given.sop_logits, atol=1e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_padding_changes_no_output(name):
    cls = CLASSES[name]
    model = randomized(cls)
    ids = np.stack([IDS, IDS + 1], 1) if cls is AlbertForMultipleChoice else IDS
    padding = [(0, 0)] * (ids.ndim - 1) + [(0, 5)]
    padded = np.pad(ids, padding, constant_values=9)
    alone, beside = model(ids), model(padded, attention_mask=np.pad(np.ones_like(ids), padding))
    for field in alone.__dataclass_fields__:
        one, other = getattr(alone, field), getattr(beside, field)
        if one is not None:
            other = other[:, :10] if other.ndim > 1 and other.shape[1] == 15 else other
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=field)


def test_masks_may_be_truth_values_or_numbers(model):
    mask = np.arange(10) < np.array([[7], [10]])
    assert_same_outputs(model(IDS, attention_mask=mask), model(IDS, attention_mask=mask.astype(int)))


def test_bfloat16_agrees_roughly_and_logits_stay_float32(model):
    exact, rough = model(IDS), model(IDS, dtype="bfloat16")
    assert rough.prediction_logits.dtype == rough.sop_logits.dtype == "float32"
    assert not np.array_equal(rough.prediction_logits, exact.prediction_logits)
    np.testing.assert_allclose(rough.prediction_logits, exact.prediction_logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("inner", "count"), [(1, 3), (2, 5)])
def test_hidden_states_are_one_before_and_one_after_every_block(inner, count):
    model = randomized(AlbertModel, dataclasses.replace(TINY, inner_group_num=inner))
    output = model(IDS, hidden_states=True)
    assert [state.shape for state in output.hidden_states] == [(2, 10, 16)] * count
    np.testing.assert_array_equal(output.hidden_states[-1], output.last_hidden_state)
    assert model(IDS).hidden_states is None


def test_a_tokenizers_batch_is_what_a_model_takes(saved):
    model = load(AlbertForSequenceClassification, saved)
    batch = model.tokenizer(["ab de", "gik"], ["one", "two three"])
    assert model(**batch).logits.shape == (2, 2)


def test_inputs_of_another_shape_or_type_are_refused(model):
    for wrong in (IDS[0], IDS + 0.5, "text"):
        with pytest.raises(UserError, match=r"input_ids: .* expected whole numbers"):
            model(wrong)
    with pytest.raises(UserError, match="attention_mask: of shape"):
        model(IDS, attention_mask=np.ones(3))
    with pytest.raises(UserError, match="dtype = 'int8'"):
        model(IDS, dtype="int8")


def test_a_head_that_was_saved_untrained_stays_so(saved, tmp_path):
    model = load(AlbertForSequenceClassification, saved, labels=("bad", "good"))
    model.save_pretrained(tmp_path / "untrained")
    again = load(AlbertForSequenceClassification, tmp_path / "untrained")
    with pytest.raises(UserError, match="has no trained classifier/bias"):
        again.require_trained_head()
    again.params = jax.tree.map(lambda leaf: leaf + 0.01, again.params)
    again.require_trained_head()
    again.save_pretrained(tmp_path / "trained")
    load(AlbertForSequenceClassification, tmp_path / "trained").require_trained_head()


def test_an_unknown_type_of_numbers_writes_nothing(model, tmp_path):
    with pytest.raises(UserError, match="dtype = 'int8'"):
        model.save_pretrained(tmp_path / "new", dtype="int8")
    assert not (tmp_path / "new").exists()


# ---- kinds of sources


def test_every_kind_of_source_is_recognised(finished, saved, tmp_path):
    assert find_source(finished) == ("run", finished)
    assert find_source(str(finished / "checkpoints")) == ("run", finished)
    assert find_source(saved) == find_source(saved / "model.safetensors") == ("folder", saved)
    for name in ("model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"")
    for source in ("", "model.ckpt-best", "model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001"):
        assert find_source(tmp_path / source)[0] == "google", source


def test_a_folder_of_something_else_says_what_is_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"is neither the folder of a run .* nor one of weights .* nor of a TensorFlow"):
        load(AlbertModel, tmp_path)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes\.txt: is a file of no kind that a model is read from"):
        load(AlbertModel, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "name", ["no/such/path/here", "/no/such", "../nowhere", "~/no such folder", "name with spaces", "a" * 300, "a\0b"]
)
def test_what_is_neither_a_path_nor_a_name_is_refused(name):
    with pytest.raises(UserError, match=r"no such file or folder, and not the name of a model|no path that can be"):
        load(AlbertModel, name)


def test_the_folder_of_nobody_is_refused():
    with pytest.raises(UserError, match="no path that can be looked at"):
        load(AlbertModel, "~nobody_of_that_name/model")


# ---- the hub, from its local cache

HUB = """
import json, sys
from albert_jax import AlbertModel
from albert_jax.errors import UserError
for name, revision in json.loads(sys.argv[1]):
    try:
        model = AlbertModel.from_pretrained(name, revision=revision, verbose=False)
        print("loaded", model.config.hidden_size, model.report.source, len(model.report.left_over))
    except UserError as error:
        print("refused", error)
"""
ASKED = [
    ("org/tiny", None),
    ("org/tiny", "v1"),
    ("org/tiny", "f" * 40),
    ("org/tiny", "v9"),
    ("org/other", None),
    ("org/name..git", None),
    ("a--b/c", None),
]
COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture(scope="module")
def answers(saved, classifier, tmp_path_factory):
    """What a process without a connection says to each of `ASKED`, beside a cache in huggingface_hub's layout that
    holds a model in two revisions."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--org--tiny"
    for folder in ("refs", "blobs"):
        (repository / folder).mkdir(parents=True)
    for branch, commit, source in (("main", COMMIT, saved), ("v1", OTHER, classifier)):
        (repository / "refs" / branch).write_text(commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in source.iterdir():
            blob = repository / "blobs" / f"{commit[:4]}{file.name}"
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB, json.dumps(ASKED)]
    result = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith(("loaded", "refused"))]
    return dict(zip(ASKED, lines, strict=True))


def test_a_model_of_the_hub_is_read_from_its_cache(answers):
    assert answers["org/tiny", None] == "loaded 16 org/tiny 7"


@pytest.mark.parametrize("revision", ["v1", OTHER])
def test_a_revision_of_the_hub_is_read_from_its_cache(answers, revision):
    assert answers["org/tiny", revision] == "loaded 16 org/tiny 2"


def test_a_model_that_is_not_in_the_cache_needs_the_hub(answers):
    answer = answers["org/other", None]
    assert re.match(r"refused org/other: no such file or folder here, and the .* hub could not be reached", answer)
    assert "hf download org/other --local-dir FOLDER" in answer


def test_a_revision_that_is_not_in_the_cache_is_named(answers):
    assert "refused org/tiny at revision v9: " in answers["org/tiny", "v9"]


@pytest.mark.parametrize("name", ["org/name..git", "a--b/c"])
def test_a_name_that_the_hub_cannot_have_is_refused_as_such(answers, name):
    assert answers[name, None].startswith(f"refused {name}: no such file or folder")
    assert "could not be reached" not in answers[name, None]
