"""Every task that `finetune.py` knows: where its examples come from, how they are encoded and learnt, what it is judged
by, what is written for others to judge, and what the paper and Google's README report."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from albert_jax.config import require
from albert_jax.errors import UserError
from albert_jax.metrics import (
    GLUE_MAIN_METRICS,
    accuracy,
    f1,
    glue_metrics,
    matthews_correlation,
    multilabel_metrics,
    pearson,
    race_metrics,
    spearman,
    squad_v1_metrics,
    squad_v2_metrics,
    tagging_metrics,
)
from albert_jax.results import Reference
from albert_jax.tasks.config import FinetuneConfig, Recipe
from albert_jax.tasks.examples import (
    Blanks,
    ChoiceExample,
    Hyperparameters,
    TaggingExample,
    TextExample,
    describe_labels,
    encode_choices,
    encode_texts,
)
from albert_jax.tasks.glue import GLUE_TASKS, GlueTask, format_submission, read_glue
from albert_jax.tasks.heads import (
    Head,
    Split,
    beam_head,
    choice_head,
    classification_head,
    multi_label_head,
    regression_head,
    span_head,
    tagging_head,
)
from albert_jax.tasks.race import RACE_V1, RACE_V2, encode_race, open_dream, open_swag, read_race
from albert_jax.tasks.squad import SquadAnswer, SquadExample, build_features, open_squad, write_predictions
from albert_jax.tasks.table import Table, read_table
from albert_jax.tasks.tagging import encode_tagging, open_conll, tag_labels
from albert_jax.tokenizer import AlbertTokenizer, write_file

SPLITS = ("train", "dev", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DEV_SEED = 20190926
"""Of the examples that a table without a development file keeps apart."""

Predictions = Any
"""What the head says about every example (see `albert_jax.tasks.heads`)."""


@dataclass(frozen=True)
class Task:
    """One task, ready to be read."""

    name: str
    title: str
    head: Head
    labels: tuple[str, ...]
    """names of the classifier's labels in the order of its logits; () for heads without"""
    problem_type: str | None
    """Hugging Face's name for what the classifier does"""
    metric: str
    """the main one, which picks parameters and runs"""
    splits: tuple[str, ...]
    """all that may be read; "train", then those with labels, the first of which picks, then those for predictions"""
    recipe: Recipe
    recipe_source: str
    references: tuple[Reference, ...]
    read: Callable[[str], Sequence[Any]]
    """split -> examples"""
    encode: Callable[[str, Sequence[Any], AlbertTokenizer, int], Split]
    """(split, examples, tokenizer, max_length) -> sequences"""
    score: Callable[[Split, Predictions], dict[str, float]]
    """metrics in percent, correlations times 100; thresholds as they are"""
    baseline: Callable[[Sequence[Any]], float]
    """the main metric of whoever always gives the commonest answer"""
    write: Callable[[Path, Split, Predictions, float | None], list[Path]]
    """(folder, split, predictions, threshold for no answer) -> the files written"""
    describe: Callable[[Sequence[Any]], str]
    """one line about the labels of some examples"""
    from_mnli: bool = False
    """whether the paper starts from a model of MNLI"""
    can_abstain: bool = False
    """whether "no answer" is one, by a threshold"""

    @property
    def dev_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.splits if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.splits if split.startswith("test"))


def open_task(config: FinetuneConfig, name: str, labels: tuple[str, ...] = ()) -> Task:
    """The task of a name. Reads nothing but, for tables, and tagging where the `labels` of a model do not tell, the
    training examples. Raises `UserError` that lists the names."""
    if name in GLUE_TASKS:
        return _glue(config, GLUE_TASKS[name])
    others = {
        "squad1": _squad_1,
        "squad2": _squad_2,
        "race": _race,
        "swag": _swag,
        "dream": _dream,
        "conll": partial(_conll, labels=labels),
        "table": _table,
    }
    if name not in others:
        raise UserError(f"task = {name!r}: there are {', '.join([*GLUE_TASKS, 'all', *others])}")
    return others[name](config)


def _source(config: FinetuneConfig, example: str) -> str:
    require(config.data_dir is not None, "data_dir", None, f"give a folder of the official files, or {example}")
    return str(config.data_dir)


