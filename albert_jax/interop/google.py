"""Google's TensorFlow checkpoints and our parameters: names, files and configuration, in both directions.

Names are those of google-research/albert (modeling.py, run_pretraining.py, run_classifier.py, run_race.py,
run_squad_v1.py and squad_utils.py). Only the functions that touch a file need TensorFlow, and they alone import it;
conversion works on any mapping from variable name to array."""

import dataclasses
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError, disk_errors_explained
from albert_jax.files import MAX_JSON_BYTES, read_file
from albert_jax.interop.tensor_bundle import require_sound_index
from albert_jax.model import Params

BLOCK_NAMES = {
    "attention/query": "attention_1/self/query",
    "attention/key": "attention_1/self/key",
    "attention/value": "attention_1/self/value",
    "attention/output": "attention_1/output/dense",
    "attention/layer_norm": "LayerNorm",
    "ffn/intermediate": "ffn_1/intermediate/dense",
    "ffn/output": "ffn_1/intermediate/output/dense",
    "ffn/layer_norm": "LayerNorm_1",
}

OUTER_NAMES = {
    "albert/embeddings/layer_norm": "bert/embeddings/LayerNorm",
    "albert/encoder/embedding_hidden_mapping_in": "bert/encoder/embedding_hidden_mapping_in",
    "albert/pooler": "bert/pooler/dense",
    "predictions/dense": "cls/predictions/transform/dense",
    "predictions/layer_norm": "cls/predictions/transform/LayerNorm",
}

LEAF_NAMES = {
    "albert/embeddings/word": "bert/embeddings/word_embeddings",
    "albert/embeddings/position": "bert/embeddings/position_embeddings",
    "albert/embeddings/token_type": "bert/embeddings/token_type_embeddings",
    "predictions/bias": "cls/predictions/output_bias",
    "sop_classifier/kernel": "cls/seq_relationship/output_weights",
    "sop_classifier/bias": "cls/seq_relationship/output_bias",
    # Fine-tuned: GLUE and, with a single row, RACE; SQuAD 1.1; SQuAD 2.0.
    "classifier/kernel": "output_weights",
    "classifier/bias": "output_bias",
    "qa_outputs/kernel": "cls/squad/output_weights",
    "qa_outputs/bias": "cls/squad/output_bias",
    "start_logits/kernel": "start_logits/dense/kernel",
    "start_logits/bias": "start_logits/dense/bias",
    "end_logits/dense_0/kernel": "end_logits/dense_0/kernel",
    "end_logits/dense_0/bias": "end_logits/dense_0/bias",
    "end_logits/layer_norm/scale": "end_logits/LayerNorm/gamma",
    "end_logits/layer_norm/bias": "end_logits/LayerNorm/beta",
    "end_logits/dense_1/kernel": "end_logits/dense_1/kernel",
    "end_logits/dense_1/bias": "end_logits/dense_1/bias",
    "answer_class/dense_0/kernel": "answer_class/dense_0/kernel",
    "answer_class/dense_0/bias": "answer_class/dense_0/bias",
    "answer_class/dense_1/kernel": "answer_class/dense_1/kernel",
}

SQUAD_2_HEAD = ("start_logits/", "end_logits/", "answer_class/")

FINE_TUNED = ("classifier/", "qa_outputs/", *SQUAD_2_HEAD)

CONFIG_KEYS = (
    "vocab_size embedding_size hidden_size num_hidden_layers num_hidden_groups num_attention_heads intermediate_size "
    "inner_group_num hidden_act hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings "
    "type_vocab_size initializer_range"
).split()
"""The fields of Google's AlbertConfig (modeling.py)."""

CHECKPOINT = "model.ckpt-best"
"""Name of the released checkpoints."""

