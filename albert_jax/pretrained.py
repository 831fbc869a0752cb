"""The eight models as users hold them: configuration, parameters and tokenizer together, read by `from_pretrained` from
any kind of source and written by `save_pretrained` for Hugging Face's world and ours.

A class here is named like the network in `albert_jax.model` that it wraps, and like the JAX class that transformers
removed in version 5."""

import dataclasses
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from albert_jax import model as networks
from albert_jax.checkpoint import read_params
from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError, disk_errors_explained
from albert_jax.interop import google, huggingface, stablehlo
from albert_jax.interop.hub import download
from albert_jax.interop.model_card import model_card
from albert_jax.interop.saved_model import SavedModel, require_possible_depth
from albert_jax.interop.tokenizer_json import load_tokenizer, save_tokenizer
from albert_jax.model import Params, apply, initialize
from albert_jax.run_directory import MODEL_FILE, TOKENIZER_FOLDER
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import warn

CHECKPOINTS = "checkpoints"
MAX_FRESH = 2**29
"""Parameters that may be drawn at random where a source has fewer: no memory is taken for what only a file claims."""
GOOGLE_CONFIG, GOOGLE_VOCABULARY = "albert_config.json", "30k-clean.model"
GOOGLE_FILES = {
    GOOGLE_CONFIG,
    GOOGLE_VOCABULARY,
    "checkpoint",
    f"{google.CHECKPOINT}.index",
    f"{google.CHECKPOINT}.data-00000-of-00001",
}
"""What `save_google` may replace in a folder that exists."""
CARD = "README.md"
BEST = "best"
"""Folder of a fine-tuning run that holds its best model, as `save_pretrained` wrote it."""
EXPORT_FILES = {
    huggingface.CONFIG_FILE,
    huggingface.SAFETENSORS,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    CARD,
}
"""What `save_pretrained` may replace in a folder that exists."""