def _published(given: Hyperparameters, evaluate_every: int) -> Recipe:
    return Recipe(
        learning_rate=given.learning_rate,
        batch_size=given.batch_size,
        steps=given.steps,
        warmup_steps=given.warmup_steps,
        encoder_dropout=given.encoder_dropout,
        classifier_dropout=given.classifier_dropout,
        max_length=given.max_length,
        evaluate_every=evaluate_every,
    )


def _ours(learning_rate: float, batch_size: int, epochs: float, max_length: int) -> Recipe:
    """Without a published recipe for ALBERT: no encoder dropout, as in version 2, and a tenth of warm-up."""
    return Recipe(
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        encoder_dropout=0.0,
        classifier_dropout=0.1,
        max_length=max_length,
    )


def _percent(metrics: dict[str, float]) -> dict[str, float]:
    return {name: 100.0 * value for name, value in metrics.items()}


def _encode_texts(name: str, examples: Sequence[TextExample], tokenizer: AlbertTokenizer, max_length: int) -> Split:
    encoded = encode_texts(examples, tokenizer, max_length)
    return Split(name, examples, encoded.sequences, encoded.truncated)


def _labels_of(split: Split) -> list[Any]:
    return [example.label for example in split.examples]


def _majority(examples: Sequence[TextExample | ChoiceExample]) -> float:
    counts = Counter(example.label for example in examples)
    return 100.0 * counts.most_common(1)[0][1] / len(examples)


def _nothing(examples: Sequence[Any]) -> float:
    return 0.0


def _write(path: Path, lines: Sequence[str]) -> list[Path]:
    write_file(path, ("\n".join(lines) + "\n").encode())
    return [path]


# ---- GLUE


def _glue(config: FinetuneConfig, known: GlueTask) -> Task:
    # Google's run_glue.sh evaluates every 100 steps, QNLI every 200. For MNLI and QQP, whose development sets are
    # large, that would cost more than the training: ours is 500.
    every = {"qnli": 200, "mnli": 500, "qqp": 500}.get(known.name, 100)
    rules = known.hyperparameters
    recipe = _published(rules, every) if rules else _ours(3e-5, 128, 3, 512)

    def score(split: Split, predictions: np.ndarray) -> dict[str, float]:
        found = predictions if known.regression else predictions.argmax(-1)
        return _percent(glue_metrics(known.name, found, _labels_of(split)))

    def write(folder: Path, split: Split, predictions: np.ndarray, threshold: float | None) -> list[Path]:
        found = predictions if known.regression else predictions.argmax(-1)
        if split.name in known.submissions:
            path = folder / known.submissions[split.name]
            write_file(path, format_submission(known.name, split.name, found.tolist()).encode())
            return [path]
        spelled = [f"{value:.3f}" if known.regression else known.labels[value] for value in found.tolist()]
        lines = [f"{number}\t{label}" for number, label in enumerate(spelled)]
        return _write(folder / f"{split.name}.tsv", ["index\tprediction", *lines])

    metric = GLUE_MAIN_METRICS[known.name]
    return Task(
        name=known.name,
        title=known.folder,
        head=regression_head() if known.regression else classification_head(),
        labels=("score",) if known.regression else known.label_names,
        problem_type="regression" if known.regression else "single_label_classification",
        metric=metric,
        splits=tuple(sorted(known.files, key=_split_order)),
        recipe=recipe,
        recipe_source=rules.source if rules else "our choice",
        references=tuple(Reference(r.value, r.model, r.source) for r in known.published),
        read=lambda split: read_glue(known.name, split, _source(config, "hf:glue")),
        encode=_encode_texts,
        score=score,
        baseline=_majority if metric == "accuracy" else _nothing,
        write=write,
        describe=lambda examples: describe_labels(examples, known.label_names),
        from_mnli=known.from_mnli,
    )


def _split_order(split: str) -> tuple[int, str]:
    return next(i for i, kind in enumerate(("train", "dev", "test")) if split.startswith(kind)), split


# ---- SQuAD

