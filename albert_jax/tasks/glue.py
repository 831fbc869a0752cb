"""GLUE: what its tasks are, the paper's settings and results for them, and their examples, the same ones whether from
the official TSV files, a Hugging Face dataset or a TensorFlow one."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_jax.errors import UserError
from albert_jax.tasks.datasets import class_name, is_dataset, open_dataset, require_columns, require_split
from albert_jax.tasks.examples import Hyperparameters, Published, TextExample, listing, read_rows

SPLITS = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
# CoLA's train and dev files, alone of all, have no header.
COLA_COLUMNS = ("source", "label", "note", "sentence")
HIGHEST_SIMILARITY = 5.0


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE."""

    name: str
    """ours, and the configuration's in the Hugging Face and TensorFlow datasets"""
    folder: str
    """in the official distribution"""
    files: Mapping[str, str]
    """the file of each split; a name that begins with "dev" is judged, the first of them for choosing checkpoints, and
    one that begins with "test" has no labels"""
    columns: tuple[str, ...]
    """of the text, or both, in the files' headers"""
    label_column: str
    dataset_columns: tuple[str, ...]
    """of the text, or both, in the datasets; the label's is "label" in all"""
    labels: tuple[str, ...]
    """as the files spell them, in the order of Google's classifier_utils.py; none for a regression"""
    label_names: tuple[str, ...]
    """what they mean, in the same order, as the datasets spell it"""
    metric: str
    """the one that picks runs, as `albert_jax.metrics` calls it"""
    hyperparameters: Hyperparameters | None
    submissions: Mapping[str, str]
    """the file for the leaderboard of each test split; it has `labels` as the files spell them"""
    published: tuple[Published, ...] = ()
    from_mnli: bool = False
    """whether the paper starts from a checkpoint fine-tuned on MNLI (section 4.9, after RoBERTa)"""

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def dev_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.files if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(split for split in self.files if split.startswith("test"))


def _table_14(
    learning_rate: float, batch_size: int, encoder_dropout: float, steps: int, warmup_steps: int
) -> Hyperparameters:
    return Hyperparameters(learning_rate, batch_size, encoder_dropout, 0.1, steps, warmup_steps, 512, "paper, Table 14")


def _table_9(value: float) -> tuple[Published, ...]:
    return (Published("xxlarge_v1", value, "paper, Table 9: single model, 1.5M steps"),)


def _readme(**values: float) -> tuple[Published, ...]:
    """The README's results; xxlarge_v1's equal the 1.5M-step row of the paper's Table 9."""
    return tuple(Published(model, value, "google-research/albert, README") for model, value in values.items())


_BINARY = ("0", "1")
_NLI = ("contradiction", "entailment", "neutral")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")

