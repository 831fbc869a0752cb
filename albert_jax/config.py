"""Every setting of a model and of a run, as frozen dataclasses that check themselves.

`AlbertConfig` has the fields of Hugging Face's `config.json`, so the two map one to one. `PretrainConfig` holds all
that decides a pretraining run; `load_config` reads one from a `configs/*.py` file and `parse_command` overrides it
from the command line."""

import dataclasses
import difflib
import importlib.machinery
import importlib.util
import json
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import tyro
from typeguard import TypeCheckError, check_type

from albert_jax.errors import UserError
from albert_jax.files import MAX_JSON_BYTES, read_file


def require(condition: bool, name: str, value: Any, fix: str) -> None:
    """Raises `UserError` naming the field, its value and the fix, unless `condition` holds."""
    if not condition:
        raise UserError(f"{name} = {value!r}: {fix}")


def check_fields(config: Any, prefix: str) -> None:
    """Raises `UserError` for a field whose value is not of its type, such as a misspelt choice, or not finite.

    The command line is checked by its parser; this is for configurations written in Python or read from JSON.
    """
    hints = get_type_hints(type(config))
    for field_ in dataclasses.fields(config):
        name, value = f"{prefix}{field_.name}", getattr(config, field_.name)
        hint = hints[field_.name]
        try:
            check_type(value, hint)
        except TypeCheckError as error:
            expected = str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
            raise UserError(f"{name} = {value!r}: must be {expected}") from error
        if hint is float:  # to the type checker a whole number, and so a truth value, is one too
            require(not isinstance(value, bool), name, value, "must be a number")
        if isinstance(value, float):
            require(math.isfinite(value), name, value, "must be finite")


def _require_probability(name: str, value: float) -> None:
    require(0.0 <= value < 1.0, name, value, "must be at least 0 and below 1")