@dataclass(repr=False)
class LoadReport:
    """What became of a source: `print(model.report)`."""

    source: str
    model: str
    loaded: list[str] = field(default_factory=list)
    initialized: list[str] = field(default_factory=list)
    """Parameters that the source lacks, drawn at random: to be trained before the model is of use."""
    left_over: list[str] = field(default_factory=list)
    """What the source holds beyond this model: other heads, by our paths, and names that no model of ours has."""
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.model} from {self.source}: {len(self.loaded)} arrays loaded"]
        for what, names in (("newly initialized", self.initialized), ("left over", self.left_over)):
            if names:
                lines.append(f"  {what} ({len(names)}): {_shortened(names)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    __repr__ = __str__


@dataclass(frozen=True)
class ModelOutput:
    """What a model says, by Hugging Face's names; fields that a model does not have are None.

    Shapes: `logits` [B, labels] of a sequence classifier, [B, L, labels] of a token classifier, [B, choices] of
    multiple choice, [B, L, V] of a masked LM; `start_logits` and `end_logits` [B, L]; `prediction_logits` [B, L, V]
    and `sop_logits` [B, 2]; `last_hidden_state` [B, L, H]; `pooler_output` [B, H]; `hidden_states`, if asked for, one
    [B, L, H] that enters the first layer and one after every layer, and after every inner group, as in transformers 5.
    By the names of XLNet: `start_top_log_probs` and `start_top_index` [B, 5]; `end_top_log_probs` and `end_top_index`
    [B, 5, 5], of the likeliest ends for each of these starts, -inf and 0 where there are no more; `cls_logits` [B], the
    higher, the less is there an answer. Logits are float32.
    """

    logits: jax.Array | None = None
    start_logits: jax.Array | None = None
    end_logits: jax.Array | None = None
    start_top_log_probs: jax.Array | None = None
    start_top_index: jax.Array | None = None
    end_top_log_probs: jax.Array | None = None
    end_top_index: jax.Array | None = None
    cls_logits: jax.Array | None = None
    prediction_logits: jax.Array | None = None
    sop_logits: jax.Array | None = None
    last_hidden_state: jax.Array | None = None
    pooler_output: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None


class PretrainedModel:
    """What the eight classes share.

    Attributes:
        config: the network's settings.
        params: nested dict of float32 arrays.
        tokenizer: the one that came with the model, or None.
        labels: names of a classifier's labels, in the order of its logits; () for models without.
        problem_type: "regression", "single_label_classification", "multi_label_classification" or None.
        report: what was loaded, or None for a model that was not.
    """

    network: ClassVar[type[nnx.Module]]
    head: ClassVar[str | tuple[str, ...] | None] = None
    """Path of the part, or parts, of `params` that only a model trained for its purpose has."""
    label_head: ClassVar[str | None] = None
    """Path of the linear map whose width is the number of labels."""
    task: ClassVar[str | None] = None
    """Hugging Face's pipeline for it."""
    input_axes: ClassVar[tuple[str, ...]] = ("batch", "length")

    def __init__(
        self,
        config: AlbertConfig,
        params: Params,
        tokenizer: AlbertTokenizer | None = None,
        *,
        labels: tuple[str, ...] = (),
        problem_type: str | None = None,
        report: LoadReport | None = None,
    ):
        self.config = config
        self.params = jax.tree.map(jnp.asarray, params)
        self.tokenizer = tokenizer
        self.labels = labels if self.label_head else ()
        self.problem_type = problem_type
        self.report = report
        new = set(report.initialized) if report else set()
        self._untrained = {path: leaf for path, leaf in self._flat().items() if path in new}

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in self._flat().values())
        return (
            f"{type(self).__name__}({self.config.num_hidden_layers} layers, hidden size {self.config.hidden_size}, "
            f"vocabulary {self.config.vocab_size:,}, {count:,} parameters)"
        )

    def _flat(self) -> dict[str, jax.Array]:
        return traverse_util.flatten_dict(self.params, sep="/")

    @property
    def untrained(self) -> list[str]:
        """Paths of the parameters that are still as they were drawn, here or before the source was saved."""
        flat = self._flat()
        return sorted(path for path, leaf in self._untrained.items() if flat.get(path) is leaf)

    @classmethod
    def from_config(
        cls,
        config: AlbertConfig,
        tokenizer: AlbertTokenizer | None = None,
        *,
        labels: tuple[str, ...] | int = 2,
        seed: int = 0,
    ) -> Self:
        """A model with fresh parameters; `labels` are the names or the number of a classifier's labels."""
        names = _given_labels(labels)
        return cls(config, initialize(config, _key(seed), cls.network, **cls._sizes(names)), tokenizer, labels=names)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        checkpoint: int | None = None,
        labels: tuple[str, ...] | int | None = None,
        ignore_mismatched_sizes: bool = False,
        seed: int = 0,
        verbose: bool = True,
        **overrides: Any,
    ) -> Self:
        """The model of any source.

        Args:
            source: a run directory of `pretrain.py`, or of `finetune.py` for its best model; a folder in Hugging Face's
                layout (safetensors, whole or in shards, `pytorch_model.bin` if torch is installed,
                `flax_model.msgpack`); the name of a model on the Hugging Face hub; or a TensorFlow checkpoint of
                Google's code: its folder, prefix or `.index` file.
            revision: branch, tag or commit on the hub.
            checkpoint: step of a run; its latest by default.
            labels: names or number of a new classifier's labels; those of the source by default.
            ignore_mismatched_sizes: initialise parameters whose shape in the source is another, instead of refusing.
            seed: of what is newly initialised.
            verbose: print the report to standard error.
            overrides: fields of `AlbertConfig` to set, such as `hidden_act` or dropout.

        Raises `UserError` if the source cannot be read, nothing in it fits this model, or a shape does not fit.
        """
        _given_labels(labels)  # before a source is fetched
        saved, tokenizer = read_source(source, revision=revision, checkpoint=checkpoint)
        model = cls.from_saved(
            saved, tokenizer, labels=labels, ignore_mismatched_sizes=ignore_mismatched_sizes, seed=seed, **overrides
        )
        if verbose:
            print(model.report, file=sys.stderr)
        return model

    @classmethod
    def from_saved(
        cls,
        saved: SavedModel,
        tokenizer: AlbertTokenizer | None,
        *,
        labels: tuple[str, ...] | int | None = None,
        problem_type: str | None = None,
        ignore_mismatched_sizes: bool = False,
        seed: int = 0,
        **overrides: Any,
    ) -> Self:
        """`from_pretrained` from what `read_source` has read, of which several models can be made."""
        names = _given_labels(labels) or saved.labels or _label_names(saved, cls.label_head)
        config = _overridden(saved.config, overrides)
        require_possible_depth(config, saved.source)
        report = LoadReport(saved.source, cls.__name__, notes=list(saved.notes))
        params = cls._fitted(config, saved, names, report, ignore_mismatched_sizes, seed)
        if tokenizer is None:
            report.notes.append("no tokenizer was found beside it")
        elif tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"{saved.source}: its tokenizer has {tokenizer.vocab_size:,} pieces, the model only "
                f"{config.vocab_size:,} embeddings; they do not belong together"
            )
        problem = problem_type or saved.problem_type
        return cls(config, params, tokenizer, labels=names, problem_type=problem, report=report)

    @classmethod
    def for_finetuning(
        cls,
        saved: SavedModel,
        tokenizer: AlbertTokenizer,
        labels: tuple[str, ...],
        problem_type: str | None,
        seed: int,
        **overrides: Any,
    ) -> Self:
        """Where fine-tuning starts: everything below the head from the source, and the head too if it was trained for
        the same labels; otherwise a new one, even where another task's would fit by its shape."""
        heads = (cls.head,) if isinstance(cls.head, str) else cls.head or ()
        same_purpose = saved.architecture in (None, cls.__name__)
        same_labels = not cls.label_head or (saved.labels, saved.problem_type) == (labels, problem_type)
        if not (same_purpose and same_labels):
            kept = {path: value for path, value in saved.parameters.items() if not path.startswith(heads)}
            saved = dataclasses.replace(saved, parameters=kept)
        return cls.from_saved(
            saved, tokenizer, labels=labels or None, problem_type=problem_type, seed=seed, **overrides
        )

    def __call__(
        self,
        input_ids: Any,
        *,
        token_type_ids: Any = None,
        attention_mask: Any = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        hidden_states: bool = False,
    ) -> ModelOutput:
        """Evaluates the model on int arrays [B, L] ([B, choices, L] for multiple choice), compiled once for each shape:
        `model(**model.tokenizer(texts))`. Segments are 0 and nothing is padding unless given."""
        return self._evaluate(input_ids, token_type_ids, attention_mask, (), dtype, hidden_states)

    def _evaluate(
        self,
        input_ids: Any,
        token_type_ids: Any,
        attention_mask: Any,
        others: tuple[jax.Array, ...],
        dtype: str,
        hidden_states: bool,
    ) -> ModelOutput:
        """`others` are inputs of the network behind the usual three."""
        require_dtype(dtype, "float32", "bfloat16")
        self._check_inputs(input_ids, token_type_ids, attention_mask)
        input_ids = jnp.asarray(input_ids, jnp.int32)
        types = jnp.zeros_like(input_ids) if token_type_ids is None else jnp.asarray(token_type_ids, jnp.int32)
        mask = jnp.ones(input_ids.shape, bool) if attention_mask is None else jnp.asarray(attention_mask) > 0
        run = compiled(self.network, self.config, dtype=dtype, every_block=hidden_states)
        return ModelOutput(**self.outputs(run(self.params, input_ids, types, mask, *others)))

    def _check_inputs(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> None:
        input_ids = np.asarray(input_ids)
        if input_ids.ndim != len(self.input_axes) or not np.issubdtype(input_ids.dtype, np.integer):
            raise UserError(
                f"input_ids: {input_ids.dtype} of shape {input_ids.shape}, expected whole numbers "
                f"[{', '.join(self.input_axes)}]; model(**model.tokenizer(texts)) makes them"
            )
        for name, values in (("token_type_ids", token_type_ids), ("attention_mask", attention_mask)):
            if values is not None and np.shape(values) != input_ids.shape:
                raise UserError(f"{name}: of shape {np.shape(values)}, but input_ids of {input_ids.shape}")
        if input_ids.shape[-1] > self.config.max_position_embeddings:
            raise UserError(
                f"input_ids of length {input_ids.shape[-1]}: the model has only "
                f"{self.config.max_position_embeddings} positions"
            )
        for name, values, size, of in (
            ("input_ids", input_ids, self.config.vocab_size, "the vocabulary of"),
            ("token_type_ids", token_type_ids, self.config.type_vocab_size, "the segment types, whose number is"),
        ):
            # Neither would fail: an id too high reads the last embedding, a type too high none at all.
            ids = np.asarray(0 if values is None else values)
            for extreme in (ids.min(initial=0), ids.max(initial=0)):
                if not 0 <= extreme < size:
                    raise UserError(f"{name}: {extreme} is outside {of} {size:,}")

    def outputs(self, output: Any) -> dict[str, Any]:
        """The network's output by the names of `ModelOutput`."""
        hidden = output.hidden
        every = hidden["hidden_states"]
        return dict(
            last_hidden_state=hidden["sequence_output"],
            pooler_output=hidden["pooled_output"],
            hidden_states=None if every is None else (hidden["encoder_input"], *every),
            **self._logits(output),
        )

    def _logits(self, output: Any) -> dict[str, jax.Array]:
        return {"logits": output.logits}

    def save_pretrained(
        self, folder: str | Path, *, dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    ) -> None:
        """Writes a folder that transformers 4.57 and 5 load, and `from_pretrained` too: config.json, model.safetensors,
        tokenizer files and a README.

        Weights are float32 unless told otherwise; transformers 5 computes in the type that it finds. The folder may
        exist if it holds nothing but such files, which are replaced. Raises `UserError` if it cannot be written.
        """
        require_dtype(dtype, "float32", "bfloat16", "float16")
        flat = {path: np.asarray(leaf) for path, leaf in self._flat().items()}
        tensors = huggingface.to_huggingface(self.config, flat, bare=self.network is networks.AlbertWithoutHead)
        special_ids = (0, 2, 3)
        if self.tokenizer is not None:
            special_ids = (self.tokenizer.pad_id, self.tokenizer.cls_id, self.tokenizer.sep_id)
        name = type(self).__name__
        values = huggingface.config_values(self.config, name, self.labels, self.problem_type, special_ids)
        if self.untrained:
            values[huggingface.UNTRAINED_KEY] = self.untrained
        with whole_folder(Path(folder), EXPORT_FILES) as temporary:
            huggingface.write_weights(temporary / huggingface.SAFETENSORS, tensors, dtype)
            huggingface.write_config(
                temporary / huggingface.CONFIG_FILE, values | {"dtype": dtype, "torch_dtype": dtype}
            )
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, temporary, model_max_length=self.config.max_position_embeddings)
            card = model_card(name, self.task, self.config, self.labels, has_tokenizer=self.tokenizer is not None)
            (temporary / CARD).write_text(card, "utf-8")

    def save_google(self, folder: str | Path) -> None:
        """Writes a TensorFlow checkpoint with the variables of Google's code, beside albert_config.json and the
        vocabulary. Needs the extra `tf`. The folder may exist if it holds nothing but such files, which are replaced.
        Raises `UserError` for a network that Google's code does not have, or if the folder cannot be written."""
        with whole_folder(folder, GOOGLE_FILES) as temporary:
            google.write_checkpoint(temporary, self.config, self.params)
            if self.tokenizer is not None:
                (temporary / GOOGLE_VOCABULARY).write_bytes(self.tokenizer.model_bytes)

    @classmethod
    def _sizes(cls, labels: tuple[str, ...]) -> dict[str, int]:
        return {"num_labels": len(labels)} if cls.label_head else {}

    @classmethod
    def _fitted(
        cls,
        config: AlbertConfig,
        saved: SavedModel,
        labels: tuple[str, ...],
        report: LoadReport,
        ignore_mismatched_sizes: bool,
        seed: int,
    ) -> Params:
        """The parameters of this class, from the source as far as it has them."""
        fresh = partial(initialize, config, network=cls.network, **cls._sizes(labels))
        wanted = traverse_util.flatten_dict(jax.eval_shape(fresh, _key(seed)), sep="/")
        found = {path: saved.parameters[path] for path in wanted if path in saved.parameters}
        for path in list(found):
            if found[path].shape != wanted[path].shape:
                if not ignore_mismatched_sizes:
                    raise UserError(_mismatch(saved.source, path, found[path].shape, wanted[path].shape))
                report.notes.append(f"{path} of shape {found.pop(path).shape} does not fit {wanted[path].shape}")
        if not any(path.startswith("albert/encoder/") for path in found):
            raise UserError(f"{saved.source}: holds no parameters of an ALBERT encoder; it is not a model")
        for path, value in found.items():
            if not np.isfinite(value).all():
                raise UserError(
                    f"{saved.source}: {path} has values that are no numbers or infinite; the training diverged or the "
                    "file is damaged, so give another checkpoint"
                )
        missing = sum(math.prod(wanted[path].shape) for path in wanted.keys() - found.keys())
        if missing > max(MAX_FRESH, sum(value.size for value in found.values())):
            raise UserError(
                f"{saved.source}: lacks {missing:,} of its parameters, too many to draw at random; its configuration "
                "does not belong to its weights"
            )
        report.loaded = sorted(found)
        report.initialized = sorted(wanted.keys() - found.keys())
        fresh_before = [path for path in found if path in saved.untrained]
        report.left_over = sorted(saved.parameters.keys() - wanted.keys()) + saved.left_over
        if report.initialized:
            random = traverse_util.flatten_dict(jax.jit(fresh)(_key(seed)), sep="/")
            found |= {path: random[path] for path in report.initialized}
        if fresh_before:
            report.notes.append(f"saved before it was trained: {_shortened(sorted(fresh_before))}")
            report.initialized = sorted([*report.initialized, *fresh_before])
        return traverse_util.unflatten_dict(found, sep="/")

    def require_trained_encoder(self) -> None:
        """Raises `UserError` if a part of the encoder was newly initialised: whatever it says would be random."""
        self._require_loaded(("albert/embeddings/", "albert/encoder/"), "a part of it is lost, so give a whole model")

    def require_trained_head(self) -> None:
        """The same for the head, and the pooler if it is below that."""
        self.require_trained_encoder()
        if self.head:
            parts = (self.head, "albert/pooler/") if self.head == "classifier/" else self.head
            self._require_loaded(parts, "fine-tune it first, or give a model that was")

    def _require_loaded(self, parts: str | tuple[str, ...], advice: str) -> None:
        new = [path for path in self.untrained if path.startswith(parts)]
        if new:
            raise UserError(
                f"{self.report.source}: has no trained {new[0]}, and {type(self).__name__} would answer at random; "
                f"{advice}"
            )