GLUE_TASKS: Mapping[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folder="CoLA",
            files=SPLITS,
            columns=("sentence",),
            label_column="label",
            dataset_columns=("sentence",),
            labels=_BINARY,
            label_names=("unacceptable", "acceptable"),
            metric="matthews_correlation",
            hyperparameters=_table_14(1e-5, 16, 0.0, 5336, 320),
            submissions={"test": "CoLA.tsv"},
            published=_table_9(71.4),
        ),
        GlueTask(
            name="sst2",
            folder="SST-2",
            files=SPLITS,
            columns=("sentence",),
            label_column="label",
            dataset_columns=("sentence",),
            labels=_BINARY,
            label_names=("negative", "positive"),
            metric="accuracy",
            hyperparameters=_table_14(1e-5, 32, 0.0, 20935, 1256),
            submissions={"test": "SST-2.tsv"},
            published=_readme(
                base_v1=90.3, large_v1=91.7, xlarge_v1=92.4, xxlarge_v1=96.9,
                base_v2=92.9, large_v2=94.9, xlarge_v2=95.4, xxlarge_v2=96.8,
            ),
        ),
        GlueTask(
            name="mrpc",
            folder="MRPC",
            files=SPLITS,
            columns=("#1 String", "#2 String"),
            label_column="Quality",
            dataset_columns=_SENTENCES,
            labels=_BINARY,
            label_names=("not_equivalent", "equivalent"),
            metric="accuracy",
            hyperparameters=_table_14(2e-5, 32, 0.0, 800, 200),
            submissions={"test": "MRPC.tsv"},
            published=_table_9(90.9),
            from_mnli=True,
        ),
        GlueTask(
            name="stsb",
            folder="STS-B",
            files=SPLITS,
            columns=_SENTENCES,
            label_column="score",
            dataset_columns=_SENTENCES,
            labels=(),
            label_names=(),
            metric="pearson",
            hyperparameters=_table_14(2e-5, 16, 0.0, 3598, 214),
            submissions={"test": "STS-B.tsv"},
            published=_table_9(93.0),
            from_mnli=True,
        ),
        GlueTask(
            name="qqp",
            folder="QQP",
            files=SPLITS,
            columns=("question1", "question2"),
            label_column="is_duplicate",
            dataset_columns=("question1", "question2"),
            labels=_BINARY,
            label_names=("not_duplicate", "duplicate"),
            metric="accuracy",
            hyperparameters=_table_14(5e-5, 128, 0.1, 14000, 1000),
            submissions={"test": "QQP.tsv"},
            published=_table_9(92.2),
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            files={
                "train": "train.tsv",
                "dev_matched": "dev_matched.tsv",
                "dev_mismatched": "dev_mismatched.tsv",
                "test_matched": "test_matched.tsv",
                "test_mismatched": "test_mismatched.tsv",
            },
            columns=_SENTENCES,
            label_column="gold_label",
            dataset_columns=("premise", "hypothesis"),
            labels=_NLI,
            label_names=_NLI,
            metric="accuracy",
            hyperparameters=_table_14(3e-5, 128, 0.0, 10000, 1000),
            submissions={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
            published=_readme(
                base_v1=81.6, large_v1=83.5, xlarge_v1=86.4, xxlarge_v1=90.8,
                base_v2=84.6, large_v2=86.5, xlarge_v2=87.9, xxlarge_v2=90.6,
            ),
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            files=SPLITS,
            columns=("question", "sentence"),
            label_column="label",
            dataset_columns=("question", "sentence"),
            labels=_ENTAILMENT,
            label_names=_ENTAILMENT,
            metric="accuracy",
            hyperparameters=_table_14(1e-5, 32, 0.0, 33112, 1986),
            submissions={"test": "QNLI.tsv"},
            published=_table_9(95.3),
        ),
        GlueTask(
            name="rte",
            folder="RTE",
            files=SPLITS,
            columns=_SENTENCES,
            label_column="label",
            dataset_columns=_SENTENCES,
            labels=_ENTAILMENT,
            label_names=_ENTAILMENT,
            metric="accuracy",
            hyperparameters=_table_14(3e-5, 32, 0.1, 800, 200),
            submissions={"test": "RTE.tsv"},
            published=_table_9(89.2),
            from_mnli=True,
        ),
        GlueTask(
            name="wnli",
            folder="WNLI",
            files=SPLITS,
            columns=_SENTENCES,
            label_column="label",
            dataset_columns=_SENTENCES,
            labels=_BINARY,
            label_names=("not_entailment", "entailment"),
            metric="accuracy",
            hyperparameters=_table_14(2e-5, 16, 0.1, 2000, 250),
            submissions={"test": "WNLI.tsv"},
        ),
        # The diagnostic set: a model of MNLI is asked. Its answers are public, in a file with names of its own.
        GlueTask(
            name="ax",
            folder="diagnostic",
            files={"test": "diagnostic.tsv", "dev_diagnostic": "diagnostic-full.tsv"},
            columns=_SENTENCES,
            label_column="Label",
            dataset_columns=("premise", "hypothesis"),
            labels=_NLI,
            label_names=_NLI,
            metric="matthews_correlation",
            hyperparameters=None,
            submissions={"test": "AX.tsv"},
        ),
    )
}  # fmt: skip


