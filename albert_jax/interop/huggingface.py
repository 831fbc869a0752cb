"""Hugging Face's folders: `config.json` and weights, read and written without transformers (reference: the weight names
and configuration fields of transformers 4.57 and 5).

Weights are read from safetensors, whole or in shards, from `pytorch_model.bin` through torch's weights-only loader, and
from the `flax_model.msgpack` of the classes that transformers 5 removed. No file is ever unpickled otherwise."""

import dataclasses
import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.files import MAX_JSON_BYTES, read_file, require_file
from albert_jax.interop.saved_model import SavedModel, require_possible_depth

CONFIG_FILE = "config.json"
SAFETENSORS, TORCH, FLAX = "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"
INDEX = ".index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS + INDEX, TORCH, TORCH + INDEX, FLAX)

MODULE_NAMES = {
    "albert/embeddings/layer_norm": "albert.embeddings.LayerNorm",
    "albert/encoder/embedding_hidden_mapping_in": "albert.encoder.embedding_hidden_mapping_in",
    "albert/pooler": "albert.pooler",
    "predictions/dense": "predictions.dense",
    "predictions/layer_norm": "predictions.LayerNorm",
    "sop_classifier": "sop_classifier.classifier",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
    # No model of theirs: named like XLNet's head of this kind, with the layers' names of Google's.
    "start_logits": "start_logits.dense",
    "end_logits/dense_0": "end_logits.dense_0",
    "end_logits/layer_norm": "end_logits.LayerNorm",
    "end_logits/dense_1": "end_logits.dense_1",
    "answer_class/dense_0": "answer_class.dense_0",
}
BLOCK_NAMES = {
    "attention/query": "attention.query",
    "attention/key": "attention.key",
    "attention/value": "attention.value",
    "attention/output": "attention.dense",
    "attention/layer_norm": "attention.LayerNorm",
    "ffn/intermediate": "ffn",
    "ffn/output": "ffn_output",
    "ffn/layer_norm": "full_layer_layer_norm",
}
TENSOR_NAMES = {
    "albert/embeddings/word": "albert.embeddings.word_embeddings.weight",
    "albert/embeddings/position": "albert.embeddings.position_embeddings.weight",
    "albert/embeddings/token_type": "albert.embeddings.token_type_embeddings.weight",
    "predictions/bias": "predictions.bias",
    "predictions/decoder": "predictions.decoder.weight",
    "answer_class/dense_1/kernel": "answer_class.dense_1.weight",
}
PROJECTION = "albert/encoder/embedding_hidden_mapping_in"
DECODER_WEIGHT, DECODER_BIAS = "predictions.decoder.weight", "predictions.decoder.bias"
BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")
FLOATS = ("float32", "bfloat16", "float16", "float64")
"""Types of parameters. Whole numbers would be quantized ones, which mean nothing without their scales."""
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
MAX_LABELS = 100_000
SURROGATES = re.compile("[\ud800-\udfff]")

WRITER_KEY = "written_by"
"""A configuration with this key is ours and means what it says, even with the sizes of a published network."""

UNTRAINED_KEY = "untrained"
"""Our field for paths of parameters that were drawn at random and saved before they were trained."""

# What a field that config.json leaves out is to transformers (configuration_albert.py).
FIELD_DEFAULTS = dict(
    vocab_size=30_000,
    embedding_size=128,
    hidden_size=4096,
    num_hidden_layers=12,
    num_hidden_groups=1,
    inner_group_num=1,
    num_attention_heads=64,
    intermediate_size=16_384,
    hidden_act="gelu_new",
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    classifier_dropout_prob=0.1,
    max_position_embeddings=512,
    type_vocab_size=2,
    initializer_range=0.02,
    layer_norm_eps=1e-12,
    tie_word_embeddings=True,
)
# Their names of the activations and ours: "gelu" alone means another function there than in Google's code.
ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
ACTIVATIONS_WRITTEN = {"gelu": "gelu_new", "gelu_new": "gelu_new", "gelu_erf": "gelu"}
V1_LAYERS = {768: 12, 1024: 24, 2048: 24, 4096: 12}  # hidden size -> layers of the published networks


def read_folder(folder: Path) -> SavedModel:
    """The model in a folder of Hugging Face's layout, whatever class saved it. Raises `UserError` naming the file that
    is missing, damaged or of another kind of model."""
    config, description = read_config(folder / CONFIG_FILE)
    file, tensors = read_weights(folder)
    saved = parameters_from_huggingface(config, tensors, str(file))
    description["notes"] += saved.notes
    return SavedModel(
        **description, source=str(folder), config=saved.config, parameters=saved.parameters, left_over=saved.left_over
    )


# ---- configuration