class AlbertModel(PretrainedModel):
    """ALBERT without a head: `last_hidden_state` and `pooler_output`."""

    network = networks.AlbertWithoutHead
    task = "feature-extraction"

    def _logits(self, output: Any) -> dict[str, jax.Array]:
        return {}


class AlbertForPreTraining(PretrainedModel):
    """ALBERT with the masked-LM and the sentence-order head: `prediction_logits` and `sop_logits`."""

    network = networks.AlbertForPreTraining
    head = "predictions/"
    label_head = "sop_classifier/"
    task = "fill-mask"

    def _logits(self, output: Any) -> dict[str, jax.Array]:
        return {"prediction_logits": output.mlm_logits, "sop_logits": output.sop_logits}


class AlbertForMaskedLM(PretrainedModel):
    """ALBERT with the masked-LM head."""

    network = networks.AlbertForMaskedLM
    head = "predictions/"
    task = "fill-mask"


class AlbertForSequenceClassification(PretrainedModel):
    """ALBERT that classifies, or gives numbers to, texts and pairs of texts."""

    network = networks.AlbertForSequenceClassification
    head = label_head = "classifier/"
    task = "text-classification"


class AlbertForTokenClassification(PretrainedModel):
    """ALBERT that labels every token."""

    network = networks.AlbertForTokenClassification
    head = label_head = "classifier/"
    task = "token-classification"