def get_task(name: str) -> GlueTask:
    """The task of a name. Raises UserError that lists the names."""
    if name not in GLUE_TASKS:
        raise UserError(f"GLUE has no task {name!r}; there are {listing(GLUE_TASKS)}")
    return GLUE_TASKS[name]


def read_glue(task: str, split: str, data_dir: str | Path) -> list[TextExample]:
    """The examples of a split in the official order, with ids such as "dev-0".

    `data_dir` is a folder in the official layout, or a dataset as in `open_dataset`: `hf:glue`, `hf:FOLDER` (what
    `save_to_disk` wrote of one task, or a folder of such folders named for the tasks) or `tfds:glue`.
    Labels are numbered in the order of `GlueTask.labels`, whatever the source's own. Test splits have none, even where
    the source has, as for MRPC. Warns of the rows that QQP lacks columns in and that are left out, as everywhere.

    Raises:
        UserError: with the file and line, or the dataset and row: what is missing or wrong, and what was expected.
    """
    known = get_task(task)
    require_split(task, split, known.files)
    source = str(data_dir)
    if is_dataset(source):
        rows = _dataset_rows(known, split, source)
    else:
        rows = _file_rows(known, split, glue_file(task, split, data_dir))
    examples = []
    for where, texts, label in rows:
        number = None if split.startswith("test") else _parse_label(known, label, where)
        text, pair = texts if len(texts) == 2 else (*texts, None)
        examples.append(TextExample(f"{split}-{len(examples)}", text, pair, number))
    if not examples:
        raise UserError(f"{source}: the {split} split of {task} is empty")
    return examples


def glue_file(task: str, split: str, data_dir: str | Path) -> Path:
    """The file that a split is read from: of the official name, or else the only one whose name begins so, such as
    train.sample.tsv for train.tsv; for MRPC also Microsoft's msr_paraphrase_train.txt and _test.txt."""
    known = get_task(task)
    require_split(task, split, known.files)
    folder = Path(data_dir).expanduser() / known.folder
    path = folder / known.files[split]
    if path.is_file():
        return path
    # dev_ids.tsv belongs to Microsoft's layout of MRPC and is no development set.
    found = sorted(other for other in folder.glob(f"{path.stem}*.tsv") if other.name != "dev_ids.tsv")
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise UserError(f"{path}: no such file, and several like it ({listing(p.name for p in found)}); rename one")
    looked_for = f"{path}: no such file, and none like {path.stem}*.tsv"
    if task == "mrpc":
        original = folder / f"msr_paraphrase_{'test' if split == 'test' else 'train'}.txt"
        if original.is_file():
            return original
        looked_for += f" or {original.name}"
    raise UserError(f"{looked_for}; give the folder that holds {known.folder} with GLUE's files as data_dir")


def format_submission(task: str, split: str, predictions: Sequence[int | float]) -> str:
    """The text of the file that GLUE's leaderboard takes for a test split: an index and a label on each line."""
    known = get_task(task)
    if split not in known.submissions:
        raise UserError(f"GLUE takes no predictions for {split!r} of {task}; it does for {listing(known.submissions)}")
    if known.regression:
        spelled = [f"{min(max(value, 0.0), HIGHEST_SIMILARITY):.3f}" for value in predictions]
    else:
        spelled = [known.labels[int(value)] for value in predictions]
    return "index\tprediction\n" + "".join(f"{i}\t{label}\n" for i, label in enumerate(spelled))


Row = tuple[str, tuple[str, ...], str | None]
"""Where it is, for messages; its texts; its label as spelled there, None without."""


def _parse_label(task: GlueTask, label: str | None, where: str) -> int | float:
    if not task.regression:
        for spellings in (task.labels, task.label_names):
            if label in spellings:
                return spellings.index(label)
        names = "" if task.labels == task.label_names else f" ({listing(task.label_names)})"
        raise UserError(f"{where}: unknown label {label!r}; {task.name} has {listing(task.labels)}{names}")
    try:
        value = float(label or "")
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= HIGHEST_SIMILARITY:
        raise UserError(f"{where}: the score is {label!r}, expected a number from 0 to 5")
    return value


