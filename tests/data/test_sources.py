"""Every kind of source gives the same documents, wherever it is cut; every fault in one is a message."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from albert_jax.errors import UserError
from data import readers
from data.readers import PieceReader
from data.sources import parse_source, plan_items


def read(*specs: str) -> list[str]:
    """All documents of some sources, through the items that a build would make."""
    items = plan_items([parse_source(spec) for spec in specs], [])
    return [document.decode() for item in items for piece in item.pieces for document in PieceReader(piece)]


def stripped(documents: list[str]) -> list[str]:
    return [document.strip() for document in documents]


@pytest.fixture(scope="module")
def rows(documents: list[str]) -> list[dict]:
    return [{"text": document, "body": document, "id": i} for i, document in enumerate(documents)]


def test_a_plain_file_gives_its_documents(text_file, documents):
    assert stripped(read(str(text_file))) == documents


@pytest.mark.parametrize("size", [1 << 10, 3_001, 1 << 14])
def test_where_a_plain_file_is_cut_changes_nothing(text_file, documents, monkeypatch, size):
    monkeypatch.setattr("data.sources.MAX_ITEM_BYTES", size)
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", size)
    assert len(plan_items([parse_source(str(text_file))], [])) > 3
    assert stripped(read(str(text_file))) == documents


@pytest.mark.parametrize("blank", ["\n\n", "\n \t\n", "\r\n\r\n", "\n\n\n\n"])
@pytest.mark.parametrize("size", [7, 16, 1000])
def test_any_blank_lines_divide_documents_wherever_cut(tmp_path, monkeypatch, blank, size):
    monkeypatch.setattr("data.sources.MAX_ITEM_BYTES", size)
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", size)
    texts = ["a b", "c\nd", "e", "ffff ffff ffff ffff", "g"]
    path = tmp_path / "x.txt"
    path.write_bytes(("\ufeff" + blank.join(texts)).encode())
    assert stripped(read(str(path))) == texts


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma)])
def test_compressed_files_give_the_same(text_file, documents, rows, tmp_path, suffix, module):
    with module.open(tmp_path / f"x.txt{suffix}", "wt", encoding="utf-8") as file:
        file.write(text_file.read_text("utf-8"))
    with module.open(tmp_path / f"x.jsonl{suffix}", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert stripped(read(f"{tmp_path}/x.txt{suffix}")) == documents
    assert read(f"{tmp_path}/x.jsonl{suffix}") == documents


def test_patterns_and_folders_are_read_in_order(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(str(tmp_path)) == ["a.txt", "b/1.txt", "b/2.txt"]
    assert read(f"{tmp_path}/b/?.txt") == ["b/1.txt", "b/2.txt"]
    assert read(f"{tmp_path}/**/1.txt", f"{tmp_path}/a.txt") == ["b/1.txt", "a.txt"]


def test_small_files_share_an_item(tmp_path):
    for i in range(50):
        (tmp_path / f"{i:02d}.txt").write_text("a b c")
    assert len(plan_items([parse_source(str(tmp_path))], [])) == 1


def test_json_lines_give_the_named_field(rows, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", 10_000)
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert read(f"{path}#text=body") == documents


def test_rows_can_be_put_together_to_documents(tmp_path):
    path = tmp_path / "books.txt"
    path.write_text("\n".join(f"Sentence {i}." for i in range(10)))
    assert read(f"{path}#rows_per_document=4") == [
        "\n".join(f"Sentence {i}." for i in part) for part in (range(4), range(4, 8), range(8, 10))
    ]


@pytest.fixture(scope="module")
def disk_dataset(tmp_path_factory, rows) -> Path:
    from datasets import Dataset, DatasetDict

    path = tmp_path_factory.mktemp("disk")
    Dataset.from_list(rows).save_to_disk(path / "one")
    DatasetDict(train=Dataset.from_list(rows[:9]), test=Dataset.from_list(rows[9:])).save_to_disk(path / "two")
    return path


def test_a_saved_hugging_face_dataset_gives_its_rows(disk_dataset, documents, monkeypatch):
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", 10_000)
    assert read(f"{disk_dataset}/one") == documents
    assert read(f"{disk_dataset}/two#split=test,text=body") == documents[9:]
    joined = read(f"{disk_dataset}/one#rows_per_document=7")
    assert joined == ["\n".join(documents[i : i + 7]) for i in range(0, len(documents), 7)]


def test_a_streamed_hugging_face_dataset_gives_its_rows(tmp_path, rows, documents):
    (tmp_path / "set").mkdir()
    for name, part in (("a", rows[:100]), ("b", rows[100:])):
        (tmp_path / "set" / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    assert read(f"hf:{tmp_path}/set") == documents


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory, documents) -> Path:
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class TinyProse(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder  # where it would look for a description

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "title": tfds.features.Text()})
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, document in enumerate(documents):
                yield i, {"text": document, "title": str(i)}

    TinyProse(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_tensorflow_dataset_gives_its_rows(tfds_folder, documents, monkeypatch):
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", 10_000)
    found = read(f"tfds:tiny_prose:1.0.0#data_dir={tfds_folder}")
    assert sorted(found) == sorted(documents)  # TFDS shuffles as it writes


def test_sources_can_be_mixed(text_file, disk_dataset, documents):
    assert stripped(read(str(text_file), f"{disk_dataset}/one")) == documents + documents


def test_a_huge_document_is_cut_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 100)
    path = tmp_path / "x.txt"
    path.write_text("word é " * 60 + "\n" + "short line\n" * 20)
    (item,) = plan_items([parse_source(str(path))], [])
    reader = PieceReader(item.pieces[0])
    found = [document.decode() for document in reader]
    assert all(len(document.encode()) <= 110 for document in found)
    assert " ".join(" ".join(found).split()) == " ".join(path.read_text().split())
    assert reader.documents_cut >= len(found) - 1


FAULTS = {
    "a.txt": (b"fine\n\nbad \xff here\n", r"a\.txt, line 3: not UTF-8 \(byte 0xff\)"),
    "b.txt.xz": (lzma.compress(b"text " * 10_000)[:-40], r"b\.txt\.xz: corrupt or cut short"),
    "c.txt.gz": (gzip.compress(b"text " * 10_000)[:-20], r"c\.txt\.gz: corrupt or cut short"),
    "d.txt.gz": (b"no gzip at all", r"d\.txt\.gz: corrupt or cut short"),
    "e.jsonl": (
        b'{"text": "a"}\n{"body": "b"}\n',
        r"e\.jsonl, line 2: no text in field 'text', found fields b",
    ),
    "f.jsonl": (b'{"text": "a"}\n\n{"text": 3}\n', r"f\.jsonl, line 3: no text in field 'text'"),
    "g.jsonl": (b'{"text": "a"}\n[1]\n', r"g\.jsonl, line 2: no text in field 'text', found list"),
    "g2.jsonl": (b'{"text": "a \\ud800"}\n', r"g2\.jsonl, line 1: a lone surrogate"),
    "h.jsonl": (b"{\n", r"h\.jsonl, line 1: not JSON"),
    "i.txt": (b"", r"i\.txt': empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_file_names_file_and_line(tmp_path, name):
    content, message = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(str(tmp_path / name))


def test_line_numbers_count_from_the_start_of_a_file_that_was_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.MAX_ITEM_BYTES", 1000)
    monkeypatch.setattr("data.sources.MIN_ITEM_BYTES", 1000)
    path = tmp_path / "x.txt"
    path.write_bytes(b"a line of text\n\n" * 500 + b"bad \xfe\n")
    with pytest.raises(UserError, match=r"x\.txt, line 1,001: not UTF-8"):
        read(str(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/*.txt", "no such file, and no file matches"),
        ("hf:", "names no dataset"),
        ("tfds:#text=a", "names no dataset"),
        ("x.txt#column=a", "no option 'column'; there are text, split"),
        ("x.txt#rows_per_document=0", "rows_per_document is '0'"),
        ("x.txt#split=train", "option split means nothing for files"),
        ("hf:/nowhere/at/all", "cannot be opened"),
        ("tfds:no_such_dataset_here", "cannot be opened"),
    ],
)
def test_a_source_that_cannot_be_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        read(spec)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="the folder holds no files"):
        read(str(tmp_path))


def test_a_missing_column_names_those_there_are(disk_dataset):
    with pytest.raises(UserError, match=r"no column 'content', there are text, body, id"):
        read(f"{disk_dataset}/one#text=content")
    with pytest.raises(UserError, match=r"column 'id' holds int"):
        read(f"{disk_dataset}/one#text=id")
    with pytest.raises(UserError, match=r"no split 'dev', there are train, test"):
        read(f"{disk_dataset}/two#split=dev")