class AlbertForQuestionAnswering(PretrainedModel):
    """ALBERT that finds where an answer starts and ends."""

    network = networks.AlbertForQuestionAnswering
    head = "qa_outputs/"
    task = "question-answering"

    def _logits(self, output: Any) -> dict[str, jax.Array]:
        return {"start_logits": output.logits[..., 0], "end_logits": output.logits[..., 1]}


class AlbertForBeamQuestionAnswering(PretrainedModel):
    """ALBERT that finds where an answer starts, where it ends if it starts there, and whether there is one: Google's
    for SQuAD 2.0, which transformers does not have."""

    network = networks.AlbertForBeamQuestionAnswering
    head = ("start_logits/", "end_logits/", "answer_class/")
    task = "question-answering"

    def __call__(
        self,
        input_ids: Any,
        *,
        token_type_ids: Any = None,
        attention_mask: Any = None,
        answerable: Any = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        hidden_states: bool = False,
    ) -> ModelOutput:
        """As every model's. `answerable` [B, L] is True where an answer may start and end, [CLS] (for none) and the
        pieces of the context; by default [CLS] and segment 1 without its last token."""
        if answerable is not None and np.shape(answerable) != np.shape(input_ids):
            raise UserError(f"answerable: of shape {np.shape(answerable)}, but input_ids of {np.shape(input_ids)}")
        others = () if answerable is None else (jnp.asarray(answerable) > 0,)
        return self._evaluate(input_ids, token_type_ids, attention_mask, others, dtype, hidden_states)

    def _logits(self, output: Any) -> dict[str, jax.Array]:
        names = "start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"
        return {name: getattr(output, name)[:, 0] for name in names} | {"cls_logits": output.answer_class[:, 0]}


