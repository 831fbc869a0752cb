"""Hugging Face's and TensorFlow's datasets as rows of plain values, one way of opening them for every task.

A source is `hf:NAME`, a dataset on the hub, or `hf:FOLDER`, what `save_to_disk` wrote; or `tfds:NAME`, read without
TensorFlow. What the columns mean is the tasks' to say."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_jax.errors import UserError
from albert_jax.files import MAX_JSON_BYTES, read_file
from albert_jax.tasks.examples import listing

SPLITS = ("train", "dev", "test")
HUB_NAMES = {
    "glue": "nyu-mll/glue",
    "squad": "rajpurkar/squad",
    "squad_v2": "rajpurkar/squad_v2",
    "race": "ehovy/race",
    "swag": "allenai/swag",
    "dream": "dataset-org/dream",
    "conll2003": "eriktks/conll2003",
}
"""Where the hub now has the datasets that every tutorial calls by their short names."""
CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps its own conversion of a dataset."""


@dataclass(frozen=True)
class DatasetSplit:
    """The rows of a split, with Python's own values in them: no bytes, no arrays."""

    title: str
    """the source and its configuration, for messages"""
    split: str
    rows: list[dict[str, Any]]
    class_names: Mapping[str, Sequence[str]]
    """of the columns that hold classes as numbers, or lists of such"""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where each row is, for messages, and the row."""
        for number, row in enumerate(self.rows):
            yield f"{self.title}, row {number:,} of {self.split}", row


def is_dataset(source: str | Path) -> bool:
    """Whether a `data_dir` is a dataset and no folder of files."""
    return str(source).startswith(("hf:", "tfds:"))


def open_dataset(
    source: str | Path,
    split: str,
    *,
    usual: str,
    hub_config: str | None = None,
    tensorflow_config: str | None = None,
) -> DatasetSplit:
    """A split of `hf:NAME` or `hf:NAME:CONFIG`, each also with `#revision=BRANCH` behind, of `hf:FOLDER`, or of
    `tfds:NAME` or `tfds:NAME/CONFIG`, each also with `#data_dir=FOLDER`.

    "dev" is called "validation" in most datasets, and read under either name. A folder may hold the splits, or a folder
    of them for each configuration. The hub's datasets that are still programs, which `datasets` gave up with version 4,
    are read from the hub's conversion.

    Args:
        usual: the task's short name, an example for who names no dataset.
        hub_config: the configuration where the source names none; None for the dataset's only one. A folder of this
            name within the source's is taken before that.
        tensorflow_config: the same for `tfds:`.

    Raises:
        UserError: with the source: it cannot be opened, has no such split or an empty one, or an option is not known.
    """
    kind, _, place = str(source).partition(":")
    place, _, option = place.partition("#")
    if not place:
        raise UserError(f"{str(source)!r} names no dataset; write {kind}:{usual}")
    key, _, value = option.partition("=")
    known = {"hf": "revision", "tfds": "data_dir"}[kind]
    if option and (key != known or not value):
        raise UserError(f"{str(source)!r}: after # only {known}={known.upper()} is known")
    config, opened = (hub_config, _hugging_face) if kind == "hf" else (tensorflow_config, _tensorflow)
    title = ", ".join(filter(None, [str(source), config]))
    try:
        splits = opened(place, config, value or None)
        if not isinstance(splits, Mapping):
            raise UserError(f"{title}: a single split; save the DatasetDict with all splits")
        name = split.replace("dev", "validation")
        name = name if name in splits else split
        if name not in splits:
            raise UserError(f"{title}: no split {split!r}, there are {listing(splits)}")
        data = splits[name]
        rows = data.to_list() if kind == "hf" else [_plain(data[number]) for number in range(len(data))]
    except UserError:
        raise
    except Exception as error:  # the hub, its client and the file systems below each raise their own kinds
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
        raise UserError(f"{title}: cannot be opened: {reason}; a folder of the official files serves too") from None
    if not rows:
        raise UserError(f"{title}: the {split} split is empty")
    features = data.features if kind == "hf" else data.dataset_info.features
    # The feature of a list is that of its items in both; one that is no ClassLabel has no names.
    named = {column: getattr(getattr(f, "feature", f), "names", None) for column, f in features.items()}
    return DatasetSplit(title, split, rows, {column: names for column, names in named.items() if names})


def require_split(task: str, split: str, splits: Iterable[str] = SPLITS) -> None:
    """Raises UserError that lists the splits of the task where it has not this one."""
    if split not in splits:
        raise UserError(f"{task} has no split {split!r}; there are {listing(splits)}")


def require_columns(row: Mapping[str, Any], columns: Iterable[str], where: str) -> None:
    """Raises UserError where a row lacks columns."""
    if missing := [name for name in columns if name not in row]:
        raise UserError(f"{where}: no column {listing(missing)}, found {listing(row)}")


def class_name(value: Any, names: Sequence[str] | None, what: str, where: str) -> str:
    """A class as the dataset spells it, whether the row has its name or its number. `what` it is, for messages."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int):
        raise UserError(f"{where}: the {what} is {value!r:.60}, expected a class")
    if names is None:
        raise UserError(f"{where}: the {what} is the number {value}, and the dataset does not say what it stands for")
    if not 0 <= value < len(names):
        raise UserError(f"{where}: the {what} is the number {value}, expected 0 to {len(names) - 1}: {listing(names)}")
    return names[value]


