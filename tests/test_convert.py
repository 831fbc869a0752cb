"""Any source to any target, and that what is written is compared with what was read."""

import dataclasses
import json
import lzma
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from albert_jax.config import AlbertConfig
from albert_jax.convert import _agreement, _compare, class_of, convert
from albert_jax.errors import UserError
from albert_jax.interop.huggingface import SAFETENSORS
from albert_jax.interop.saved_model import SavedModel
from albert_jax.model import initialize
from albert_jax.pretrained import CLASSES, read_source
from albert_jax.tokenizer import AlbertTokenizer

TINY = AlbertConfig(
    vocab_size=61,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
)


def random_model(name, config=TINY, seed=0):
    cls = CLASSES[name]
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), cls.network))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), shapes)
    return cls(config, params, labels=("LABEL_0", "LABEL_1"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pretrained model in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("convert") / "source"
    random_model("AlbertForPreTraining").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A model with a tokenizer of 400 pieces."""
    vocabulary = Path(__file__).parent / "golden_peer" / "tokenizer" / "spiece.model.xz"
    model = random_model("AlbertForMaskedLM", dataclasses.replace(TINY, vocab_size=400))
    model.tokenizer = AlbertTokenizer(lzma.decompress(vocabulary.read_bytes()))
    folder = tmp_path_factory.mktemp("convert") / "speaking"
    model.save_pretrained(folder)
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_ours_is_converted_to_itself_and_then_to_a_program(source, tmp_path):
    lines = convert(str(source), tmp_path / "one")
    assert any(line.startswith("check: read again, every parameter is the same bit for bit") for line in lines)
    assert contents(tmp_path / "one") == contents(source)
    lines = convert(str(tmp_path / "one"), tmp_path / "program", to="stablehlo")
    assert lines[-1].startswith("check: the program ran, outputs agree")
    names = {path.name for path in (tmp_path / "program").iterdir()}
    assert names == {"model.stablehlo", "weights.safetensors", "signature.json"}


def test_what_was_done_is_told(source, tmp_path):
    lines = convert(str(source), tmp_path / "target")
    assert lines[0] == f"AlbertForPreTraining from {source}: 32 arrays loaded"
    assert f"written {tmp_path / 'target'} (huggingface, float32)" in lines


def test_the_class_is_the_one_that_saved_the_source(source, tmp_path):
    convert(str(source), tmp_path / "target")
    values = json.loads((tmp_path / "target" / "config.json").read_text())
    assert values["architectures"] == ["AlbertForPreTraining"]


def test_another_class_takes_a_part(source, tmp_path):
    lines = convert(str(source), tmp_path / "target", model_class="AlbertForMaskedLM")
    assert any("left over (4): albert/pooler/bias" in line for line in lines)
    assert json.loads((tmp_path / "target" / "config.json").read_text())["architectures"] == ["AlbertForMaskedLM"]
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "target"))
    assert set(before) - set(after) == {
        "albert.pooler.weight",
        "albert.pooler.bias",
        "sop_classifier.classifier.weight",
        "sop_classifier.classifier.bias",
    }
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)


@pytest.mark.parametrize(
    ("tops", "name"),
    [
        (("albert",), "AlbertModel"),
        (("albert", "predictions"), "AlbertForMaskedLM"),
        (("albert", "predictions", "sop_classifier"), "AlbertForPreTraining"),
        (("albert", "qa_outputs"), "AlbertForQuestionAnswering"),
        (("albert", "start_logits", "end_logits", "answer_class"), "AlbertForBeamQuestionAnswering"),
        (("albert", "classifier"), "AlbertForSequenceClassification"),
    ],
)
def test_a_source_of_an_unknown_class_is_what_its_heads_are_for(tops, name):
    saved = SavedModel("a source", TINY, {f"{top}/kernel": np.zeros(1) for top in tops}, architecture="OtherModel")
    assert class_of(saved) == name


def test_a_head_that_the_source_lacks_is_refused_and_nothing_written(source, tmp_path):
    with pytest.raises(UserError, match=r"has no qa_outputs/bias, .*which AlbertForQuestionAnswering needs"):
        convert(str(source), tmp_path / "target", model_class="AlbertForQuestionAnswering")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_class_is_refused_with_those_that_there_are(source, tmp_path):
    with pytest.raises(UserError, match="model_class = 'AlbertForRegression': there are AlbertModel, "):
        convert(str(source), tmp_path / "target", model_class="AlbertForRegression")


@pytest.mark.parametrize(
    ("to", "dtype", "message"),
    [
        ("google", "bfloat16", "dtype = 'bfloat16': Google's checkpoints are float32"),
        ("google", "float16", "dtype = 'float16': Google's checkpoints are float32"),
        ("stablehlo", "float16", "dtype = 'float16': must be float32 or bfloat16"),
    ],
)
def test_a_type_that_the_target_does_not_have_is_refused(source, tmp_path, to, dtype, message):
    with pytest.raises(UserError, match=message):
        convert(str(source), tmp_path / "target", to=to, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_written_and_its_rounding_told(source, tmp_path, dtype):
    lines = convert(str(source), tmp_path / "target", dtype=dtype)
    assert any(line.startswith("check: read again, outputs agree to ") for line in lines)
    tensors = load_file(tmp_path / "target" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {dtype}


def test_a_program_may_compute_in_bfloat16(source, tmp_path):
    lines = convert(str(source), tmp_path / "target", to="stablehlo", dtype="bfloat16")
    assert lines[-1].startswith("check: the program ran, outputs agree to ")


def test_multiple_choice_becomes_a_program(tmp_path):
    random_model("AlbertForMultipleChoice").save_pretrained(tmp_path / "source")
    lines = convert(str(tmp_path / "source"), tmp_path / "target", to="stablehlo")
    assert lines[-1].startswith("check: the program ran, outputs agree")


def test_a_network_that_the_target_cannot_express_is_refused(tmp_path):
    random_model("AlbertModel", dataclasses.replace(TINY, hidden_act="gelu_erf")).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="hidden_act = 'gelu_erf': Google's code has the tanh approximation"):
        convert(str(tmp_path / "source"), tmp_path / "target", to="google")
    assert not (tmp_path / "target").exists()


def test_a_target_with_other_things_is_refused_and_untouched(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for to in ("huggingface", "google", "stablehlo"):
        with pytest.raises(UserError, match=r"holds other things \(notes.txt\)"):
            convert(str(source), tmp_path, to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_source_is_no_target(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    (tmp_path / "link").symlink_to(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for one, other in ((folder, folder), (folder / "model.safetensors", folder), (folder, tmp_path / "link")):
        with pytest.raises(UserError, match="is where the source lies, which would be replaced"):
            convert(str(one), other, model_class="AlbertModel")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_target_that_cannot_be_a_folder_is_refused(source, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "taken" / "config.json").mkdir(parents=True)
    for name in ("dangling", "loop", "taken", "x" * 300, "a\0b"):
        with pytest.raises(UserError, match=r"give another|give a new folder"):
            convert(str(source), tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "dangling", "loop", "taken"]


def test_a_file_system_of_its_own_is_a_target(source, tmp_path, monkeypatch):
    """Files are put together inside it, and what a killed process left there is no obstacle."""
    folder = tmp_path / "volume"
    (folder / ".volume.left").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder.resolve())
    places = []
    move = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (places.append(Path(a).parent.parent), move(a, b)))
    convert(str(source), folder)
    assert set(places) == {folder.resolve()}
    assert sorted(path.name for path in folder.iterdir()) == [".volume.left", "README.md", "config.json", SAFETENSORS]


def test_what_does_not_agree_is_told(source, tmp_path):
    """The comparison itself: a target that was changed behind our back."""
    folder = shutil.copytree(source, tmp_path / "target")
    tensors = load_file(folder / "model.safetensors")
    tensors["albert.pooler.bias"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, other = (CLASSES["AlbertForPreTraining"].from_pretrained(path, verbose=False) for path in (source, folder))
    with pytest.raises(UserError, match=r"outputs differ by .*; do not use what was written"):
        _compare(model, other, "float32")


def test_what_is_not_a_number_does_not_agree():
    for order in (("logits", "sop_logits"), ("sop_logits", "logits")):
        theirs = dict(zip(order, (np.full(3, np.nan), np.zeros(3)), strict=True))
        with pytest.raises(UserError, match="outputs differ by nan"):
            _agreement(dict.fromkeys(order, np.zeros(3)), theirs, 1e-5, "a model")


@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_beyond_float16_are_told(tmp_path):
    model = random_model("AlbertModel")
    model.params["albert"]["pooler"]["bias"] += 1e6
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="float16"):
        convert(str(tmp_path / "source"), tmp_path / "target", dtype="float16")
    assert not (tmp_path / "target").exists()
    convert(str(tmp_path / "source"), tmp_path / "target", dtype="bfloat16")


def test_the_tokenizer_goes_along_and_is_compared(speaking, tmp_path):
    lines = convert(str(speaking), tmp_path / "target")
    assert "check: read again, every parameter is the same bit for bit, and so are the ids of sample texts" in lines
    assert contents(tmp_path / "target") == contents(speaking)
    convert(str(speaking), tmp_path / "program", to="stablehlo")
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"):
        assert (tmp_path / "program" / name).read_bytes() == (speaking / name).read_bytes()


def test_the_tokenizer_goes_along_to_google(speaking, tmp_path):
    pytest.importorskip("tensorflow")
    lines = convert(str(speaking), tmp_path / "target", to="google")
    assert lines[-1].endswith("every parameter is the same bit for bit, and so are the ids of sample texts")
    assert (tmp_path / "target" / "30k-clean.model").read_bytes() == (speaking / "spiece.model").read_bytes()


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_transformers_is_installed_it_is_asked(speaking, tmp_path, dtype):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    lines = convert(str(speaking), tmp_path / "target", dtype=dtype)
    assert lines[-1].startswith(f"check: transformers {transformers.__version__} loads it, outputs agree")
    assert lines[-1].endswith("and so do the ids of sample texts")


def test_googles_checkpoint_survives_the_way_to_hugging_face_and_back(google_fixture, tmp_path):
    pytest.importorskip("tensorflow")
    from albert_jax.interop.google import read_checkpoint

    convert(str(google_fixture), tmp_path / "huggingface", model_class="AlbertForPreTraining")
    lines = convert(str(tmp_path / "huggingface"), tmp_path / "google", to="google")
    assert any("every parameter is the same bit for bit" in line for line in lines)
    before, after = read_checkpoint(google_fixture), read_checkpoint(tmp_path / "google")
    assert set(after) <= set(before)
    assert {name for name in set(before) - set(after) if "adam" not in name.lower()} <= {"global_step"}
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_googles_checkpoint_is_read_whole_by_every_kind_of_path(google_fixture):
    pytest.importorskip("tensorflow")
    (index,) = google_fixture.glob("*.index")
    folder, prefix, file = (
        traverse_util.flatten_dict(read_source(path)[0].parameters)
        for path in (google_fixture, index.with_suffix(""), index)
    )
    assert folder.keys() == prefix.keys() == file.keys()


def test_googles_checkpoint_without_tensorflow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as where it is not installed
    for suffix in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt-best.{suffix}").write_bytes(b"")
    (tmp_path / "albert_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"(?i)tensorflow.*pip install"):
        convert(str(tmp_path), tmp_path / "target")