class AlbertForMultipleChoice(PretrainedModel):
    """ALBERT that gives each of several choices a logit."""

    network = networks.AlbertForMultipleChoice
    head = "classifier/"
    task = "multiple-choice"
    input_axes = ("batch", "choices", "length")


CLASSES: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        AlbertModel,
        AlbertForPreTraining,
        AlbertForMaskedLM,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertForQuestionAnswering,
        AlbertForBeamQuestionAnswering,
        AlbertForMultipleChoice,
    )
}


@cache
def compiled(network: type[nnx.Module], config: AlbertConfig, **settings: Any) -> Callable[..., Any]:
    """`apply` of a network under jit, one for all models of a configuration."""
    return jax.jit(lambda params, *inputs: apply(config, params, *inputs, network=network, **settings))


# ---- sources


def read_source(
    source: str | Path, *, revision: str | None = None, checkpoint: int | None = None
) -> tuple[SavedModel, AlbertTokenizer | None]:
    """Reads a source of any kind (see `from_pretrained`), and the tokenizer beside it if there is one."""
    kind, path = find_source(source, revision)
    with _permission_explained(path):
        return _read_source(kind, path, source, checkpoint)


def _read_source(
    kind: str, path: Path, source: str | Path, checkpoint: int | None
) -> tuple[SavedModel, AlbertTokenizer | None]:
    if kind == "run":
        saved = _read_run(path, checkpoint)
        return saved, load_tokenizer(path / TOKENIZER_FOLDER) if (path / TOKENIZER_FOLDER).is_dir() else None
    if checkpoint is not None:
        raise UserError(f"{source}: has no numbered checkpoints; leave out checkpoint = {checkpoint}")
    saved = _read_google(path) if kind == "google" else huggingface.read_folder(path)
    if kind == "hub":
        saved.source = str(source)
    folder = path if path.is_dir() else path.parent
    return saved, _tokenizer_beside(folder, saved)