_SQUAD_README = {
    # F1 of SQuAD 1.1 and 2.0, development sets (google-research/albert, README).
    "base_v1": (89.3, 80.0), "large_v1": (90.6, 82.3), "xlarge_v1": (92.5, 86.1), "xxlarge_v1": (94.8, 90.2),
    "base_v2": (90.2, 82.1), "large_v2": (91.8, 84.9), "xlarge_v2": (92.9, 87.9), "xxlarge_v2": (94.6, 89.8),
}  # fmt: skip
_README = "google-research/albert, README"


def _encode_squad(
    config: FinetuneConfig, name: str, examples: Sequence[SquadExample], tokenizer: AlbertTokenizer, max_length: int
) -> Split:
    squad = config.squad
    features = build_features(
        examples,
        tokenizer,
        training=name == "train",
        max_length=max_length,
        stride=min(squad.stride, max(1, max_length // 3)),
        max_query_length=min(squad.max_query_length, max(1, max_length // 3)),
    )
    return Split(name, examples, features, len({f.example for f in features if f.question_cut}))


def _gold(split: Split) -> dict[str, list[str]]:
    return {example.id: [answer.text for answer in example.answers] for example in split.examples}


def _describe_squad(examples: Sequence[SquadExample]) -> str:
    impossible = sum(not example.answers for example in examples)
    if not any(example.answers or example.is_impossible for example in examples):
        return f"{len(examples):,} questions, no answers read"
    return f"{len(examples):,} questions, {impossible:,} of them without an answer ({impossible / len(examples):.1%})"


def _score_squad_1(split: Split, answers: Sequence[SquadAnswer]) -> dict[str, float]:
    found = squad_v1_metrics({answer.id: answer.text for answer in answers}, _gold(split))
    return {name: found[name] for name in ("f1", "exact_match")}


def score_squad_2(split: Split, answers: Sequence[SquadAnswer]) -> dict[str, float]:
    """The official metrics at the threshold that is best for F1 on these very questions, as Google's code reports them;
    and both best values with their thresholds."""
    gold, odds = _gold(split), {answer.id: answer.null_odds for answer in answers}
    best = squad_v2_metrics({answer.id: answer.predict(None) for answer in answers}, gold, odds)
    threshold = best["best_f1_thresh"]

    def at(threshold: float) -> dict[str, float]:
        return squad_v2_metrics({answer.id: answer.predict(threshold) for answer in answers}, gold)

    found = at(threshold)
    if found["f1"] < best["best_f1"] - 1e-9:
        # Answering nothing at all is best, which the official search reports as threshold 0.
        threshold = min(odds.values()) - 1.0
        found = at(threshold)
    names = [name for name in found if name.endswith(("exact", "f1"))]
    return (
        {"f1": found["f1"]}
        | {name: found[name] for name in names}
        | {name: best[name] for name in ("best_f1", "best_exact")}
        | {"best_f1_thresh": threshold, "best_exact_thresh": best["best_exact_thresh"]}
    )


def _write_squad(folder: Path, split: Split, answers: Sequence[SquadAnswer], threshold: float | None) -> list[Path]:
    prefix = f"{split.name}_"
    write_predictions(folder, answers, threshold=threshold, prefix=prefix)
    return sorted(folder.glob(f"{prefix}*.json"))


def _squad(config: FinetuneConfig, version: str, head: Head, rules: Hyperparameters) -> Task:
    column = 0 if version == "1.1" else 1
    return Task(
        name="squad1" if version == "1.1" else "squad2",
        title=f"SQuAD {version}",
        head=head,
        labels=(),
        problem_type=None,
        metric="f1",
        splits=SPLITS,
        recipe=_published(rules, 1000),
        recipe_source=rules.source,
        references=tuple(Reference(values[column], model, _README) for model, values in _SQUAD_README.items()),
        read=lambda split: open_squad(version, split, _source(config, "hf:squad" + "_v2" * column)),
        encode=partial(_encode_squad, config),
        score=_score_squad_1 if version == "1.1" else score_squad_2,
        baseline=_nothing if version == "1.1" else _no_answers,
        write=_write_squad,
        describe=_describe_squad,
        can_abstain=version == "2.0",
    )


def _no_answers(examples: Sequence[SquadExample]) -> float:
    """F1 of leaving every question unanswered."""
    return 100.0 * sum(not example.answers for example in examples) / len(examples)


def _squad_1(config: FinetuneConfig) -> Task:
    require(
        config.squad.head == "plain",
        "squad.head",
        config.squad.head,
        "SQuAD 1.1 has an answer to every question; the beam head is for 2.0, use plain",
    )
    rules = Hyperparameters(5e-5, 48, 0.0, 0.1, 3649, 365, 384, "paper, Table 14")
    squad = config.squad
    head = span_head(no_answer=False, n_best=squad.n_best, max_answer_length=squad.max_answer_length)
    return _squad(config, "1.1", head, rules)


def _squad_2(config: FinetuneConfig) -> Task:
    rules = Hyperparameters(3e-5, 48, 0.0, 0.1, 8144, 814, 512, "paper, Table 14")
    return _squad(config, "2.0", _squad_2_head(config), rules)


def _squad_2_head(config: FinetuneConfig) -> Head:
    sizes = dict(n_best=config.squad.n_best, max_answer_length=config.squad.max_answer_length)
    return beam_head(**sizes) if config.squad.head == "beam" else span_head(no_answer=True, **sizes)


# ---- multiple choice

_RACE_README = {
    "base_v1": 64.0, "large_v1": 68.5, "xlarge_v1": 74.8, "xxlarge_v1": 86.5,
    "base_v2": 66.8, "large_v2": 75.2, "xlarge_v2": 80.7, "xxlarge_v2": 86.8,
}  # fmt: skip


def _encode_choices(name: str, examples: Sequence[ChoiceExample], tokenizer: AlbertTokenizer, max_length: int) -> Split:
    encoded = encode_choices(examples, tokenizer, max_length)
    return Split(name, examples, encoded.sequences, encoded.truncated)


def _encode_race(
    blanks: Blanks, name: str, examples: Sequence[ChoiceExample], tokenizer: AlbertTokenizer, max_length: int
) -> Split:
    encoded = encode_race(examples, tokenizer, max_length, blanks=blanks)
    return Split(name, examples, encoded.sequences, encoded.truncated)


def _chosen(predictions: Sequence[np.ndarray]) -> list[int]:
    return [int(logits.argmax()) for logits in predictions]


def _score_choices(split: Split, predictions: Sequence[np.ndarray]) -> dict[str, float]:
    return {"accuracy": 100.0 * accuracy(_chosen(predictions), _labels_of(split))}


def _score_race(split: Split, predictions: Sequence[np.ndarray]) -> dict[str, float]:
    levels = [example.group for example in split.examples]
    return _percent(race_metrics(_chosen(predictions), _labels_of(split), levels))


def _write_choices(
    folder: Path, split: Split, predictions: Sequence[np.ndarray], threshold: float | None
) -> list[Path]:
    """One line for each question: its id, the chosen letter, and the choices' probabilities."""
    lines = []
    for example, logits in zip(split.examples, predictions, strict=True):
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        shown = " ".join(f"{share:.4f}" for share in shares)
        lines.append(f"{example.id}\t{LETTERS[int(logits.argmax())]}\t{shown}")
    return _write(folder / f"{split.name}.tsv", ["id\tprediction\tprobabilities", *lines])


def _describe_choices(examples: Sequence[ChoiceExample]) -> str:
    most = max(len(example.choices) for example in examples)
    return describe_labels(examples, LETTERS[:most])


def _choices(num_choices: int, **particular: Any) -> Task:
    return Task(
        head=choice_head(num_choices),
        labels=(),
        problem_type=None,
        metric="accuracy",
        baseline=_majority,
        write=_write_choices,
        describe=_describe_choices,
        **({"encode": _encode_choices, "score": _score_choices, "references": ()} | particular),
    )


def _race(config: FinetuneConfig) -> Task:
    rules = RACE_V1 if config.model_version == "v1" else RACE_V2
    return _choices(
        4,
        name="race",
        title="RACE",
        splits=SPLITS,
        recipe=_published(rules, 1000),
        recipe_source=rules.source,
        references=tuple(Reference(value, model, _README) for model, value in _RACE_README.items()),
        read=lambda split: read_race(_source(config, "hf:race"), split),
        encode=partial(_encode_race, config.race_blanks),
        score=_score_race,
    )


def _swag(config: FinetuneConfig) -> Task:
    return _choices(
        4,
        name="swag",
        title="SWAG",
        splits=SPLITS,
        recipe=_ours(2e-5, 16, 3, 128),
        recipe_source="our choice, after BERT's for SWAG",
        read=lambda split: open_swag(split, _source(config, "hf:swag")),
    )


def _dream(config: FinetuneConfig) -> Task:
    return _choices(
        3,
        name="dream",
        title="DREAM",
        splits=SPLITS,
        recipe=_ours(2e-5, 32, 4, 512),
        recipe_source="our choice",
        read=lambda split: open_dream(split, _source(config, "hf:dream")),
    )


# ---- tagging


def _encode_tags(
    labels: tuple[str, ...], name: str, examples: Sequence[TaggingExample], tokenizer: AlbertTokenizer, max_length: int
) -> Split:
    encoded = encode_tagging(examples, tokenizer, max_length, labels)
    return Split(name, examples, encoded.sequences, encoded.truncated)


def _score_tags(labels: tuple[str, ...], split: Split, predictions: Sequence[np.ndarray]) -> dict[str, float]:
    predicted = [[labels[tag] for tag in tags] for tags in predictions]
    found = _percent(tagging_metrics(predicted, [list(example.labels) for example in split.examples]))
    shown = [name for name in found if name.startswith("f1") or "_" not in name]
    return {name: found[name] for name in ("f1", *shown)}


def _write_tags(
    labels: tuple[str, ...], folder: Path, split: Split, predictions: Sequence[np.ndarray], threshold: float | None
) -> list[Path]:
    """CoNLL's columns: word, the file's tag where there is one, and the predicted tag; a blank line between sentences,
    as conlleval reads it."""
    lines: list[str] = []
    for example, tags in zip(split.examples, predictions, strict=True):
        for number, (word, tag) in enumerate(zip(example.words, tags, strict=True)):
            known = [] if example.labels is None else [example.labels[number]]
            lines.append(" ".join([word, *known, labels[tag]]))
        lines.append("")
    return _write(folder / f"{split.name}.txt", lines[:-1])


def _tagging(labels: tuple[str, ...], **particular: Any) -> Task:
    if not labels:
        raise UserError("the training examples have no tags; give a file with a tag for each word")
    return Task(
        head=tagging_head(),
        labels=labels,
        problem_type=None,
        metric="f1",
        encode=partial(_encode_tags, labels),
        score=partial(_score_tags, labels),
        baseline=_nothing,
        write=partial(_write_tags, labels),
        describe=lambda examples: describe_labels(examples, labels),
        references=(),
        **particular,
    )


def _conll(config: FinetuneConfig, labels: tuple[str, ...]) -> Task:
    def read(split: str) -> list[TaggingExample]:
        return open_conll(split, _source(config, "hf:conll2003"), scheme=config.tag_scheme)

    return _tagging(
        labels or tag_labels(read("train")),
        name="conll",
        title="CoNLL-2003",
        splits=SPLITS,
        read=read,
        recipe=_ours(5e-5, 32, 3, 512),
        recipe_source="our choice, after BERT's for CoNLL-2003",
    )


# ---- own data


def _table(config: FinetuneConfig) -> Task:
    files = config.table
    require(
        files.train_file is not None, "table.train_file", None, "give a .csv, .tsv or .jsonl file by --table.train_file"
    )
    table = read_table(files.train_file, kind=files.kind, columns=files.columns)
    kept_apart = np.random.default_rng(DEV_SEED).permutation(len(table.examples))
    count = min(max(1, round(files.dev_fraction * len(table.examples))), len(table.examples) - 1)

    def read(split: str) -> list[Any]:
        if split == "test":
            require(
                files.test_file is not None, "table.test_file", None, "give the file to predict by --table.test_file"
            )
            return read_table(files.test_file, like=table, labelled=False).examples
        if files.dev_file is not None:
            return table.examples if split == "train" else read_table(files.dev_file, like=table).examples
        if len(table.examples) < 2:
            raise UserError(f"{files.train_file}: one example; give more, or a dev_file to judge by")
        chosen = kept_apart[:count] if split == "dev" else kept_apart[count:]
        return [table.examples[number] for number in sorted(chosen.tolist())]

    common: dict[str, Any] = dict(
        name="table",
        title=Path(files.train_file).name,
        splits=SPLITS,
        read=read,
        recipe=_ours(2e-5, 32, 3, 512),
        recipe_source="our choice",
    )
    match table.kind:
        case "tagging":
            return _tagging(table.labels, **common)
        case "multiple_choice":
            most = max(len(example.choices) for example in table.examples)
            if most > len(LETTERS):
                raise UserError(f"{files.train_file}: an example has {most} choices, expected at most {len(LETTERS)}")
            return _choices(num_choices=most, **common)
        case "question_answering":
            return _table_questions(config, table, common)
        case _:
            return _table_texts(table, common)


def _table_questions(config: FinetuneConfig, table: Table, common: dict[str, Any]) -> Task:
    judged = [] if config.table.dev_file is None else common["read"]("dev")
    unanswerable = any(not example.answers for example in [*table.examples, *judged])
    base = _squad_2(config) if unanswerable else _squad_1(config)
    return dataclasses.replace(base, references=(), **common | {"recipe": _ours(3e-5, 24, 2, 384)})


def _table_texts(table: Table, common: dict[str, Any]) -> Task:
    labels = table.labels
    kinds = {
        "classification": (classification_head(), "single_label_classification", "accuracy"),
        "regression": (regression_head(), "regression", "pearson"),
        "multi_label": (multi_label_head(len(labels)), "multi_label_classification", "f1_micro"),
    }
    head, problem_type, metric = kinds[table.kind]

    def score(split: Split, predictions: np.ndarray) -> dict[str, float]:
        gold = _labels_of(split)
        if table.kind == "regression":
            error = float(np.mean(np.square(predictions - np.array(gold))))
            return _percent({"pearson": pearson(predictions, gold), "spearman": spearman(predictions, gold)}) | {
                "mean_squared_error": error
            }
        if table.kind == "multi_label":
            wanted = np.zeros(predictions.shape, np.int64)
            for row, some in enumerate(gold):
                wanted[row, list(some)] = 1
            return _percent(multilabel_metrics((predictions > 0).astype(np.int64), wanted))
        found = predictions.argmax(-1)
        values = {"accuracy": accuracy(found, gold), "matthews_correlation": matthews_correlation(found, gold)}
        return _percent(values | ({"f1": f1(found, gold)} if len(labels) == 2 else {}))

    def write(folder: Path, split: Split, predictions: np.ndarray, threshold: float | None) -> list[Path]:
        """JSON lines: id, prediction, and the probability of every label."""
        lines = []
        for example, row in zip(split.examples, predictions, strict=True):
            lines.append(json.dumps({"id": example.id} | _said(row), ensure_ascii=False))
        return _write(folder / f"{split.name}.jsonl", lines)

    def _said(row: np.ndarray) -> dict[str, Any]:
        if table.kind == "regression":
            return {"prediction": float(row)}
        if table.kind == "multi_label":
            shares = 1 / (1 + np.exp(-row.astype(np.float64)))
            chosen: Any = [label for label, share in zip(labels, shares, strict=True) if share > 0.5]
        else:
            shares = np.exp(row.astype(np.float64) - row.max())
            shares /= shares.sum()
            chosen = labels[int(row.argmax())]
        return {"prediction": chosen, "probabilities": dict(zip(labels, shares.round(6).tolist(), strict=True))}

    return Task(
        head=head,
        labels=labels if table.kind != "regression" else ("score",),
        problem_type=problem_type,
        metric=metric,
        references=(),
        encode=_encode_texts,
        score=score,
        baseline=_majority if table.kind == "classification" else _nothing,
        write=write,
        describe=lambda examples: describe_labels(examples, labels),
        **common,
    )
