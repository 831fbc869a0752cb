"""Programs for serving: that they run without this package, at any batch and length, and say what the model says."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from albert_jax.config import AlbertConfig
from albert_jax.convert import save_program
from albert_jax.errors import UserError
from albert_jax.interop.stablehlo import export_program
from albert_jax.model import initialize
from albert_jax.pretrained import CLASSES

TINY = AlbertConfig(
    vocab_size=31,
    embedding_size=4,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=12,
)
SERVER = """
import json, sys
from pathlib import Path
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

for folder in sys.argv[1:]:
    folder = Path(folder)
    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    weights = load_file(folder / "weights.safetensors")
    signature = json.loads((folder / "signature.json").read_text())
    outputs = {}
    for file in sorted(folder.glob("input_*.npz")):
        inputs = np.load(file)
        answer = jax.jit(program.call)(weights, *(inputs[name] for name in signature["inputs"]))
        outputs |= {f"{file.stem}/{name}": np.asarray(value) for name, value in answer.items()}
    np.savez(folder / "outputs.npz", **outputs)
    print(program.platforms)
assert not [name for name in sys.modules if name.startswith(("albert_jax", "flax"))]
"""
SHAPES = [(1, 1), (1, 12), (3, 7), (8, 12)]


def random_model(name, **changes):
    cls, config = CLASSES[name], dataclasses.replace(TINY, **changes)
    shapes = jax.eval_shape(lambda: initialize(config, jax.random.key(0), cls.network))
    rng = np.random.default_rng(0)
    return cls(config, jax.tree.map(lambda x: (rng.normal(size=x.shape) * 0.3).astype(np.float32), shapes))


def random_inputs(model, batch, length):
    rng = np.random.default_rng(batch * length)
    shape = (batch, 3, length) if len(model.input_axes) == 3 else (batch, length)
    mask = np.arange(length) < rng.integers(1, length + 1, (*shape[:-1], 1))
    types = mask & (np.arange(length) > length // 2)
    ids = np.where(mask, rng.integers(0, 31, shape), 0)
    return dict(zip(("input_ids", "token_type_ids", "attention_mask"), (ids, types, mask), strict=True))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Name of each class -> (the model, its folder, in which a process without this package left its outputs)."""
    folders = {}
    for name in CLASSES:
        model, folder = random_model(name), tmp_path_factory.mktemp(name)
        save_program(model, folder)
        for batch, length in SHAPES:
            inputs = {key: value.astype(np.int32) for key, value in random_inputs(model, batch, length).items()}
            np.savez(folder / f"input_{batch}x{length}.npz", **inputs)
        folders[name] = model, folder
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "server.py").write_text(SERVER)
    result = subprocess.run(
        [sys.executable, elsewhere / "server.py", *(folder for _, folder in folders.values())],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["('cpu', 'cuda', 'tpu')"] * len(CLASSES)
    return folders


@pytest.mark.parametrize("name", CLASSES)
def test_a_program_says_what_the_model_says_at_every_batch_and_length(served, name):
    model, folder = served[name]
    outputs = dict(np.load(folder / "outputs.npz"))
    for batch, length in SHAPES:
        ours = model(**random_inputs(model, batch, length))
        for field in ours.__dataclass_fields__:
            if getattr(ours, field) is not None:
                theirs = outputs.pop(f"input_{batch}x{length}/{field}")
                np.testing.assert_allclose(theirs, getattr(ours, field), rtol=1e-5, atol=1e-5, err_msg=field)
    assert not outputs


def test_the_signature_says_what_goes_in_and_comes_out(served):
    _, folder = served["AlbertForPreTraining"]
    signature = json.loads((folder / "signature.json").read_text())
    assert list(signature["inputs"]) == ["input_ids", "token_type_ids", "attention_mask"]
    assert set(signature["inputs"].values()) == {"int32 [batch, length]"}
    assert signature["outputs"] == {
        "last_hidden_state": "float32 [batch, length, 8]",
        "pooler_output": "float32 [batch, 8]",
        "prediction_logits": "float32 [batch, length, 31]",
        "sop_logits": "float32 [batch, 2]",
    }
    assert signature["longest"] == 12
    assert signature["platforms"] == ["cpu", "cuda", "tpu"]
    assert signature["jax"] == jax.__version__


def test_the_signature_of_multiple_choice_has_its_choices(served):
    _, folder = served["AlbertForMultipleChoice"]
    signature = json.loads((folder / "signature.json").read_text())
    assert set(signature["inputs"].values()) == {"int32 [batch, choices, length]"}
    assert signature["outputs"]["logits"] == "float32 [batch, choices]"


def test_labels_are_in_the_signature(tmp_path):
    model = CLASSES["AlbertForSequenceClassification"].from_config(TINY, labels=("bad", "good", "schön"))
    export_program(model, tmp_path, platforms=("cpu",))
    assert json.loads((tmp_path / "signature.json").read_text("utf-8"))["labels"] == ["bad", "good", "schön"]


@pytest.mark.parametrize(
    "changes",
    [
        dict(tie_word_embeddings=False, embedding_size=8),
        dict(num_hidden_groups=2, inner_group_num=2, shared_across_groups="ffn"),
    ],
)
def test_unusual_networks_become_programs_too(tmp_path, changes):
    from jax import export
    from safetensors.numpy import load_file

    model = random_model("AlbertForMaskedLM", **changes)
    export_program(model, tmp_path, platforms=("cpu",))
    program = export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    inputs = {name: value.astype(np.int32) for name, value in random_inputs(model, 2, 5).items()}
    theirs = program.call(load_file(tmp_path / "weights.safetensors"), *inputs.values())
    np.testing.assert_allclose(theirs["logits"], model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_a_sequence_beyond_the_positions_is_refused_by_the_program(served):
    from jax import export
    from safetensors.numpy import load_file

    _, folder = served["AlbertModel"]
    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    ids = np.zeros((1, 13), np.int32)
    with pytest.raises(ValueError, match="shapes"):
        program.call(load_file(folder / "weights.safetensors"), ids, ids, ids)


def test_bfloat16_is_in_the_program_and_its_outputs_are_float32(tmp_path):
    from jax import export

    export_program(random_model("AlbertForMaskedLM"), tmp_path, platforms=("cpu",), dtype="bfloat16")
    program = export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert "bf16" in program.mlir_module()
    assert {str(out.dtype) for out in program.out_avals} == {"float32"}


def test_a_platform_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="platforms = cpu, abacus: there are cpu, cuda, rocm, tpu"):
        export_program(random_model("AlbertModel"), tmp_path, platforms=("cpu", "abacus"))


def test_a_folder_with_other_things_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other things \(notes.txt\)"):
        save_program(random_model("AlbertModel"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(Exception, match="float17"):
        save_program(random_model("AlbertModel"), tmp_path / "program", "float17")
    assert list(tmp_path.iterdir()) == []