@dataclass(frozen=True)
class AlbertConfig:
    """The network (Lan et al. 2019, section 3.1; Google's `albert_config.json`; Hugging Face's `config.json`).

    The defaults are ALBERT base. `hidden_act` "gelu" is the tanh approximation, as in Google's code for v1 and v2
    alike, and "gelu_new" is Hugging Face's name for the same function; "gelu_erf" is what Hugging Face calls "gelu".
    """

    vocab_size: int = 30_000
    embedding_size: int = 128
    """E. Where it equals `hidden_size` there is no projection between the two, as in Google's code."""
    always_project_embeddings: bool = False
    """A projection from E to H even where the two are equal, as in Hugging Face's code."""
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    """Layers are divided evenly into this many groups; layers of one group share their parameters. 1 shares all,
    `num_hidden_layers` shares none."""
    inner_group_num: int = 1
    """Distinct blocks that each layer applies in turn: the depth is `num_hidden_layers * inner_group_num`."""
    shared_across_groups: Literal["nothing", "attention", "ffn"] = "nothing"
    """The paper's table 4: with `num_hidden_groups = num_hidden_layers`, "attention" shares only the attention
    parameters over all layers and "ffn" only the feed-forward ones. A sub-block's LayerNorm goes with it. Not in
    Google's or Hugging Face's code."""
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu", "gelu_new", "gelu_erf", "relu", "tanh", "linear"] = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True
    """Whether the masked-LM head multiplies with the word embeddings, as in the paper, or with a table of its own."""

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        sizes = (
            "vocab_size embedding_size hidden_size num_hidden_layers num_hidden_groups inner_group_num "
            "num_attention_heads intermediate_size max_position_embeddings type_vocab_size"
        )
        for name in sizes.split():
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be at least 1")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "model.hidden_size",
            self.hidden_size,
            f"must be a multiple of model.num_attention_heads = {self.num_attention_heads}",
        )
        require(
            self.num_hidden_groups <= self.num_hidden_layers,
            "model.num_hidden_groups",
            self.num_hidden_groups,
            f"must be at most model.num_hidden_layers = {self.num_hidden_layers}",
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"):
            _require_probability(f"model.{name}", getattr(self, name))
        for name in ("initializer_range", "layer_norm_eps"):
            require(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "must be above 0")
        require(
            self.shared_across_groups == "nothing" or self.num_hidden_groups > 1,
            "model.shared_across_groups",
            self.shared_across_groups,
            "one group shares everything already; set model.num_hidden_groups to model.num_hidden_layers",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def projects_embeddings(self) -> bool:
        """Whether there is a linear map from E to H."""
        return self.always_project_embeddings or self.embedding_size != self.hidden_size

    @property
    def layer_groups(self) -> tuple[int, ...]:
        """The group of each layer: floor(layer / layers * groups), as in Google's modeling.py, but in whole numbers. In
        its floating-point arithmetic a few combinations, such as 22 groups for 22 layers, leave a group without layers.
        """
        layers, groups = self.num_hidden_layers, self.num_hidden_groups
        return tuple(layer * groups // layers for layer in range(layers))

    @classmethod
    def from_json_file(cls, path: str | Path) -> "AlbertConfig":
        """Reads Google's `albert_config.json` or Hugging Face's `config.json`; keys of neither network are ignored.
        Raises `UserError` naming the file."""
        content = read_file(Path(path), MAX_JSON_BYTES)
        try:
            values = json.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error}); restore it from where it came") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        fields = {name: value for name, value in values.items() if name in known and value is not None}
        # A dropout of 0 is often written without a point.
        numbers = (name for name, value in fields.items() if known[name] is float and type(value) is int)
        try:
            return cls(**fields | {name: float(fields[name]) for name in numbers})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except OverflowError as error:
            raise UserError(f"{path}: holds a number beyond all bounds ({error}); restore the file") from error


ALBERT_SIZES: dict[str, dict[str, int]] = {
    # Paper, table 1. Heads are H / 64 and the feed-forward is 4 H throughout; xlarge really has 32 heads (TF-Hub's
    # albert_xlarge configurations), where Hugging Face's config.json says 16.
    "base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    "xlarge": dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192),
    "xxlarge": dict(hidden_size=4096, num_hidden_layers=12, num_attention_heads=64, intermediate_size=16384),
}


def albert_config(size: Literal["base", "large", "xlarge", "xxlarge"], version: Literal[1, 2]) -> AlbertConfig:
    """One of the eight released networks. v1 has dropout 0.1, but for xxlarge; v2 has none (TF-Hub configurations)."""
    dropout = 0.1 if version == 1 and size != "xxlarge" else 0.0
    return AlbertConfig(**ALBERT_SIZES[size], hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


@dataclass(frozen=True)
class DataConfig:
    """What is read, and the objective that is made of it."""

    corpus: tuple[str, ...]
    """Folders written by data/encode_corpus.py; several are mixed."""
    tokenizer: str
    """SentencePiece model that every corpus was encoded with (spiece.model)."""
    corpus_weights: tuple[float, ...] = ()
    """How many rows come from each corpus, relative to the others. Empty: in proportion to the rows that each has, as
    if they were one."""
    do_lower_case: bool = True
    sources: tuple[str, ...] = ()
    """Raw text (files, globs, hf:..., tfds:...) to train the vocabulary and encode the corpus from where these do not
    exist yet. Empty: they must exist."""
    held_out_fraction: float = 0.005
    """Share of the documents kept for evaluation when the corpus is encoded from `sources`."""
    sentence_objective: Literal["sop", "nsp", "none"] = "sop"
    """Sentence-order prediction (paper, section 3.1), or the ablations of table 5: next-sentence prediction, none."""
    short_sequence_probability: float = 0.1
    """Share of sequences with a random shorter target length (paper, section 4.1)."""
    masked_lm_probability: float = 0.15
    max_ngram: int = 3
    """Longest masked n-gram, in words; p(n) is proportional to 1/n (paper, section 4.1)."""
    max_predictions_per_sequence: int | None = None
    """Cap on masked positions. The paper has none; Google's code stops at 20 whatever the length."""
    pack_sequences: bool = True
    """Several pairs per row, each with the outputs and losses that it has in a row of its own, so that next to nothing
    is padding. False: one pair per row, as in Google's code."""
    verify_checksums: bool = False
    """Read every token once at the start and compare each file's SHA-256 with the manifest (`pretrain.py --verify`).
    Sizes, offsets and samples of the tokens are compared in any case."""
    threads: int = 2
    """Threads that prepare batches ahead of the device; the batches do not depend on it."""
    prefetch_batches: int = 4

    def __post_init__(self) -> None:
        require(
            not isinstance(self.corpus, str), "data.corpus", self.corpus, f"must be a tuple; write ({self.corpus!r},)"
        )
        check_fields(self, "data.")
        require(len(self.corpus) > 0, "data.corpus", self.corpus, "needs at least one folder")
        require(
            not self.sources or len(self.corpus) == 1,
            "data.sources",
            self.sources,
            f"make one corpus, and data.corpus names {len(self.corpus)}; encode each with data/encode_corpus.py, with "
            "the same tokenizer, and leave data.sources empty (--data.sources with nothing behind it)",
        )
        require(
            len(self.corpus_weights) in (0, len(self.corpus)),
            "data.corpus_weights",
            self.corpus_weights,
            f"must have a weight for each of the {len(self.corpus)} folders of data.corpus, or none",
        )
        for weight in self.corpus_weights:
            require(
                0 < weight < math.inf,
                "data.corpus_weights",
                self.corpus_weights,
                "must all be above 0, and finite; leave a corpus out instead of weight 0",
            )
        require(
            not self.sources or self.held_out_fraction > 0,
            "data.held_out_fraction",
            self.held_out_fraction,
            "must be above 0: training is judged by held-out documents",
        )
        for name in ("short_sequence_probability", "held_out_fraction"):
            _require_probability(f"data.{name}", getattr(self, name))
        require(
            0.0 < self.masked_lm_probability < 1.0,
            "data.masked_lm_probability",
            self.masked_lm_probability,
            "must be between 0 and 1",
        )
        require(1 <= self.max_ngram <= 8, "data.max_ngram", self.max_ngram, "must be 1 to 8")
        cap = self.max_predictions_per_sequence
        require(cap is None or cap >= 1, "data.max_predictions_per_sequence", cap, "must be at least 1")
        require(self.threads >= 1, "data.threads", self.threads, "must be at least 1")
        require(self.prefetch_batches >= 1, "data.prefetch_batches", self.prefetch_batches, "must be at least 1")


@dataclass(frozen=True)
class PhasesConfig:
    """How long, at which length and batch: one entry per phase, run one after the other in one learning-rate schedule.

    `--phases.steps 112500 12500 --phases.sequence_length 128 512 --phases.batch_size 4096 4096` trains nine tenths of
    the steps at 128 tokens. A single value of `sequence_length`, `batch_size` or `accumulation` serves all phases.
    """

    steps: tuple[int, ...] = (125_000,)
    sequence_length: tuple[int, ...] = (512,)
    batch_size: tuple[int, ...] = (4096,)
    """Rows per optimizer step, over all devices: each holds one sequence, or several with `data.pack_sequences`."""
    accumulation: tuple[int, ...] = (1,)
    """Parts that a batch is computed in, to fit into memory. The result does not depend on it."""

    def __post_init__(self) -> None:
        check_fields(self, "phases.")
        require(len(self.steps) > 0, "phases.steps", self.steps, "needs a number of steps for each phase")
        for name in ("steps", "sequence_length", "batch_size", "accumulation"):
            values = getattr(self, name)
            require(
                len(values) in (1, len(self.steps)) and len(values) > 0,
                f"phases.{name}",
                values,
                f"must have one value, or one for each phase; phases.steps = {self.steps} makes {len(self.steps)}",
            )
            require(1 <= min(values) and max(values) < 2**31, f"phases.{name}", values, "must be 1 to 2,147,483,647")
        for phase in self.phases:
            require(
                phase.batch_size % phase.accumulation == 0,
                "phases.batch_size",
                phase.batch_size,
                f"must be a multiple of phases.accumulation = {phase.accumulation}",
            )
            require(
                phase.sequence_length >= 8,
                "phases.sequence_length",
                phase.sequence_length,
                "must be at least 8",
            )

    @property
    def phases(self) -> tuple["Phase", ...]:
        count = len(self.steps)
        lengths, batches, parts = (
            values if len(values) == count else values * count
            for values in (self.sequence_length, self.batch_size, self.accumulation)
        )
        starts = [sum(self.steps[:index]) for index in range(count)]
        return tuple(Phase(*values) for values in zip(starts, self.steps, lengths, batches, parts, strict=True))

    @property
    def total_steps(self) -> int:
        return sum(self.steps)


@dataclass(frozen=True)
class Phase:
    """One stretch of training at one shape: steps `start` to `start + steps`."""

    start: int
    steps: int
    sequence_length: int
    batch_size: int
    accumulation: int

    @property
    def stop(self) -> int:
        return self.start + self.steps


@dataclass(frozen=True)
class OptimizerConfig:
    """LAMB or AdamW as Google's ALBERT has them (lamb_optimizer.py, optimization.py): no bias correction, LayerNorm
    and biases excluded from weight decay and from the trust ratio. The defaults are the paper's (section 4.1)."""

    name: Literal["lamb", "adamw"] = "lamb"
    peak_learning_rate: float = 1.76e-3
    warmup_steps: int = 3125
    """Linear warm-up from 0. The linear decay counts from step 0 too, so the peak itself is never quite reached."""
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.")
        for name in ("peak_learning_rate", "epsilon", "max_gradient_norm"):
            require(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "must be above 0")
        for name in ("weight_decay", "warmup_steps"):
            require(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "must not be negative")
        for name in ("beta_1", "beta_2"):
            _require_probability(f"optimizer.{name}", getattr(self, name))


@dataclass(frozen=True)
class DivergenceConfig:
    """When an update is skipped, and what follows. One whose loss or gradients are not finite always is."""

    max_loss_rise: float = 3.0
    """Nats of a batch's loss above its running average over 100 updates, beyond which its update is skipped. A network
    that falls back to the frequencies of the pieces rises by more, a hard batch by less."""
    max_gradient_norm_ratio: float = 100.0
    """The same for the global norm of the gradients before clipping, as a multiple of its running average."""
    max_skipped_updates: int = 10
    """Skipped in a row (or a few more with others between them: ten that are taken make up for one), the run goes back
    to its latest checkpoint and on with another order of the data."""
    max_rollbacks: int = 3
    """Going back more often than this, the run stops."""

    def __post_init__(self) -> None:
        check_fields(self, "divergence.")
        require(self.max_loss_rise > 0, "divergence.max_loss_rise", self.max_loss_rise, "must be above 0")
        ratio = self.max_gradient_norm_ratio
        require(ratio > 1, "divergence.max_gradient_norm_ratio", ratio, "must be above 1")
        skipped = self.max_skipped_updates
        require(1 <= skipped <= 10**6, "divergence.max_skipped_updates", skipped, "must be 1 to 1,000,000")
        require(self.max_rollbacks >= 0, "divergence.max_rollbacks", self.max_rollbacks, "must not be negative")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1, "the rest"."""

    data: int = -1
    """Copies of the model, each with its share of the batch."""
    fsdp: int = 1
    """Shares of the batch too, but parameters and optimizer state are split over them."""
    tensor: int = 1
    """Parts of every matrix: heads and feed-forward width are split over them."""

    def __post_init__(self) -> None:
        check_fields(self, "mesh.")
        sizes = dataclasses.astuple(self)
        require(sizes.count(-1) <= 1, "mesh", sizes, "at most one axis may be -1")
        require(all(size == -1 or size >= 1 for size in sizes), "mesh", sizes, "axes must be at least 1, or -1")


@dataclass(frozen=True)
class ComputeConfig:
    """How the arithmetic is carried out."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the matrix products. Parameters, optimizer, softmax, LayerNorm and losses are float32 always."""
    remat: Literal["none", "matmuls", "full"] = "matmuls"
    """What the backward pass finds stored: everything; the results of matrix products, so that only cheap element-wise
    work is repeated; or the layer inputs alone, so that every layer is computed twice."""
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"
    """What attention is computed by: XLA's own operations ("plain"), or a kernel that writes no scores to memory, of
    cuDNN on NVIDIA GPUs or of JAX on TPUs ("splash"). "auto" takes the kernel where it can do the work."""

    def __post_init__(self) -> None:
        check_fields(self, "compute.")
        require(
            self.attention != "cudnn" or self.dtype == "bfloat16",
            "compute.attention",
            self.attention,
            f"computes in bfloat16, not {self.dtype}; set compute.dtype bfloat16, or compute.attention auto",
        )


def attention_obstacle(kernel: str, model: AlbertConfig, dtype: str, length: int) -> str | None:
    """Why `kernel` ("cudnn", "splash") cannot compute this model's attention on any device, and the fix; None if it
    can."""
    if kernel == "cudnn" and dtype != "bfloat16":
        return f"computes in bfloat16, not {dtype}; set compute.dtype bfloat16, or compute.attention auto"
    if model.attention_probs_dropout_prob > 0:
        return (
            f"has no dropout, and model.attention_probs_dropout_prob is {model.attention_probs_dropout_prob}; "
            "set that to 0, or compute.attention auto"
        )
    if kernel == "cudnn" and (model.head_size % 8 or model.head_size > 256):
        return f"takes heads of a size up to 256 that 8 divides, not {model.head_size}; set compute.attention auto"
    if kernel == "cudnn" and length % 2:
        return f"takes sequences of even length, not {length}; set compute.attention auto"
    if kernel == "splash" and length % 128:
        return f"takes sequences of a length that 128 divides, not {length}; set compute.attention auto"
    return None


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run. `python pretrain.py CONFIG --help` lists every field with its default."""

    run_dir: str
    """Where checkpoints, metrics and the configuration go. The same command again continues the run."""
    data: DataConfig
    model: AlbertConfig
    phases: PhasesConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    seed: int = 0
    log_every: int = 100
    """Steps between two lines of metrics."""
    evaluate_every: int = 5000
    """Steps between two evaluations on the held-out documents; checkpoints and the last step are evaluated too."""
    evaluate_sequences: int = 8192
    """Held-out sequences per evaluation, not rows, the same ones each time; fewer where the corpus has fewer."""
    evaluate_objectives: tuple[Literal["sop", "nsp"], ...] = ()
    """Sentence objectives to measure on the held-out documents beside the one that is trained (the paper's table 5)."""
    checkpoint_every: int = 5000
    keep_checkpoints: int = 3
    """Newest checkpoints kept (at least two), beside the best by held-out loss."""
    disk_pause_minutes: float = 60.0
    """How long a run whose folder is full or gone waits for it to be better, before it stops."""
    sample_sentences: tuple[str, ...] = ()
    """Sentences with [MASK] that the trained model completes at the end."""

    def __post_init__(self) -> None:
        check_fields(self, "")
        paths = [("run_dir", self.run_dir), ("data.tokenizer", self.data.tokenizer)]
        for name, path in paths + [("data.corpus", path) for path in self.data.corpus]:
            require(path != "", name, path, "must be a path")
        # TensorStore, below Orbax, takes a backslash for a slash and would write somewhere else.
        require("\\" not in self.run_dir, "run_dir", self.run_dir, "must not contain a backslash")
        names = "log_every evaluate_every evaluate_sequences checkpoint_every keep_checkpoints"
        for name in names.split():
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        pause = self.disk_pause_minutes
        require(pause >= 0, "disk_pause_minutes", pause, "must not be negative")
        require(0 <= self.seed < 2**31, "seed", self.seed, "must be at least 0 and below 2**31")
        longest = max(self.phases.sequence_length)
        require(
            longest <= self.model.max_position_embeddings,
            "phases.sequence_length",
            longest,
            f"must be at most model.max_position_embeddings = {self.model.max_position_embeddings}",
        )
        require(
            self.optimizer.warmup_steps <= self.phases.total_steps,
            "optimizer.warmup_steps",
            self.optimizer.warmup_steps,
            f"must be at most the total of phases.steps = {self.phases.total_steps}",
        )
        require(
            self.model.vocab_size <= 65_536,
            "model.vocab_size",
            self.model.vocab_size,
            "a corpus stores tokens as 16-bit numbers: at most 65,536 pieces",
        )
        require(
            self.model.type_vocab_size >= 2,
            "model.type_vocab_size",
            self.model.type_vocab_size,
            "pairs need 2",
        )
        cap = self.data.max_predictions_per_sequence
        require(
            cap is None or cap <= min(self.phases.sequence_length),
            "data.max_predictions_per_sequence",
            cap,
            f"must be at most phases.sequence_length = {min(self.phases.sequence_length)}",
        )
        if self.compute.attention in ("cudnn", "splash"):
            for length in self.phases.sequence_length:
                found = attention_obstacle(self.compute.attention, self.model, self.compute.dtype, length)
                require(found is None, "compute.attention", self.compute.attention, str(found))
        for sentence in self.sample_sentences:
            require("[MASK]" in sentence, "sample_sentences", sentence, "must contain [MASK]")


# What may change between two starts of one run: none of it moves a batch or the arithmetic by more than rounding.
CHANGEABLE_FIELDS = (
    "run_dir",
    "data.corpus",
    "data.tokenizer",
    "data.sources",
    "data.held_out_fraction",
    "data.verify_checksums",
    "data.threads",
    "data.prefetch_batches",
    "phases.accumulation",
    "mesh",
    "compute.remat",
    "compute.attention",
    "log_every",
    "evaluate_every",
    "evaluate_sequences",
    "evaluate_objectives",
    "checkpoint_every",
    "keep_checkpoints",
    "disk_pause_minutes",
    "divergence",
    "sample_sentences",
    # Of fine-tuning:
    "seeds",
    "data_dir",
    "accumulation",
    "compare_with",
    "mnli_first",
    "squad.null_threshold",
    "table.test_file",
)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"optimizer.beta_1": 0.9, ...}`: every leaf field of nested dataclasses (or of their JSON form) by its path."""
    items = config.items() if isinstance(config, dict) else vars(config).items()
    flat: dict[str, Any] = {}
    for name, value in items:
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(saved: Any, config: Any) -> list[str]:
    """Lines "field: saved -> now" for the fields that may not change within a run (see `CHANGEABLE_FIELDS`)."""
    # A run from before a field of the model, or mixing, existed had what is now its default.
    before, now = flatten(saved), flatten(config)
    if any(name.startswith("model.") for name in before):
        before = flatten({"model": AlbertConfig()}) | before
    if "data.corpus" in before:
        before = {"data.corpus_weights": []} | before
    fixed = (
        name
        for name in before | now
        if not any(name == free or name.startswith(f"{free}.") for free in CHANGEABLE_FIELDS)
    )
    absent = "(absent)"
    return [
        f"{name}: {before.get(name, absent)} -> {now.get(name, absent)}"
        for name in fixed
        if before.get(name, absent) != now.get(name, absent)
    ]


def scale_to_batch_size(config: PretrainConfig, batch_size: int) -> PretrainConfig:
    """The same recipe at another global batch, by LAMB's rules (You et al. 2019, table 4), which give the paper's
    values at 4096: the learning rate grows with the square root of the batch, the warm-up's share of the steps with
    the batch, and the number of rows seen stays, so 512 means 6.2e-4, 1/320 of the steps, and eight times the
    steps."""
    require(batch_size >= 1, "scale_to_batch_size", batch_size, "must be at least 1")
    require(
        len(set(config.phases.batch_size)) == 1,
        "phases.batch_size",
        config.phases.batch_size,
        "scaling needs one batch size for all phases",
    )
    ratio = batch_size / config.phases.batch_size[0]
    steps = tuple(max(1, round(count / ratio)) for count in config.phases.steps)
    optimizer = config.optimizer
    warmup_share = min(1.0, optimizer.warmup_steps / config.phases.total_steps * ratio)
    return dataclasses.replace(
        config,
        phases=dataclasses.replace(config.phases, batch_size=(batch_size,), steps=steps),
        optimizer=dataclasses.replace(
            optimizer,
            peak_learning_rate=optimizer.peak_learning_rate * ratio**0.5,
            warmup_steps=round(warmup_share * sum(steps)),
        ),
    )


def load_config(path: str | Path) -> Any:
    """What `get_config()` of the Python file `path` returns. The file is the user's own program and is executed."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a configuration file")
    if not path.exists():
        shipped = sorted(str(p) for folder in Path("configs").glob("*") for p in folder.glob("*.py"))
        nearest = difflib.get_close_matches(str(path), shipped, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else f" (looked for it from {Path.cwd()})"
        raise UserError(f"{path}: no such configuration file{hint}")
    spec = importlib.util.spec_from_loader(path.stem, importlib.machinery.SourceFileLoader(path.stem, str(path)))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: defines no get_config(), the function that returns a configuration")
        return module.get_config()
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        place = f"{path}, line {line}" if line else str(path)
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{place}: {type(error).__name__}: {reason}") from error


def save_json(config: Any, path: Path) -> None:
    """Writes a configuration as JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    temporary.replace(path)


def read_pretrain_config(path: Path) -> PretrainConfig:
    """The configuration that `save_json` wrote, also before fields existed that have defaults now."""
    try:
        values = json.loads(path.read_text())
        # One corpus was a plain string before there were mixes.
        if isinstance(values["data"]["corpus"], str):
            values["data"]["corpus"] = [values["data"]["corpus"]]
        hints = get_type_hints(PretrainConfig)
        parts = {name: hints[name] for name in values if dataclasses.is_dataclass(hints.get(name))}
        made = {name: part(**_tuples(values[name])) for name, part in parts.items()}
        return PretrainConfig(**_tuples(values) | made)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read as the configuration of a pretraining run ({type(error).__name__}: {error})"
        ) from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def parse_command(command: type, default: Any, arguments: Sequence[str], program: str) -> Any:
    """A script's `command` dataclass from its arguments. Its field `config` starts as `default` and is overridden field
    by field, as in `--optimizer.peak_learning_rate 1e-3`.

    Values are checked against the fields' types and by the dataclasses themselves. An unknown option ends the program
    with exit code 2 and the nearest name.
    """
    return tyro.cli(
        command,
        prog=program,
        default=command(config=default),
        args=list(arguments),
        config=(tyro.conf.AvoidSubcommands,),
        use_underscores=True,
    )
