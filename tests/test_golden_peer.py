"""What transformers said of its own tiny models and of our tokenizer's folder, recorded by
tests/golden_peer/make_goldens.py (versions in versions.json there), so that it holds where transformers is not."""

import hashlib
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

import albert_jax
from albert_jax.interop.tokenizer_json import load_tokenizer, save_tokenizer
from albert_jax.pretrained import CLASSES
from albert_jax.tokenizer import AlbertTokenizer

GOLDEN = Path(__file__).parent / "golden_peer"
MODELS = sorted(path.parent.name for path in GOLDEN.glob("*/model.safetensors"))
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def architecture(folder):
    return json.loads((folder / "config.json").read_text())["architectures"][0]


def assert_outputs_are_golden(model, golden):
    golden = dict(golden)
    inputs = {name: golden.pop(name) for name in INPUTS}
    output = model(**inputs, hidden_states="hidden_states" in golden)
    assert golden
    for name, expected in golden.items():
        ours = getattr(output, name)
        ours = np.stack(ours) if isinstance(ours, tuple) else np.asarray(ours)
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_there_is_a_golden_of_every_class():
    theirs = set(CLASSES) - {"AlbertForBeamQuestionAnswering"}
    assert {architecture(GOLDEN / name) for name in MODELS} == theirs


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers_computes_the_same_here(name):
    model = getattr(albert_jax, architecture(GOLDEN / name)).from_pretrained(GOLDEN / name, verbose=False)
    assert not model.report.initialized
    assert not model.report.left_over
    assert_outputs_are_golden(model, np.load(GOLDEN / name / "outputs.npz"))


@pytest.mark.parametrize("name", ["pretraining", "inner_groups", "e_is_h", "untied", "gelu_by_erf"])
def test_it_still_does_when_saved_here_and_read_again(name, tmp_path):
    cls = getattr(albert_jax, architecture(GOLDEN / name))
    cls.from_pretrained(GOLDEN / name, verbose=False).save_pretrained(tmp_path / "again")
    assert_outputs_are_golden(
        cls.from_pretrained(tmp_path / "again", verbose=False), np.load(GOLDEN / name / "outputs.npz")
    )


def test_labels_and_problem_type_of_transformers_are_read():
    model = albert_jax.AlbertForSequenceClassification.from_pretrained(
        GOLDEN / "sequence_classification", verbose=False
    )
    assert model.labels == ("bad", "good", "ugly")
    assert model.problem_type == "multi_label_classification"


@pytest.fixture(scope="module")
def golden_ids():
    return json.loads((GOLDEN / "tokenizer" / "ids.json").read_text("utf-8"))


@pytest.fixture(scope="module", params=["the SentencePiece model", "tokenizer.json alone"])
def tokenizer(request, tmp_path_factory):
    """Ours, from either file."""
    ours = AlbertTokenizer(lzma.decompress((GOLDEN / "tokenizer" / "spiece.model.xz").read_bytes()))
    if request.param == "the SentencePiece model":
        return ours
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(ours, folder)
    (folder / "spiece.model").unlink()
    return load_tokenizer(folder)


def test_texts_get_the_ids_of_transformers(tokenizer, golden_ids):
    assert len(golden_ids["texts"]) >= 60
    for text, ids in zip(golden_ids["texts"], golden_ids["ids"], strict=True):
        assert tokenizer.build(text).input_ids.tolist() == ids, text


def test_pairs_get_the_ids_and_segments_of_transformers(tokenizer, golden_ids):
    for pair, ids, segments in zip(
        golden_ids["pairs"], golden_ids["pair_ids"], golden_ids["pair_segments"], strict=True
    ):
        batch = tokenizer(*pair)
        assert batch.input_ids[0].tolist() == ids, pair
        assert batch.token_type_ids[0].tolist() == segments, pair


def test_the_file_that_transformers_read_is_still_what_is_written(golden_ids, tmp_path):
    """If this alone fails, tokenizer.json has changed: make the goldens anew, so that transformers is asked again."""
    save_tokenizer(AlbertTokenizer(lzma.decompress((GOLDEN / "tokenizer" / "spiece.model.xz").read_bytes())), tmp_path)
    content = json.dumps(json.loads((tmp_path / "tokenizer.json").read_text("utf-8")), sort_keys=True)
    assert hashlib.sha256(content.encode()).hexdigest() == golden_ids["tokenizer.json"]
