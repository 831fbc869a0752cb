"""Every setting of a fine-tuning run. What a `Recipe` leaves open is taken from the task: the published value where
there is one."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from albert_jax.config import ComputeConfig, MeshConfig, OptimizerConfig, check_fields, require
from albert_jax.tasks.examples import Blanks
from albert_jax.tasks.table import Columns, Kind

ALL = "all"
"""The task that is all of GLUE."""


@dataclass(frozen=True)
class Recipe:
    """How a task is learnt. None: as published for the task, and else our choice, which the first lines of a run
    state with their source."""

    learning_rate: float | None = None
    """Peak; linear warm-up and decay, as in pretraining."""
    batch_size: int | None = None
    """Examples a step; windows for SQuAD, and sentences for tagging."""
    steps: int | None = None
    epochs: float | None = None
    """Instead of steps: how many times the training data is read."""
    warmup_steps: int | None = None
    encoder_dropout: float | None = None
    """Of hidden states and attention probabilities alike."""
    classifier_dropout: float | None = None
    """Of what the classifier reads."""
    max_length: int | None = None
    """Pieces of a sequence at most. Short sequences do not cost more for it: rows are packed."""
    evaluate_every: int | None = None
    """Steps between two evaluations; the best one's parameters are kept."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "recipe.")
        for name in ("learning_rate", "epochs", "max_gradient_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, f"recipe.{name}", value, "must be above 0")
        for name in ("batch_size", "steps", "evaluate_every"):
            value = getattr(self, name)
            require(value is None or 1 <= value < 2**31, f"recipe.{name}", value, "must be at least 1")
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"recipe.{name}", value, "must not be negative")
        for name in ("encoder_dropout", "classifier_dropout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"recipe.{name}", value, "must be at least 0 and below 1")
        value = self.max_length
        require(value is None or value >= 8, "recipe.max_length", value, "must be at least 8")
        require(
            self.steps is None or self.epochs is None,
            "recipe.epochs",
            self.epochs,
            f"recipe.steps = {self.steps} is given too, perhaps by the configuration; give one, and None for the other",
        )


@dataclass(frozen=True)
class SquadConfig:
    """Windows and answers of question answering."""

    head: Literal["plain", "beam"] = "plain"
    """Two logits for each piece, which Hugging Face's classes have too; or Google's SQuAD 2.0 head, with ends
    conditioned on starts and a logit for "no answer"."""
    stride: int = 128
    """Pieces from the beginning of a window to that of the next, but at most a third of `recipe.max_length`."""
    max_query_length: int = 64
    n_best: int = 20
    max_answer_length: int = 30
    """Pieces."""
    null_threshold: float | None = None
    """For predictions on SQuAD 2.0: null odds above it mean no answer. None: the best one on the development set when
    the model was trained."""

    def __post_init__(self) -> None:
        check_fields(self, "squad.")
        for name in ("stride", "max_query_length", "n_best", "max_answer_length"):
            require(getattr(self, name) >= 1, f"squad.{name}", getattr(self, name), "must be at least 1")


@dataclass(frozen=True)
class TableConfig:
    """A user's own data: .csv, .tsv or JSON lines with named columns."""

    train_file: str | None = None
    dev_file: str | None = None
    """Without one, `dev_fraction` of the training examples are kept apart."""
    test_file: str | None = None
    """For `--mode predict`; needs no labels."""
    dev_fraction: float = 0.1
    kind: Kind | None = None
    """What the examples are for; the columns tell where they can."""
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        check_fields(self, "table.")
        require(0 < self.dev_fraction < 1, "table.dev_fraction", self.dev_fraction, "must be between 0 and 1")


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run: a task, or all of GLUE. `python finetune.py CONFIG --help` lists every field."""

    task: str
    """cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, ax, or all of these; squad1, squad2; race, swag, dream;
    conll; table."""
    init_from: str | None = None
    """What `from_pretrained` takes: the folder of a run, a Hugging Face folder or hub name, a TensorFlow checkpoint."""
    mode: Literal["train", "evaluate", "predict"] = "train"
    """Train and judge; judge a finished model (`init_from`, by default this run's best) on labelled data; or write its
    predictions for the test data."""
    run_dir: str = "runs/finetune"
    """Results go to `run_dir/TASK`. The same command again continues, and repeats no seed that is finished."""
    data_dir: str | None = None
    """A folder with the official files, `hf:NAME_OR_FOLDER`, or `tfds:NAME`."""
    tokenizer: str | None = None
    """SentencePiece model, where none lies beside `init_from`."""
    seeds: tuple[int, ...] = (0,)
    """One training for each."""
    model_version: Literal["v1", "v2"] = "v2"
    """Of ALBERT: which published results to compare with, and RACE's settings, which the two do not share."""
    compare_with: str | None = None
    """The model, such as base_v2, whose published results stand beside ours; by default the one of this size and
    version where there are any, and else another, which the table names."""
    mnli_first: bool = True
    """With task all: RTE, STS-B and MRPC start from this run's best model of MNLI, as in the paper."""
    recipe: Recipe = field(default_factory=Recipe)
    squad: SquadConfig = field(default_factory=SquadConfig)
    table: TableConfig = field(default_factory=TableConfig)
    race_blanks: Blanks = "runs"
    """What takes the place of underscores in RACE's questions (see `encode_race`)."""
    tag_scheme: Literal["iob1", "iob2", "as_is"] = "iob2"
    """How CoNLL's tags are spelled for the model; the files have IOB1."""
    early_stopping: int | None = None
    """Stop after so many evaluations without a new best. None: train to the end, as published."""
    train_examples: int | None = None
    """Only the first so many training examples; for trying out: a file need not be in random order."""
    dev_examples: int | None = None
    """Likewise of every development split."""
    accumulation: int = 1
    """Parts that a batch is computed in, to fit into memory. The result does not depend on it, but for the masks of
    dropout, which belong to the packed rows."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    log_every: int = 50
    """Steps between two lines of metrics."""

    def __post_init__(self) -> None:
        check_fields(self, "")
        require(self.run_dir != "" and "\\" not in self.run_dir, "run_dir", self.run_dir, "must be a path, without \\")
        require(len(self.seeds) > 0, "seeds", self.seeds, "needs at least one")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "must differ")
        require(0 <= min(self.seeds) and max(self.seeds) < 2**31, "seeds", self.seeds, "must be 0 to 2**31 - 1")
        for name in ("early_stopping", "train_examples", "dev_examples", "accumulation", "log_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1")
        size = self.recipe.batch_size
        require(
            size is None or size % self.accumulation == 0,
            "recipe.batch_size",
            size,
            f"must be a multiple of accumulation = {self.accumulation}",
        )


def optimizer_config(recipe: Recipe) -> OptimizerConfig:
    """AdamW as Google's code has it, with the rate of a recipe that leaves nothing open."""
    return OptimizerConfig(
        name="adamw",
        peak_learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_gradient_norm=recipe.max_gradient_norm,
    )


def completed(recipe: Recipe, published: Recipe, training_units: int) -> Recipe:
    """`recipe` with the published values where it says nothing. Epochs become steps of the training data; a warm-up
    that is not given keeps its share of the steps."""
    known = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    theirs = {f.name: getattr(published, f.name) for f in dataclasses.fields(published)}
    values = {name: theirs[name] if value is None else value for name, value in known.items()}
    if recipe.steps is not None:
        values["epochs"] = None
    elif recipe.epochs is not None:
        values["steps"] = None
    if values["steps"] is None:
        values["steps"] = max(1, round(values["epochs"] * training_units / values["batch_size"]))
        values["epochs"] = None
    if recipe.warmup_steps is None:
        share = published.warmup_steps / published.steps if published.steps else 0.1
        values["warmup_steps"] = round(share * values["steps"])
    if values["evaluate_every"] is None or (
        recipe.evaluate_every is None and values["evaluate_every"] > values["steps"]
    ):
        values["evaluate_every"] = max(1, -(-values["steps"] // 10))
    require(
        values["warmup_steps"] <= values["steps"],
        "recipe.warmup_steps",
        values["warmup_steps"],
        f"must be at most recipe.steps = {values['steps']}",
    )
    return Recipe(**values)