def _file_rows(task: GlueTask, split: str, path: Path) -> Iterator[Row]:
    rows = read_rows(path)
    labelled = not split.startswith("test")
    columns = task.columns
    if task.name == "ax" and labelled:
        columns = ("Premise", "Hypothesis")
    if task.name == "cola" and labelled:
        header = list(COLA_COLUMNS)
    else:
        _, header = next(rows, (0, []))
        if not header:
            raise UserError(f"{path}: empty file")
        needed = (*columns, *([task.label_column] if labelled else []))
        if missing := [name for name in needed if name not in header]:
            raise UserError(f"{path}, line 1: no column {listing(missing)} in the header, found {listing(header)}")
    if path.name.startswith("msr_paraphrase") and labelled:
        rows = _part_of_mrpc(rows, header, split, path)
    places = [header.index(name) for name in columns]
    label_place = header.index(task.label_column) if labelled else None
    short = []
    for line, cells in rows:
        if task.name == "qqp" and labelled and len(cells) < len(header):
            short.append(line)
            continue
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line:,}: {len(cells)} columns, expected {len(header)}: {', '.join(header)}")
        label = None if label_place is None else cells[label_place]
        yield f"{path}, line {line:,}", tuple(cells[place] for place in places), label
    if short:
        warnings.warn(f"{path}: left out {len(short)} rows that lack columns, lines {listing(short)}", stacklevel=3)


def _part_of_mrpc(
    rows: Iterator[tuple[int, list[str]]], header: list[str], split: str, path: Path
) -> Iterator[tuple[int, list[str]]]:
    """The rows of Microsoft's training file that GLUE's dev_ids.tsv makes the development set, or the others."""
    ids_path = path.with_name("dev_ids.tsv")
    if not ids_path.is_file():
        raise UserError(f"{ids_path}: no such file; it says which rows of {path.name} are GLUE's development set")
    if missing := [name for name in ("#1 ID", "#2 ID") if name not in header]:
        raise UserError(f"{path}, line 1: no column {listing(missing)} in the header, found {listing(header)}")
    first, second = header.index("#1 ID"), header.index("#2 ID")
    wanted = {tuple(cells) for _, cells in read_rows(ids_path)}
    absent = set(wanted)
    for line, cells in rows:
        pair = tuple(cells[first : first + 1] + cells[second : second + 1])
        absent.discard(pair)
        # A row without its columns is passed on, to be named.
        if len(cells) != len(header) or (pair in wanted) == (split == "dev"):
            yield line, cells
    if absent:
        raise UserError(f"{path}: lacks {len(absent)} of the pairs in {ids_path.name}, such as {' '.join(min(absent))}")


# ---- datasets


def _dataset_rows(task: GlueTask, split: str, source: str) -> Iterator[Row]:
    """The rows in the order of "idx": TensorFlow Datasets shuffles as it writes."""
    if task.name == "ax" and split != "test":
        raise UserError(f"{source}: {split} of ax comes from the file {task.files[split]} only; give its folder")
    data = open_dataset(source, split, usual="glue", hub_config=task.name, tensorflow_config=task.name)
    labelled = not split.startswith("test")
    for _, (where, row) in sorted(enumerate(data), key=lambda entry: entry[1][1].get("idx", entry[0])):
        require_columns(row, (*task.dataset_columns, *(["label"] if labelled else [])), where)
        texts = tuple(row[name] for name in task.dataset_columns)
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UserError(f"{where}: {wrong[0]!r:.60} in {listing(task.dataset_columns)}, expected a text")
        yield where, texts, _spelled(task, row["label"], data.class_names.get("label"), where) if labelled else None


def _spelled(task: GlueTask, label: Any, names: Sequence[str] | None, where: str) -> str:
    """A label as a name, or a number as text."""
    if task.regression:
        # The datasets hold the scores in float32, whose shortest spelling is that of the files: 3.8, not 3.7999999523.
        return str(np.float32(label)) if isinstance(label, float) else str(label)
    if names is None and task.labels == _BINARY:
        return str(label)
    return class_name(label, names, "label", where)