def read_config(path: Path) -> tuple[AlbertConfig, dict[str, Any]]:
    """The network that a `config.json` describes; and its `architecture`, `labels`, `problem_type` and `notes`."""
    values = read_json(path)
    kind = values.get("model_type")
    if kind != "albert":
        raise UserError(f"{path}: model_type is {kind!r}, expected 'albert'; this is the folder of another model")
    fields = {name: _of_type_of(default, values.get(name, default)) for name, default in FIELD_DEFAULTS.items()}
    notes: list[str] = []
    activation = fields["hidden_act"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    fields["hidden_act"] = ACTIVATIONS[activation]
    try:
        config = AlbertConfig(**fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    require_possible_depth(config, str(path))
    _check_layer_groups(config, str(path))
    if WRITER_KEY not in values:
        config = _corrected(config, notes)
    architectures = values.get("architectures")
    named = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    untrained = values.get(UNTRAINED_KEY) or []
    if not isinstance(untrained, list):
        raise UserError(f"{path}: {UNTRAINED_KEY} is {untrained!r}, expected a list of paths; take it out")
    problem = values.get("problem_type")
    if problem is not None and problem not in PROBLEM_TYPES:
        raise UserError(f"{path}: problem_type is {problem!r}, expected null or one of {', '.join(PROBLEM_TYPES)}")
    return config, dict(
        architecture=named[0] if named else None,
        labels=_labels(path, values),
        problem_type=problem,
        untrained=tuple(map(str, untrained)),
        notes=notes,
    )


def config_values(
    config: AlbertConfig,
    architecture: str,
    labels: tuple[str, ...] = (),
    problem_type: str | None = None,
    special_ids: tuple[int, int, int] = (0, 2, 3),
) -> dict[str, Any]:
    """The contents of a `config.json`. `special_ids` are those of padding, [CLS] and [SEP]."""
    _check_layer_groups(config, "this model")
    values = {name: getattr(config, name) for name in FIELD_DEFAULTS}
    values["hidden_act"] = ACTIVATIONS_WRITTEN.get(config.hidden_act, config.hidden_act)
    values |= dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"), special_ids, strict=True))
    values[WRITER_KEY] = "albert_jax"
    values |= {"architectures": [architecture], "model_type": "albert", "dtype": "float32", "torch_dtype": "float32"}
    if labels:
        values["id2label"] = {str(number): label for number, label in enumerate(labels)}
        values["label2id"] = {label: number for number, label in enumerate(labels)}
    if problem_type:
        values["problem_type"] = problem_type
    return values


def _check_layer_groups(config: AlbertConfig, place: str) -> None:
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    theirs = tuple(int(layer / (layers / groups)) for layer in range(layers))
    if theirs != config.layer_groups:
        raise UserError(
            f"{place}: transformers, by its rounding, deals {layers} layers out to {groups} groups differently; use a "
            "number of groups that divides the layers"
        )


def _corrected(config: AlbertConfig, notes: list[str]) -> AlbertConfig:
    """The configuration without the two errors of the published `config.json` files, which `notes` then mention."""
    sizes = (config.vocab_size, config.embedding_size, config.num_hidden_groups, config.inner_group_num)
    released = sizes == (30_000, 128, 1, 1) and (
        V1_LAYERS.get(config.hidden_size) == config.num_hidden_layers
        and config.intermediate_size == 4 * config.hidden_size
    )
    if released and config.hidden_size == 2048 and config.num_attention_heads == 16:
        notes.append(
            "num_attention_heads 16 -> 32: the published config.json of ALBERT xlarge is wrong, Google trained it with "
            "32 heads of 64 (override: num_attention_heads=16)"
        )
        config = dataclasses.replace(config, num_attention_heads=32)
    if config.hidden_act == "gelu_erf":
        dropout = 0.0 if config.hidden_size == 4096 else 0.1
        if released and config.hidden_dropout_prob == dropout:
            notes.append(
                "hidden_act 'gelu' -> 'gelu_new': this is ALBERT v1, which Google trained with the tanh form "
                "(override: hidden_act='gelu_erf', what transformers computes)"
            )
            config = dataclasses.replace(config, hidden_act="gelu_new")
        else:
            notes.append(
                "hidden_act 'gelu' is the erf form, as in transformers (for weights that Google's code trained: "
                "hidden_act='gelu_new')"
            )
    return config


def _of_type_of(default: Any, value: Any) -> Any:
    """A dropout of 0 is written without a point in the published files and by transformers 4."""
    if not isinstance(default, float) or type(value) is not int:
        return value
    return float(value) if abs(value) < 2**53 else math.inf


def _labels(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels; ("LABEL_0", ...) where only their number is known."""
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        if not isinstance(count, int) or not 1 <= count <= MAX_LABELS:
            raise UserError(f"{path}: num_labels is {count!r}, expected a whole number, 1 to {MAX_LABELS:,}")
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(names, dict) or not names or {str(n) for n in range(len(names))} != set(names):
        raise UserError(f"{path}: id2label must name the labels '0', '1', ... without a gap")
    for number, label in names.items():
        if not isinstance(label, str | int | float) or SURROGATES.search(str(label)):
            raise UserError(f"{path}: id2label names {number} {label!r:.50}, expected text that UTF-8 can hold")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a `config.json`."""
    path.write_text(json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` naming the file."""
    content = read_file(path, MAX_JSON_BYTES)
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore it from where it came") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
    return values


# ---- weights


def read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file that was read, and its tensors by Hugging Face's names, in float32; safetensors are preferred to torch's
    files, these to Flax's."""
    for name in WEIGHT_FILES:
        path = folder / name
        if path.exists():
            if name.endswith(INDEX):
                tensors: dict[str, np.ndarray] = {}
                for shard in _shards(path):
                    more = _read_file(shard)
                    if twice := sorted(tensors.keys() & more.keys()):
                        raise UserError(
                            f"{shard}: holds {twice[0]}, which another shard holds too; remove the wrong one"
                        )
                    tensors |= more
                return path, tensors
            return path, _read_file(path)
    raise UserError(f"{folder}: has no weights; expected one of {', '.join(WEIGHT_FILES)}")


def _shards(index: Path) -> list[Path]:
    """The files that an index names. They lie beside it: a name that leads elsewhere is refused."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index}: has no weight_map from tensors to files")
    shards = []
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise UserError(f"{index}: names the file {name!r:.100}, which does not lie in the same folder")
        if not name.isprintable() or len(name.encode()) > 255:
            raise UserError(f"{index}: names the file {name!r:.100}, which is no name of a file")
        shards.append(index.parent / name)
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        names = ", ".join(missing[:6]) + (" ..." if len(missing) > 6 else "")
        raise UserError(f"{index}: {len(missing)} of {len(shards)} shards are missing: {names}")
    return shards


def _read_file(path: Path) -> dict[str, np.ndarray]:
    readers = {".safetensors": _read_safetensors, ".bin": _read_torch, ".msgpack": _read_flax}
    if path.suffix not in readers:
        raise UserError(f"{path}: is not a file of weights ({', '.join(readers)})")
    require_file(path)
    tensors = readers[path.suffix](path)
    if not tensors:
        raise UserError(f"{path}: holds no tensors")
    for name, tensor in tensors.items():
        if tensor.dtype.name not in FLOATS and not BUFFERS.search(name):
            raise _no_float(path, f"{name} is of type {tensor.dtype.name}")
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def _no_float(path: Path, found: str) -> UserError:
    return UserError(f"{path}: {found}; parameters are read from {', '.join(FLOATS)}, so save it in one of these")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # noqa: F401  (gives numpy the bfloat16 that safetensors asks it for)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except AttributeError as error:
        raise _no_float(path, f"holds tensors of a type that numpy lacks ({error})") from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}); copy or download it again ({path.stat().st_size:,} bytes)"
        ) from error


def write_weights(path: Path, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
    """Writes safetensors. transformers 4 refuses a file whose metadata name no format that it knows."""
    import ml_dtypes
    from safetensors.numpy import save

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(over="ignore"):
        tensors = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{name}: has values that are no numbers, or beyond {dtype}; save a model that computes, or as float32"
            )
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: reading torch's own format needs torch (pip install torch); or save the model as safetensors"
        ) from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise UserError(
            f"{path}: torch {torch.__version__} executes what such a file holds even where it is told not to "
            "(CVE-2025-32434); install torch 2.6 or newer, or save the model as safetensors"
        )
    try:
        _require_unpacked(path)
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise TypeError("no dictionary from names to tensors")
        for name, tensor in tensors.items():
            # A tensor can repeat one number without end, and would need that memory as an array.
            if tensor.numel() * tensor.element_size() > path.stat().st_size:
                raise ValueError(f"{name} is larger than the file")
        kinds = torch.bfloat16, torch.float16
        return {name: (t.float() if t.dtype in kinds else t).detach().numpy() for name, t in tensors.items()}
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: torch cannot load this as weights alone (it is damaged, or holds other objects, which are never "
            "loaded); have the model saved as safetensors"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: torch cannot load this as weights alone ({reason})") from error


def _require_unpacked(path: Path) -> None:
    """Raises ValueError for an archive that is larger unpacked than packed: torch itself only ever stores."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def _read_flax(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a Flax checkpoint under torch's names: kernels are [in, out] there."""
    import flax.serialization
    import flax.traverse_util

    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())
        leaves = flax.traverse_util.flatten_dict(tree, sep=".")
        tensors = {}
        for name, leaf in leaves.items():
            module, _, kind = name.rpartition(".")
            if not hasattr(leaf, "dtype"):
                raise TypeError(f"{name} is no array")
            tensor = np.asarray(leaf)
            tensors[f"{module}.weight" if kind in ("kernel", "scale", "embedding") else name] = (
                tensor.T if kind == "kernel" else tensor
            )
    except Exception as error:
        raise UserError(f"{path}: not a whole Flax checkpoint ({type(error).__name__}: {error})") from error
    return tensors


# ---- names


def tensor_names(config: AlbertConfig) -> dict[str, str]:
    """Path of each parameter that any model of this configuration has -> name of the tensor, with `albert.` in front as
    below a head."""
    modules = dict(MODULE_NAMES)
    for group in range(config.num_hidden_groups):
        for inner in range(config.inner_group_num):
            block = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            for ours, theirs in BLOCK_NAMES.items():
                modules[f"albert/encoder/group_{group}/inner_group_{inner}/{ours}"] = f"{block}.{theirs}"
    names = dict(TENSOR_NAMES)
    for ours, theirs in modules.items():
        names[f"{ours}/{'scale' if ours.endswith('layer_norm') else 'kernel'}"] = f"{theirs}.weight"
        names[f"{ours}/bias"] = f"{theirs}.bias"
    return names


def parameters_from_huggingface(config: AlbertConfig, tensors: Mapping[str, np.ndarray], place: str) -> SavedModel:
    """Our parameters, as far as the tensors have them, and the configuration that they really are of.

    Tensors may lack the `albert.` of a bare model or have a `module.` in front (DataParallel), LayerNorms may be called
    gamma and beta (before 2020). A decoder that differs from the word embeddings is kept, as transformers 5 does.
    """
    found: dict[str, np.ndarray] = {}
    original: dict[str, str] = {}
    for name, tensor in tensors.items():
        full = _canonical(name)
        if BUFFERS.search(full):
            continue
        if full in found:
            raise UserError(f"{place}: holds both {original[full]} and {name}, which are one tensor")
        found[full], original[full] = tensor, name
    parameters = {}
    for path, name in tensor_names(config).items():
        if name in found:
            tensor = found.pop(name)
            parameters[path] = np.ascontiguousarray(tensor.T) if path.endswith("/kernel") else tensor
    if DECODER_BIAS in found:
        parameters["predictions/bias"] = found.pop(DECODER_BIAS)  # the one that transformers computes with
    notes = []
    decoder, words = parameters.get("predictions/decoder"), parameters.get("albert/embeddings/word")
    tied = decoder is None or (words is not None and np.array_equal(decoder, words))
    if tied:
        parameters.pop("predictions/decoder", None)
    elif config.tie_word_embeddings:
        notes.append("the stored decoder differs from the word embeddings: both are kept, not tied")
    config = dataclasses.replace(config, tie_word_embeddings=tied)
    if config.embedding_size == config.hidden_size and f"{PROJECTION}/kernel" in parameters:
        kernel, bias = parameters[f"{PROJECTION}/kernel"], parameters.get(f"{PROJECTION}/bias")
        if np.array_equal(kernel, np.eye(len(kernel))) and (bias is None or not bias.any()):
            # What Google's networks with E = H have there, written out for transformers.
            parameters = {path: value for path, value in parameters.items() if not path.startswith(PROJECTION)}
        else:
            config = dataclasses.replace(config, always_project_embeddings=True)
    return SavedModel(
        source=place,
        config=config,
        parameters=parameters,
        left_over=sorted(original[name] for name in found),
        notes=notes,
    )


def _canonical(name: str) -> str:
    name = name.removeprefix("module.")
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"albert.{name}"
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def to_huggingface(config: AlbertConfig, parameters: Mapping[str, np.ndarray], bare: bool) -> dict[str, np.ndarray]:
    """Tensors in float32 from parameters by path; `bare` for `AlbertModel`, whose tensors have no `albert.` in front.

    What transformers cannot express is written out: parts that all groups share are copied into each, and where E = H
    without a projection there is an identity.
    """
    tensors = {}
    parameters = dict(parameters)
    if not config.projects_embeddings:
        parameters[f"{PROJECTION}/kernel"] = np.eye(config.hidden_size, dtype=np.float32)
        parameters[f"{PROJECTION}/bias"] = np.zeros(config.hidden_size, np.float32)
    for path, name in tensor_names(config).items():
        value = parameters.get(path)
        if value is None and config.shared_across_groups != "nothing":
            value = parameters.get(re.sub(r"/group_\d+/", "/group_0/", path))
        if value is None:
            continue
        value = np.asarray(value, np.float32)
        tensors[name.removeprefix("albert.") if bare else name] = np.ascontiguousarray(
            value.T if path.endswith("/kernel") else value
        )
    if not config.tie_word_embeddings and DECODER_WEIGHT in tensors:
        tensors[DECODER_BIAS] = tensors["predictions.bias"].copy()
    return tensors