def find_source(
    source: str | Path, revision: str | None = None
) -> tuple[Literal["run", "folder", "hub", "google"], Path]:
    """What kind of source it is, and where it lies now; a model on the hub is fetched. Raises `UserError` for what is
    none."""
    try:
        path = Path(source).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{source!s:.200}: no path that can be looked at ({error!s:.200})") from error
    with _permission_explained(path):
        return _kind_of(path, str(source), revision)


def _kind_of(path: Path, source: str, revision: str | None) -> tuple[Literal["run", "folder", "hub", "google"], Path]:
    if path.is_dir():
        if (path / BEST / huggingface.CONFIG_FILE).exists():  # of a run of finetune.py, or of one of its seeds
            path = path / BEST
        if (path / MODEL_FILE).exists() and (path / CHECKPOINTS).is_dir():
            return "run", path
        if path.name == CHECKPOINTS and (path.parent / MODEL_FILE).exists():
            return "run", path.parent
        if any((path / name).exists() for name in huggingface.WEIGHT_FILES):
            return "folder", path
        if any(path.glob("*.index")):
            return "google", path
        if (path / stablehlo.SIGNATURE).exists():
            raise UserError(f"{path}: is a StableHLO program for serving, not a model; see docs/models.md, Serve")
        raise UserError(
            f"{path}: is neither the folder of a run ({MODEL_FILE} and {CHECKPOINTS}/, or {BEST}/) nor one of weights "
            f"({', '.join(huggingface.WEIGHT_FILES)}) nor of a TensorFlow checkpoint (*.index)"
        )
    if path.is_file() and path.name in huggingface.WEIGHT_FILES:
        return "folder", path.parent
    if path.suffix == ".index" or Path(f"{path}.index").exists() or ".data-" in path.name:
        return "google", path
    if path.exists():
        raise UserError(f"{path}: is a file of no kind that a model is read from; give its folder")
    return "hub", download(source, revision)


