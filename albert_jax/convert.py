"""Any source to any target, and the proof that both say the same."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax import traverse_util

from albert_jax.errors import UserError
from albert_jax.interop import stablehlo
from albert_jax.interop.saved_model import SavedModel
from albert_jax.interop.tokenizer_json import save_tokenizer
from albert_jax.pretrained import CLASSES, PretrainedModel, read_source, require_dtype, whole_folder

Format = Literal["huggingface", "google", "stablehlo"]
Dtype = Literal["float32", "bfloat16", "float16"]

SAMPLE_TEXTS = (
    "The man went to buy 1,000 litres of milk, didn't he?",
    "Plants create energy through a process known as photosynthesis.",
    "naïve café — ½ of ﬁve  \u2018quotes\u2019 \t 东京 [MASK]",
)
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"}


def convert(
    source: str,
    target: str | Path,
    *,
    to: Format = "huggingface",
    model_class: str | None = None,
    dtype: Dtype = "float32",
    revision: str | None = None,
    checkpoint: int | None = None,
) -> list[str]:
    """Reads `source`, writes `target`, reads that again and compares; returns what to tell the user.

    `model_class` is by default the class that saved the source, or what its heads are for. Raises `UserError` if the
    source lacks a part of that class, the target cannot be written, or the two do not agree.
    """
    target = Path(target)
    if model_class is None:
        model_class = class_of(read_source(source, revision=revision, checkpoint=checkpoint)[0])
    elif model_class not in CLASSES:
        raise UserError(f"model_class = {model_class!r}: there are {', '.join(CLASSES)}")
    cls = CLASSES[model_class]
    model = cls.from_pretrained(source, revision=revision, checkpoint=checkpoint, verbose=False)
    if model.report.initialized:
        missing = ", ".join(model.report.initialized[:3])
        raise UserError(
            f"{model.report.source}: has no {missing}, which {model_class} needs; choose another --model_class"
        )
    if dtype != "float32" and to == "google":
        raise UserError(f"dtype = {dtype!r}: Google's checkpoints are float32")
    if _is_folder_of(source, target):
        raise UserError(f"{target}: is where the source lies, which would be replaced; give another folder")
    lines = str(model.report).splitlines()
    if to == "huggingface":
        model.save_pretrained(target, dtype=dtype)
    elif to == "google":
        model.save_google(target)
    else:
        save_program(model, target, dtype)
    lines.append(f"written {target} ({to}, {dtype})")
    if to == "stablehlo":
        lines.append(f"check: {_compare_program(model, target, dtype)}")
    else:
        again = cls.from_pretrained(target, verbose=False)
        lines.append(f"check: read again, {_compare(model, again, dtype)}")
    if to == "huggingface":
        lines.append(f"check: {_compare_transformers(model, target, dtype)}")
    return lines


def _is_folder_of(source: str, target: Path) -> bool:
    path = Path(source).expanduser()
    if not (path.exists() or path.with_name(f"{path.name}.index").exists()):
        return False
    folder = path if path.is_dir() else path.parent
    return os.path.isdir(target) and target.samefile(folder)


def save_program(model: PretrainedModel, folder: str | Path, dtype: Dtype = "float32") -> None:
    """Writes a StableHLO program (see `albert_jax.interop.stablehlo`) and the tokenizer's files."""
    require_dtype(dtype, "float32", "bfloat16")
    with whole_folder(folder, {*stablehlo.FILES, *TOKENIZER_FILES}) as temporary:
        stablehlo.export_program(model, temporary, dtype=dtype)
        if model.tokenizer is not None:
            save_tokenizer(model.tokenizer, temporary, model_max_length=model.config.max_position_embeddings)


def class_of(saved: SavedModel) -> str:
    """The class that a source was saved as, or that its heads are for."""
    if saved.architecture in CLASSES:
        return saved.architecture
    tops = {path.split("/")[0] for path in saved.parameters}
    for top, name in (
        ("sop_classifier", "AlbertForPreTraining"),
        ("predictions", "AlbertForMaskedLM"),
        ("qa_outputs", "AlbertForQuestionAnswering"),
        ("answer_class", "AlbertForBeamQuestionAnswering"),
        ("classifier", "AlbertForSequenceClassification"),
    ):
        if top in tops:
            return name
    return "AlbertModel"