def _hugging_face(place: str, config: str | None, revision: str | None) -> Any:
    from datasets import load_dataset, load_from_disk

    # Its retries are told twice over; what comes of them is in the error.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    folder = Path(place).expanduser()
    if folder.is_dir():
        inner = folder / config if config else folder
        return load_from_disk(str(inner if inner.is_dir() else folder))
    name, _, stated = place.partition(":")
    name, config = HUB_NAMES.get(name, name), stated or config
    try:
        return load_dataset(name, config, revision=revision)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        # There the configurations are folders.
        return load_dataset(name, data_dir=config, revision=CONVERTED)


def _tensorflow(place: str, config: str | None, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    name = place if config is None or "/" in place else f"{place}/{config}"
    require_no_code(name, data_dir)
    return tfds.data_source(name, data_dir=data_dir)


def require_no_code(name: str, data_dir: str | None) -> None:
    """Raises UserError for what TensorFlow Datasets would execute: the code of a dataset in a namespace of its
    community, or a module that a folder's features.json names."""
    from tensorflow_datasets.core.naming import parse_builder_name_kwargs

    try:
        dataset, arguments = parse_builder_name_kwargs(name)
    except ValueError:
        raise UserError(
            f"tfds:{name}: is not a dataset's name; write NAME, NAME/CONFIG, NAME:1.0.0 or NAME/CONFIG:1.0.0"
        ) from None
    if dataset.namespace:
        raise UserError(f"tfds:{name}: is in a community's namespace, whose code would be fetched and executed")
    if surplus := sorted(arguments.keys() - {"config", "version"}):
        raise UserError(f"tfds:{name}: {surplus[0]} cannot be part of the name; write #data_dir=FOLDER behind it")
    if data_dir is None:
        return
    for file in sorted((Path(data_dir).expanduser() / dataset.name).rglob("features.json")):
        content = read_file(file, MAX_JSON_BYTES)
        try:
            classes = list(_class_names(json.loads(content.decode())))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: cannot be read as JSON ({error}); prepare the dataset again") from None
        for found in classes:
            if not found.startswith("tensorflow_datasets."):
                raise UserError(
                    f"{file}: names the class {found}, whose module would be executed; there may only be those of "
                    "tensorflow_datasets"
                )


def _class_names(value: Any) -> Iterator[str]:
    """Of the features, which may be JSON in a text in JSON."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = json.loads(value)
    if isinstance(value, dict):
        yield from (
            name for key in ("pythonClassName", "python_class_name", "type") if isinstance(name := value.get(key), str)
        )
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _class_names(item)


def _plain(value: Any) -> Any:
    """What TensorFlow Datasets gives in NumPy's types, in Python's."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