def _read_run(path: Path, checkpoint: int | None) -> SavedModel:
    config = _read_config(path / MODEL_FILE)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: initialize(config, _key(0)))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    step, params, passed_over = read_params(path / CHECKPOINTS, checkpoint, abstract)
    for line in passed_over:
        warn(f"{line}; passed over, step {step:,} is read instead")
    return SavedModel(
        source=f"{path}, step {step:,}",
        config=config,
        parameters=traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/"),
        architecture="AlbertForPreTraining",
    )


def _read_google(path: Path) -> SavedModel:
    prefix = google.checkpoint_prefix(path)
    config_file = prefix.parent / GOOGLE_CONFIG
    if not config_file.exists():
        raise UserError(f"{config_file}: no such file; put the model's {GOOGLE_CONFIG} beside its checkpoint")
    config, variables = _read_config(config_file), google.read_checkpoint(path)
    try:
        found = google.parameters_from_google(config, variables)
    except UserError as error:
        raise UserError(f"{prefix}: {error}") from error
    return SavedModel(
        source=str(prefix),
        config=found.config,
        parameters=found.parameters,
        left_over=found.left_over,
        notes=found.notes,
    )


def _read_config(path: Path) -> AlbertConfig:
    """Our model.json or Google's albert_config.json."""
    config = AlbertConfig.from_json_file(path)
    require_possible_depth(config, str(path))
    return config


def _tokenizer_beside(folder: Path, saved: SavedModel) -> AlbertTokenizer | None:
    names = {file.name for file in folder.iterdir()}
    if "vocab.txt" in names and not any(name.endswith(".model") for name in names):
        saved.notes.append("vocab.txt is a WordPiece vocabulary, which albert_jax does not read: bring your own ids")
        return None
    if "tokenizer.json" in names or any(name.endswith(".model") for name in names):
        return load_tokenizer(folder)
    return None


# ---- small parts