def _sample(model: PretrainedModel) -> dict[str, np.ndarray]:
    """A batch with padding and both segments."""
    rng = np.random.default_rng(0)
    longest = min(model.config.max_position_embeddings, 48)
    shape = (2, 2, longest) if len(model.input_axes) == 3 else (3, longest)
    lengths = rng.integers(longest // 2, longest + 1, shape[:-1])
    mask = np.arange(longest) < lengths[..., None]
    ids = np.where(mask, rng.integers(0, model.config.vocab_size, shape), 0)
    types = mask & (np.arange(longest) > lengths[..., None] // 2) & (model.config.type_vocab_size > 1)
    return dict(
        input_ids=ids.astype(np.int32), token_type_ids=types.astype(np.int32), attention_mask=mask.astype(np.int32)
    )


def _outputs(model: PretrainedModel) -> dict[str, np.ndarray]:
    """What is compared: not what hangs on a ranking, in which rounding may turn two places round."""
    output = model(**_sample(model))
    ranked = ("start_top_index", "end_top_log_probs", "end_top_index")
    named = {n: getattr(output, n) for n in output.__dataclass_fields__ if n not in ("hidden_states", *ranked)}
    return {name: np.asarray(value, np.float32) for name, value in named.items() if value is not None}


def _agreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float, whom: str) -> str:
    """A line on the largest difference. Raises `UserError` if it is more than `tolerance` of the outputs' scale."""
    worst = 0.0
    common = ours.keys() & theirs.keys()
    if not common:
        raise UserError(f"{whom}: gives none of {', '.join(ours)}; do not use what was written")
    for name in common:
        # A search for answers gives -inf where it finds no more places.
        one, other = (np.where(np.isneginf(side[name]), 0.0, side[name]) for side in (ours, theirs))
        scale = max(1.0, float(np.abs(one).max()))
        worst = float(np.maximum(worst, np.abs(one - other).max() / scale))  # max() would drop a NaN
    if not worst <= tolerance:
        raise UserError(
            f"{whom}: outputs differ by {worst:.1e}, more than {tolerance:.0e}; do not use what was written"
        )
    return f"outputs agree{f' to {worst:.1e}' if worst else ' bit for bit'}"


def _tolerance(dtype: Dtype) -> float:
    return {"float32": 1e-5, "bfloat16": 0.1, "float16": 0.02}[dtype]


def _compare(model: PretrainedModel, again: PretrainedModel, dtype: Dtype) -> str:
    line = _agreement(_outputs(model), _outputs(again), _tolerance(dtype), str(again.report.source))
    before, after = (traverse_util.flatten_dict(jax.device_get(m.params)) for m in (model, again))
    if dtype == "float32" and all(np.array_equal(before[path], after.get(path)) for path in before):
        line = "every parameter is the same bit for bit"
    if model.tokenizer is not None:
        _require_same_ids(model, [again.tokenizer.encode(text) for text in SAMPLE_TEXTS], str(again.report.source))
        line += ", and so are the ids of sample texts"
    return line


def _require_same_ids(model: PretrainedModel, theirs: Sequence[Sequence[int]], whom: str) -> None:
    for text, ids in zip(SAMPLE_TEXTS, theirs, strict=True):
        if model.tokenizer.encode(text) != list(ids):
            raise UserError(f"{whom}: its tokenizer gives other ids for {text!r}; do not use what was written")


def _compare_program(model: PretrainedModel, target: Path, dtype: Dtype) -> str:
    from jax import export
    from safetensors.numpy import load_file

    program = export.deserialize(bytearray((target / stablehlo.PROGRAM).read_bytes()))
    outputs = program.call(load_file(target / stablehlo.WEIGHTS), *_sample(model).values())
    theirs = {name: np.asarray(value) for name, value in outputs.items()}
    return f"the program ran, {_agreement(_outputs(model), theirs, _tolerance(dtype), str(target))}"


def _compare_transformers(model: PretrainedModel, target: Path, dtype: Dtype) -> str:
    """Loads the target with transformers, if that is installed with torch."""
    try:
        import torch
        import transformers
    except ImportError:
        return "transformers and torch are not installed here, so they were not asked"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # One class of ours is not theirs: of that they load the encoder.
    peer_class = getattr(transformers, type(model).__name__, transformers.AlbertModel)
    peer = peer_class.from_pretrained(target).float().eval()
    with torch.no_grad():
        output = peer(**{name: torch.tensor(value).long() for name, value in _sample(model).items()})
    theirs = {name: value.numpy() for name, value in output.items() if isinstance(value, torch.Tensor)}
    whom = f"transformers {transformers.__version__}"
    line = f"{whom} loads it, {_agreement(_outputs(model), theirs, _tolerance(dtype), whom)}"
    if model.tokenizer is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(target)
        # Without the last sample: there [MASK] in a text is the symbol, here it is text.
        texts = [text.replace("[MASK]", "") for text in SAMPLE_TEXTS]
        for text in texts:
            if tokenizer(text, add_special_tokens=False)["input_ids"] != model.tokenizer.encode(text):
                raise UserError(f"{whom}: its tokenizer gives other ids for {text!r}")
        line += ", and so do the ids of sample texts"
    return line