BOOKKEEPING = {"global_step", "beta1_power", "beta2_power", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"}
"""Last parts of the names of variables that belong to a training run and not to a model."""


class GoogleParameters(NamedTuple):
    """What `parameters_from_google` found."""

    parameters: dict[str, np.ndarray]
    """Float32 by our path, such as "albert/pooler/kernel". Layers that had to be given parameters of their own hold
    the same array where they shared one."""
    left_over: list[str]
    """Variables that nothing of ours corresponds to, by their full names, sorted; optimizer slots and bookkeeping are
    not among them."""
    notes: list[str]
    """One line for everything that is not as in the released checkpoints."""
    config: AlbertConfig
    """The configuration that `parameters` are of: the given one, unless a note says otherwise."""


# Names


def google_groups(config: AlbertConfig) -> list[int]:
    """The group of each layer by the floating-point arithmetic of Google's modeling.py. Up to 48 layers it differs from
    `AlbertConfig.layer_groups` for eleven pairs only, such as 22 layers in 22 groups."""
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    return [int(layer / layers * groups) for layer in range(layers)]


def _require_googles(config: AlbertConfig) -> None:
    """Raises `UserError` for a network that Google's code does not have."""
    if config.shared_across_groups != "nothing":
        raise UserError(
            f"model.shared_across_groups = {config.shared_across_groups!r}: Google's checkpoints have no such sharing"
        )
    if config.projects_embeddings and config.embedding_size == config.hidden_size:
        raise UserError(
            "model.always_project_embeddings = True: Google's code has no projection where embedding_size = "
            f"hidden_size = {config.hidden_size}, so a checkpoint for it cannot hold this model"
        )
    if google_groups(config) != list(config.layer_groups):
        raise UserError(
            f"model.num_hidden_groups = {config.num_hidden_groups}: Google's code, computing in floating point, "
            f"divides {config.num_hidden_layers} layers into groups differently, and cannot run this model"
        )


def variable_names(config: AlbertConfig) -> dict[str, str]:
    """Path of each parameter of `AlbertForPreTraining` -> name of Google's variable.

    Raises `UserError` for a network that Google's code does not have.
    """
    _require_googles(config)
    modules = dict(OUTER_NAMES)
    if config.embedding_size == config.hidden_size:
        del modules["albert/encoder/embedding_hidden_mapping_in"]
    for group in range(config.num_hidden_groups):
        for inner in range(config.inner_group_num):
            block = f"group_{group}/inner_group_{inner}"
            for ours, google in BLOCK_NAMES.items():
                modules[f"albert/encoder/{block}/{ours}"] = f"bert/encoder/transformer/{block}/{google}"
    names = {path: name for path, name in LEAF_NAMES.items() if not path.startswith(FINE_TUNED)}
    for ours, google in modules.items():
        for leaf, variable in _leaves(ours):
            names[f"{ours}/{leaf}"] = f"{google}/{variable}"
    return names


def _leaves(module: str) -> tuple[tuple[str, str], ...]:
    """Names of a module's two parameters, each ours and Google's."""
    return (("scale", "gamma"), ("bias", "beta")) if module.endswith("layer_norm") else (("kernel",) * 2, ("bias",) * 2)


def _known_names(config: AlbertConfig, first_norm: int) -> dict[str, list[str]]:
    """Every name that is understood -> our paths, in a model whose layers share nothing: a variable of a group has a
    path for each of the group's layers.

    Beside Google's own names there are those of its code with `tf.keras.layers.LayerNormalization` put in for TF1's
    `layer_norm`, which makes new variables in every layer (google-research/albert#241, huggingface/transformers#10774).
    They are numbered in the order in which they are made, from `first_norm` on, or bear the name they were given.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for path, name in LEAF_NAMES.items():
        known[name].append(path)
    norm = first_norm
    for layer, group in enumerate(google_groups(config)):
        for inner in range(config.inner_group_num):
            for ours, google in BLOCK_NAMES.items():
                scopes = [f"group_{group}/inner_group_{inner}/{google}"]
                if ours.endswith("layer_norm"):
                    norm += 1
                    own = f"group_{group}/layer_{layer}/inner_group_{inner}"
                    scopes += [f"{own}/{google}", f"{own}/{_numbered(norm)}"]
                for leaf, variable in _leaves(ours):
                    for scope in scopes:
                        path = f"albert/encoder/group_{layer}/inner_group_{inner}/{ours}/{leaf}"
                        known[f"bert/encoder/transformer/{scope}/{variable}"].append(path)
    renamed = {
        "bert/embeddings/LayerNorm": f"bert/embeddings/{_numbered(first_norm)}",
        "cls/predictions/transform/LayerNorm": f"cls/predictions/transform/{_numbered(norm + 1)}",
    }
    for ours, google in OUTER_NAMES.items():
        for leaf, variable in _leaves(ours):
            for scope in {google, renamed.get(google, google)}:
                known[f"{scope}/{variable}"].append(f"{ours}/{leaf}")
    return known


def _numbered(norm: int) -> str:
    return f"layer_normalization_{norm}" if norm else "layer_normalization"


def _first_norm(names: Iterable[str]) -> int:
    """The number of the embeddings' LayerNorm: 0, unless the graph had other models before this one."""
    found = (re.fullmatch(r"bert/embeddings/layer_normalization(?:_(\d+))?/(?:gamma|beta)", name) for name in names)
    return min((int(match[1] or 0) for match in found if match), default=0)


def _variable_name(key: str) -> str:
    """A variable's name from what a file has it under: a key of an object-based checkpoint, or a tensor's name."""
    name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    if name != key:
        name = name.replace(".S", "/").replace("..", ".")
    return name.removesuffix(":0")


def _model_variables(keys: Iterable[str]) -> dict[str, str]:
    """Key -> name, sorted, without bookkeeping and optimizer slots, which are stored under the name of what they belong
    to (`.../kernel/adam_m`). So are averaged weights, but of these someone may want to know."""
    names = {key: _variable_name(key) for key in sorted(keys)}
    every = set(names.values())

    def is_of_training(name: str) -> bool:
        parent, _, leaf = name.rpartition("/")
        slot = parent in every and leaf != "ExponentialMovingAverage"
        return slot or leaf in BOOKKEEPING or "/.OPTIMIZER_SLOT/" in name

    return {key: name for key, name in names.items() if not is_of_training(name)}


def _without_scopes(names: dict[str, str]) -> dict[str, str]:
    """`names`, key -> name, without the scope that the model is in, and without the numbers of scopes entered again in
    each layer: the scope below says which layer it is."""
    names = {key: name.removeprefix("module/") for key, name in names.items()}
    starts = (re.match(r"(|.*?/)bert/(?:embeddings|encoder|pooler)/", name) for name in names.values())
    scopes = {match[1] for match in starts if match}
    if len(scopes) > 1 and "" not in scopes:
        found = ", ".join(sorted(scopes))
        raise UserError(f"the checkpoint holds {len(scopes)} models, in the scopes {found}; keep one")
    scope = scopes.pop() if len(scopes) == 1 else ""
    again = re.compile(r"/(group_\d+)_\d+/layer_")
    return {key: again.sub(r"/\1/layer_", name.removeprefix(scope)) for key, name in names.items()}


# Parameters


def parameters_from_google(config: AlbertConfig, variables: Mapping[str, np.ndarray]) -> GoogleParameters:
    """Our parameters from a checkpoint's variables, of which some may be missing.

    Understood are the names of Google's code; the same inside TF-Hub's `module/` or any other scope; and those of its
    code with Keras's LayerNormalization (google-research/albert#241). The last have a LayerNorm for every layer: where
    they differ, the model becomes one with a group for every layer, which computes the same. Nothing is taken by
    resemblance.

    Raises `UserError` if two variables are for one parameter, if there is a group, inner group or layer that `config`
    does not have, or if a variable is not of floating point.
    """
    if config.shared_across_groups != "nothing":
        raise UserError(
            f"model.shared_across_groups = {config.shared_across_groups!r}: Google's checkpoints have no such sharing"
        )
    names = _without_scopes(_model_variables(variables))
    known = _known_names(config, _first_norm(names.values()))
    sources: dict[str, str] = {}
    arrays, left_over = {}, []
    for key, name in names.items():
        if name not in known:
            _require_within(config, key, name)
            left_over.append(key)
            continue
        for path in known[name]:
            if path in sources:
                raise UserError(f"{sources[path]} and {key} are both for one parameter; remove one")
            sources[path] = key
        arrays[key] = np.asarray(variables[key])
        if arrays[key].dtype.name not in ("float32", "float64", "float16", "bfloat16"):
            raise UserError(f"{key}: is of type {arrays[key].dtype.name}, and parameters are float32")
    types = Counter(array.dtype.name for array in arrays.values() if array.dtype != np.float32)
    notes = [f"{count} variables of type {dtype}: read as float32" for dtype, count in types.items()]
    arrays = {key: _transposed(names[key], array.astype(np.float32, copy=False)) for key, array in arrays.items()}
    parameters = {path: arrays[key] for path, key in sources.items()}
    if "albert/encoder/embedding_hidden_mapping_in/kernel" in parameters and not config.projects_embeddings:
        config = dataclasses.replace(config, always_project_embeddings=True)
        notes.append("there is a projection from E to H although they are equal: read with it")
    own_norms = any("/layer_" in names[key] for key in arrays)
    parameters, config = _shared(parameters, config, own_norms, notes)
    return GoogleParameters(parameters, left_over, notes, config)


def _require_within(config: AlbertConfig, key: str, name: str) -> None:
    """Raises `UserError` for a variable of a group, inner group or layer that there is none of."""
    fields = {"group": "num_hidden_groups", "inner_group": "inner_group_num", "layer": "num_hidden_layers"}
    _, _, scopes = name.partition("bert/encoder/transformer/")
    for kind, number in re.findall(r"(?:^|/)(group|inner_group|layer)_(\d+)(?=/)", scopes):
        size = getattr(config, fields[kind])
        if int(number) >= size:
            raise UserError(f"{key}: the configuration has {fields[kind]} = {size}; it is of another checkpoint")


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    # Kernels are [in, out] on both sides; only the matrices of the heads are stored [out, in].
    return np.ascontiguousarray(array.T) if name.endswith("output_weights") else array


def _shared(
    parameters: dict[str, np.ndarray], config: AlbertConfig, own_norms: bool, notes: list[str]
) -> tuple[dict[str, np.ndarray], AlbertConfig]:
    """`parameters` with one group per layer -> with the groups of `config`, if their layers are equal."""
    blocks: list[dict[str, np.ndarray]] = [{} for _ in range(config.num_hidden_layers)]
    others = {}
    for path, array in parameters.items():
        if match := re.match(r"albert/encoder/group_(\d+)/(.*)", path):
            blocks[int(match[1])][match[2]] = array
        else:
            others[path] = array
    # Assigned backwards, so that the first layer of each group remains.
    representatives = {group: blocks[layer] for layer, group in reversed(list(enumerate(config.layer_groups)))}
    if all(_equal(blocks[layer], representatives[group]) for layer, group in enumerate(config.layer_groups)):
        if own_norms and len(representatives) < len(blocks):
            notes.append("every layer has a LayerNorm of its own, equal within each group: read as shared")
        groups = dict(sorted(representatives.items()))
    else:
        notes.append(
            f"layers of one group have different parameters: read with num_hidden_groups = {len(blocks)} instead of "
            f"{config.num_hidden_groups}, and copies of what they share, which computes the same"
        )
        config = dataclasses.replace(config, num_hidden_groups=len(blocks))
        groups = dict(enumerate(blocks))
    inner = {f"albert/encoder/group_{g}/{rest}": array for g, block in groups.items() for rest, array in block.items()}
    return others | inner, config


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return set(one) == set(other) and all(
        array is other[path] or np.array_equal(array, other[path]) for path, array in one.items()
    )


def from_google(config: AlbertConfig, variables: Mapping[str, np.ndarray]) -> Params:
    """The parameters of `AlbertForPreTraining` from Google's variables; other variables are ignored.

    Raises `UserError` naming the variables that are missing, and as `parameters_from_google` does.
    """
    found, names = parameters_from_google(config, variables), variable_names(config)
    if found.config != config:
        raise UserError(f"the checkpoint is not of this configuration: {'; '.join(found.notes)}")
    missing = sorted(name for path, name in names.items() if path not in found.parameters)
    if missing:
        raise UserError(f"the checkpoint lacks {len(missing)} of {len(names)} variables: {', '.join(missing[:5])} ...")
    return unflatten_dict({path: found.parameters[path] for path in names}, sep="/")


def to_google(config: AlbertConfig, params: Params) -> dict[str, np.ndarray]:
    """Google's variables, float32, from the parameters of any model, or a tree like them.

    What `shared_across_groups` shares is written once for every group. Raises `UserError` for what Google's code has
    no place for (a projection where E = H, an output table of the masked-LM head's own, any unknown parameter), and if
    a part of the model is incomplete.
    """
    flat = {path: np.asarray(leaf, dtype=np.float32) for path, leaf in flatten_dict(params, sep="/").items()}
    if not config.tie_word_embeddings and "predictions/bias" in flat:
        raise UserError(
            "model.tie_word_embeddings = False: Google's masked-LM head multiplies with the word embeddings, so a "
            "checkpoint for it cannot hold another table"
        )
    if config.shared_across_groups != "nothing":
        for path in [path for path in flat if path.startswith("albert/encoder/group_0/")]:
            for group in range(1, config.num_hidden_groups):
                flat.setdefault(path.replace("/group_0/", f"/group_{group}/", 1), flat[path])
        config = dataclasses.replace(config, shared_across_groups="nothing")
    names = variable_names(config) | {p: name for p, name in LEAF_NAMES.items() if p.startswith(FINE_TUNED)}
    unknown = sorted(set(flat) - set(names))
    if unknown:
        raise UserError(f"Google's checkpoints have no place for {', '.join(unknown[:5])}")
    present = {_part(path) for path in flat} | {"albert"}
    missing = sorted(path for path in names if _part(path) in present and path not in flat)
    if missing:
        raise UserError(f"{len(missing)} parameters are missing: {', '.join(missing[:5])} ...")
    for head in ("sop_classifier/kernel", "qa_outputs/kernel"):
        if head in flat and flat[head].shape[-1] != 2:
            raise UserError(f"{head}: has {flat[head].shape[-1]} outputs, and Google's has 2")
    return {name: _transposed(name, flat[path]) for path, name in names.items() if path in flat}


def _part(path: str) -> str:
    """What is there whole or not at all. Some models have no pooler."""
    if path.startswith(SQUAD_2_HEAD):
        return "SQuAD 2.0"
    return "albert/pooler" if path.startswith("albert/pooler/") else path.split("/", maxsplit=1)[0]


# Files


def checkpoint_prefix(path: str | Path) -> Path:
    """What TensorFlow calls a checkpoint by: its files' common beginning, such as `albert_base/model.ckpt-best`.

    `path` is that, or one of the files, or their folder: the checkpoint that its `checkpoint` file names as the latest
    or else the only one in it. Raises `UserError` if there is none, or several in a folder without a `checkpoint` file.
    """
    path = Path(path)
    if path.is_dir():
        return _prefix_in_folder(path)
    prefix = path.with_name(re.sub(r"(?<=.)\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    if not _index(prefix).is_file():
        beside = sorted(file.name for file in path.parent.glob("*.index")) if path.parent.is_dir() else []
        raise UserError(
            f"{path}: no TensorFlow checkpoint ({_index(prefix)} does not exist)"
            + (f"; its folder has {', '.join(beside)}" if beside else "")
        )
    return prefix


def _prefix_in_folder(folder: Path) -> Path:
    found = sorted(file.with_suffix("") for file in folder.glob("*.index"))
    state = folder / "checkpoint"
    if state.is_file():
        content = read_file(state, MAX_JSON_BYTES)
        named = re.search(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', content, re.MULTILINE)
        if named is None:
            raise UserError(f"{state}: names no checkpoint; give the path of an .index file")
        escaped = re.compile(rb"\\([0-7]{3}|.)")
        name = escaped.sub(lambda m: bytes([int(m[1], 8) & 255]) if len(m[1]) == 3 else m[1], named[1])
        latest = Path(name.decode(errors="replace"))
        # An absolute path is of where it was written. Nothing is read from elsewhere than from the folder.
        inside = Path(latest.name) if latest.is_absolute() else latest
        try:
            if inside.name and ".." not in inside.parts and _index(folder / inside).is_file():
                return folder / inside
        except (OSError, ValueError):
            pass  # no name that a file can have
        raise UserError(f"{state}: names {latest}, which is not there; give the path of an .index file")
    if len(found) != 1:
        names = ", ".join(prefix.name for prefix in found)
        what = f"several checkpoints and no file that names one: {names}; give the path of one" if found else "none"
        raise UserError(f"{folder}: TensorFlow checkpoints: {what}")
    return found[0]


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """A TensorFlow checkpoint's variables by name, in their own types, without optimizer slots and `global_step`.

    For `path` see `checkpoint_prefix`. Raises `UserError` if there is no checkpoint, a file of it is missing or damaged
    (TensorFlow keeps checksums of both files), or TensorFlow is not installed.
    """
    prefix = checkpoint_prefix(path)
    shards = _shards(prefix)
    tensorflow = _tensorflow()
    require_sound_index(_index(prefix), shards)
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = _model_variables(reader.get_variable_to_shape_map())
    except Exception as error:
        raise UserError(f"{_index(prefix)}: damaged, or no TensorFlow checkpoint ({_first_line(error)})") from error
    variables = {}
    for name in names:
        try:
            variables[name] = reader.get_tensor(name)
        except Exception as error:
            files = ", ".join(map(str, shards))
            raise UserError(f"{files}: {name} cannot be read; is it damaged? ({_first_line(error)})") from error
    return variables


def _shards(prefix: Path) -> list[Path]:
    """The data files. Raises `UserError` if one is missing."""
    pattern = re.compile(re.escape(prefix.name) + r"\.data-\d{5}-of-(\d{5})")
    matches = {file.name: pattern.fullmatch(file.name) for file in prefix.parent.iterdir() if file.is_file()}
    found = {name: match[1] for name, match in matches.items() if match}
    absent = []
    for count in sorted(set(found.values())) or ["00001"]:
        names = [f"{prefix.name}.data-{shard:05d}-of-{count}" for shard in range(int(count))]
        missing = [name for name in names if name not in found]
        if not missing:
            return [prefix.parent / name for name in names]
        absent += missing
    raise UserError(f"{prefix.parent / absent[0]}: is missing; the checkpoint's parameters are in it")


def write_checkpoint(destination: str | Path, config: AlbertConfig, params: Params, step: int = 0) -> Path:
    """Writes a model for Google's code, and returns the checkpoint's prefix: `PREFIX.index`,
    `PREFIX.data-00000-of-00001`, and beside them `checkpoint` and `albert_config.json`.

    `destination` is a folder, for `model.ckpt-best` in it, or a prefix, which has ".ckpt" in its last part. What is
    there under these names is replaced. `step` becomes `global_step`, which Google's scripts ask for when they evaluate
    or predict. Raises `UserError` for what Google's code cannot run (see `to_google`), if the disk cannot be written,
    or if TensorFlow is not installed.
    """
    prefix = Path(destination)
    if ".ckpt" not in prefix.name or prefix.is_dir():
        prefix = prefix / CHECKPOINT
    variables: dict[str, Any] = {**to_google(config, params), "global_step": np.int64(step)}
    if prefix.parent.exists() and not prefix.parent.is_dir():
        raise UserError(f"{prefix.parent}: is a file; give a folder or a prefix")
    text = json.dumps(google_config(config), indent=2) + "\n"
    tensorflow = _tensorflow()
    with disk_errors_explained(prefix, "choose another place"):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        tensorflow.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=[tensorflow.constant(array) for array in variables.values()],
        )
        (prefix.parent / "albert_config.json").write_text(text)
        name = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in prefix.name.encode())
        state = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
        (prefix.parent / "checkpoint").write_text(state)
    return prefix


def google_config(config: AlbertConfig) -> dict[str, Any]:
    """The content of Google's `albert_config.json`. Raises `UserError` for what Google's code does not compute."""
    if config.hidden_act == "gelu_erf":
        raise UserError("model.hidden_act = 'gelu_erf': Google's code has the tanh approximation of GELU only")
    if config.layer_norm_eps != 1e-12:
        raise UserError(f"model.layer_norm_eps = {config.layer_norm_eps}: it is 1e-12 in Google's code, for all models")
    values = {key: getattr(config, key) for key in CONFIG_KEYS}
    return values | {"hidden_act": "gelu" if config.hidden_act == "gelu_new" else config.hidden_act}


def _tensorflow() -> Any:
    try:
        with _quiet_start():
            import tensorflow
    except ImportError as error:
        raise UserError(
            f"TensorFlow checkpoints are read and written by TensorFlow ({error}): in the repository, "
            'pip install -e ".[tf]"'
        ) from error
    try:
        # It would take the accelerator's memory from JAX.
        tensorflow.config.set_visible_devices([], "GPU")
    except RuntimeError:
        pass  # The program uses TensorFlow already, and has made that choice.
    return tensorflow


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keeps from the terminal what TensorFlow prints when it is loaded, even at its lowest level."""
    if "tensorflow" in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