class whole_folder:
    """Context of a temporary folder whose files become those of `folder` at the end, or go if anything fails.

    `folder` may exist if it holds nothing but files named in `replaceable`, which go; otherwise `UserError`.
    """

    def __init__(self, folder: str | Path, replaceable: set[str]):
        self.folder = folder = Path(folder)
        self.replaceable = set(replaceable)
        try:
            there = os.path.lexists(folder)
            # Beside the folder, or in it where it is a file system of its own: files can be moved within one only.
            real = Path(os.path.realpath(folder))
            self.place = real if real.is_mount() else real.parent
            self.prefix = f".{real.name}."
            others = sorted(p.name for p in folder.iterdir() if not self._is_replaceable(p)) if folder.is_dir() else []
        except (OSError, ValueError) as error:
            raise UserError(f"{folder!s:.200}: cannot be written ({error!s:.200}); give another folder") from error
        if there and not folder.is_dir():
            raise UserError(f"{folder}: exists and is not a folder; give another")
        if others:
            raise UserError(
                f"{folder}: exists and holds other things ({_shortened(others)}); nothing was written, give a new "
                "folder"
            )

    def _is_replaceable(self, file: Path) -> bool:
        left_behind = file.name.startswith(self.prefix)  # by one who was killed
        return left_behind or (file.name in self.replaceable and not (file.is_dir() and not file.is_symlink()))

    def __enter__(self) -> Path:
        try:
            with disk_errors_explained(self.folder, "give another folder"):
                self.place.mkdir(parents=True, exist_ok=True)
                self.temporary = Path(tempfile.mkdtemp(prefix=self.prefix, dir=self.place))
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{self.folder}: {error.filename} is a file; give another folder") from error
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); give another folder") from error
        return self.temporary

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                with disk_errors_explained(self.folder, "give another folder"):
                    self.folder.mkdir(exist_ok=True)
                    for file in self.temporary.iterdir():
                        os.replace(file, self.folder / file.name)
                        self.replaceable.discard(file.name)
                    # What is left of an older model, such as its tokenizer, does not belong to this one.
                    for name in self.replaceable:
                        (self.folder / name).unlink(missing_ok=True)
            elif not isinstance(error, UserError):
                with disk_errors_explained(self.folder, "give another folder; nothing was written"):
                    raise error
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def _permission_explained(path: Path) -> Iterator[None]:
    """Turns a file or folder that the system does not let us read into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def _given_labels(labels: tuple[str, ...] | int | None) -> tuple[str, ...]:
    """The names of `labels`, which may be a number; () for those of the source."""
    if isinstance(labels, int) and 1 <= labels <= huggingface.MAX_LABELS:
        return tuple(f"LABEL_{number}" for number in range(labels))
    if labels is None:
        return ()
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"labels = {labels!r:.100}: must be names in a tuple, or their number, 1 to 100,000")
    if len(set(labels)) < len(labels):
        raise UserError(f"labels = {labels!r:.100}: two have the same name")
    if huggingface.SURROGATES.search("".join(labels)):
        raise UserError(f"labels = {labels!r:.100}: expected text that UTF-8 can hold")
    return tuple(labels)


def _key(seed: int) -> jax.Array:
    return jax.random.key(seed, impl="threefry2x32")


def _overridden(config: AlbertConfig, overrides: Mapping[str, Any]) -> AlbertConfig:
    known = {f.name for f in dataclasses.fields(AlbertConfig)}
    unknown = sorted(overrides.keys() - known)
    if unknown:
        hint = "; the number of labels is labels=" if "num_labels" in unknown else ""
        raise UserError(f"{', '.join(unknown)}: no such field of the model{hint}; there are {', '.join(sorted(known))}")
    return dataclasses.replace(config, **overrides)


def require_dtype(dtype: Any, *allowed: str) -> None:
    """Raises `UserError` for a type of numbers that is not among the allowed."""
    if dtype not in allowed:
        raise UserError(f"dtype = {dtype!r}: must be {' or '.join(allowed)}")


def _label_names(saved: SavedModel, head: str | None) -> tuple[str, ...]:
    """("LABEL_0", ...) as many as the source's head has outputs, two without."""
    bias = saved.parameters.get(f"{head}bias")
    return tuple(f"LABEL_{number}" for number in range(2 if bias is None else len(bias)))


def _mismatch(source: str, path: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    advice = "its configuration does not belong to its weights, or is overridden wrongly"
    if path.startswith(("classifier/", "sop_classifier/", "qa_outputs/")):
        advice = "give as many labels as it has, or ignore_mismatched_sizes=True to begin with a new head"
    return f"{source}: {path} has shape {found}, this model needs {wanted}; {advice}"


def _shortened(names: list[str], count: int = 6) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
