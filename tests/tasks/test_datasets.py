"""Datasets are found by short names, configurations and options, and what cannot be opened is said in a line."""

import pytest

from albert_jax.errors import UserError
from albert_jax.tasks.datasets import class_name, is_dataset, open_dataset


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub: what is asked of it, and "conll2003" is still a program there, as it is."""
    import datasets

    asked = []

    def load_dataset(name, config=None, *, data_dir=None, revision=None):
        asked.append((name, config, data_dir, revision))
        if "conll2003" in name and revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found conll2003.py")
        if name == "broken":
            raise RuntimeError("something else\nwith a long story")
        full = datasets.Dataset.from_list([{"id": "a"}])
        return datasets.DatasetDict(validation=full, test=full.select([]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("source", "config", "asked"),
    [
        ("hf:squad", None, [("rajpurkar/squad", None, None, None)]),
        ("hf:somebody/own", "regular", [("somebody/own", "regular", None, None)]),
        ("hf:race:all", "high", [("ehovy/race", "all", None, None)]),
        ("hf:swag#revision=main", "regular", [("allenai/swag", "regular", None, "main")]),
        (
            "hf:conll2003",
            None,
            [("eriktks/conll2003", None, None, None), ("eriktks/conll2003", None, None, "refs/convert/parquet")],
        ),
        (
            "hf:conll2003",
            "some",
            [("eriktks/conll2003", "some", None, None), ("eriktks/conll2003", None, "some", "refs/convert/parquet")],
        ),
    ],
)
def test_short_names_configurations_and_revisions_reach_the_hub(hub, source, config, asked):
    assert is_dataset(source)
    opened = open_dataset(source, "dev", usual="x", hub_config=config)
    assert hub == asked
    title = f"{source}, {config}" if config else source
    assert list(opened) == [(f"{title}, row 0 of dev", {"id": "a"})]


def test_what_the_hub_answers_is_one_line(hub):
    with pytest.raises(
        UserError,
        match=r"^hf:broken: cannot be opened: RuntimeError: something else; a folder of the official files serves too$",
    ):
        open_dataset("hf:broken", "dev", usual="x")
    with pytest.raises(UserError, match=r"^hf:squad: no split 'train', there are validation, test$"):
        open_dataset("hf:squad", "train", usual="x")
    with pytest.raises(UserError, match=r"^hf:squad: the test split is empty$"):
        open_dataset("hf:squad", "test", usual="x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:", "'hf:' names no dataset; write hf:squad"),
        ("tfds:#data_dir=x", "names no dataset; write tfds:squad"),
        ("hf:squad#data_dir=x", "after # only revision=REVISION is known"),
        ("tfds:squad#data_dir=", "after # only data_dir=DATA_DIR is known"),
        ("tfds:no_such_dataset", "no_such_dataset, v2.0: cannot be opened: "),
    ],
)
def test_a_source_that_is_none_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        open_dataset(source, "dev", usual="squad", tensorflow_config="v2.0")


def test_a_folder_of_folders_and_a_single_split(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features

    both = {
        "one": Features(label=ClassLabel(names=["x", "y"])),
        "two": Features(tags=[ClassLabel(names=["O", "B-X"])]),
    }
    DatasetDict(dev=Dataset.from_list([{"label": 1}], both["one"])).save_to_disk(tmp_path / "one")
    DatasetDict(dev=Dataset.from_list([{"tags": [1, 0]}], both["two"])).save_to_disk(tmp_path / "two")
    assert open_dataset(f"hf:{tmp_path}", "dev", usual="x", hub_config="one").class_names == {"label": ["x", "y"]}
    two = open_dataset(f"hf:{tmp_path / 'two'}", "dev", usual="x", hub_config="one")
    assert (two.rows, two.class_names) == ([{"tags": [1, 0]}], {"tags": ["O", "B-X"]})
    Dataset.from_list([{"label": 1}]).save_to_disk(tmp_path / "single")
    with pytest.raises(UserError, match="single: a single split; save the DatasetDict with all splits"):
        open_dataset(f"hf:{tmp_path / 'single'}", "dev", usual="x")


def test_classes_are_names_or_numbers_of_names():
    assert class_name("y", None, "label", "here") == "y"
    assert class_name(1, ["x", "y"], "label", "here") == "y"
    for value, names, message in (
        (-1, ["x", "y"], "here: the label is the number -1, expected 0 to 1: x, y"),
        (1, None, "here: the label is the number 1, and the dataset does not say what it stands for"),
        (None, ["x"], "here: the label is None, expected a class"),
    ):
        with pytest.raises(UserError, match=message):
            class_name(value, names, "label", "here")
