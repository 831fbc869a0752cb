"""Damaged and hostile files before every reader: cases that benchmarks/fuzz.py or an audit found, what is no file at
all, and a short random run. A reader accepts a file or refuses it with a message that names it; nothing else happens.
"""

import ast
import base64
import json
import lzma
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fuzz_worker
from fuzz_readers import READERS, Reader, mutate_bytes, small_model
from fuzz_worker import Trial

from albert_jax.config import AlbertConfig
from albert_jax.errors import LONGEST_MESSAGE, UserError
from albert_jax.interop import huggingface, tensor_bundle
from albert_jax.interop.google import checkpoint_prefix
from albert_jax.pretrained import AlbertModel
from albert_jax.tasks import squad
from albert_jax.tasks.datasets import open_dataset, require_no_code
from albert_jax.tasks.table import read_table
from albert_jax.tokenizer import AlbertTokenizer

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.faults

SLOW = {"pretrained": 3, "tensorflow_index": 40, "torch": 40}
"""Random files of readers that take long for each; of the others there are more."""


@pytest.fixture(params=READERS)
def reader(request) -> Reader:
    reader = READERS[request.param]
    if not reader.available:
        pytest.skip(f"needs {reader.needs}")
    return reader


@pytest.fixture(scope="session")
def valid_folders(tmp_path_factory):
    """A valid folder of a reader, made once."""
    made: dict[str, Path] = {}

    def folder(reader: Reader) -> Path:
        if reader.name not in made:
            made[reader.name] = tmp_path_factory.mktemp(reader.name)
            reader.build(made[reader.name])
        return made[reader.name]

    return folder


@pytest.fixture
def folder(reader, valid_folders, tmp_path) -> Path:
    return shutil.copytree(valid_folders(reader), tmp_path / "folder")


def read(reader: Reader, folder: Path) -> str | None:
    """The message it refuses with, None if it accepts."""
    try:
        reader.read(folder)
    except UserError as error:
        assert str(folder) in str(error)
        assert len(str(error)) <= LONGEST_MESSAGE
        return str(error)
    return None


def refusal(name: str, folder: Path, content: bytes | str) -> str:
    """The message that a reader refuses a content of its file with."""
    reader = READERS[name]
    if not reader.available:
        pytest.skip(f"needs {reader.needs}")
    reader.build(folder)
    (folder / reader.file).write_bytes(content.encode() if isinstance(content, str) else content)
    message = read(reader, folder)
    assert message is not None, "was accepted"
    assert message.count("\n") < 5
    return message


@contextmanager
def at_most(seconds: int):
    """What waits without end is interrupted."""

    def interrupt(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_every_valid_file_is_accepted(reader, folder):
    for content in ((folder / reader.file).read_bytes(), *reader.more_seeds):
        (folder / reader.file).write_bytes(content)
        assert read(reader, folder) is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nothing"])
def test_what_is_no_file_is_neither_waited_for_nor_read(reader, folder, kind):
    path = folder / reader.file
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    with at_most(60):
        message = read(reader, folder)
    # A tokenizer's settings may be missing, and a link that leads nowhere is a missing file.
    optional = reader.name == "tokenizer_config" and kind in ("loop", "nothing")
    # Beside its state file a TensorFlow checkpoint is found by its name.
    optional |= reader.name == "tensorflow_state"
    assert message is not None or optional


def test_random_damage_is_accepted_or_refused_by_name(reader, folder):
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    valid = [(folder / reader.file).read_bytes(), *reader.more_seeds]

    @hypothesis.settings(
        max_examples=SLOW.get(reader.name, 60), deadline=None, derandomize=True, database=None, print_blob=False
    )
    @hypothesis.given(
        start=strategies.sampled_from(valid),
        seed=strategies.integers(0, 2**32),
        times=strategies.integers(1, 3),
        text=strategies.one_of(strategies.none(), strategies.binary(max_size=60), strategies.text(max_size=30)),
        at=strategies.integers(0, 2**16),
    )
    def holds(start, seed, times, text, at):
        content, rng = start, random.Random(seed)
        for _ in range(times):
            content = (reader.mutate or mutate_bytes)(rng, content)
        if text is not None:
            piece = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
            content = content[: at % (len(content) + 1)] + piece + content[at % (len(content) + 1) :]
        (folder / reader.file).write_bytes(content)
        with at_most(60):
            read(reader, folder)

    holds()


# ---- found cases: JSON

DEEP = "[" * 50_000
HUGE, DIGITS = "9" * 4000, "9" * 5000
"""Whole numbers that Python reads, and that it does not"""


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if ".json" in reader.file])
@pytest.mark.parametrize("content", [DEEP, f'{{"a": {DIGITS}}}', "\ud800", "\ufeff\ufeff{}", "", "null", "[]", "NaN"])
def test_json_of_no_use_is_refused(name, content, tmp_path):
    encoded = content.encode("utf-8", "surrogatepass")
    if READERS[name].file.endswith(".xz"):
        encoded = lzma.compress(encoded)
    refusal(name, tmp_path, encoded)


@pytest.mark.parametrize("value", ["1e400", HUGE, "NaN", "true", '"4"', "[[[[]]]]", "-1", "0"])
@pytest.mark.parametrize("field", ["hidden_dropout_prob", "hidden_size", "layer_norm_eps"])
def test_a_configuration_beyond_all_bounds_is_refused_by_file_and_field(value, field, tmp_path):
    path = tmp_path / "albert_config.json"
    path.write_text(f'{{"{field}": {value}}}')
    if (value, field) == ("0", "hidden_dropout_prob"):
        assert AlbertConfig.from_json_file(path).hidden_dropout_prob == 0.0
        return
    with pytest.raises(UserError, match=r"albert_config\.json: "):
        AlbertConfig.from_json_file(path)


@pytest.mark.parametrize("sizes", [{"vocab_size": 2**40}, {"vocab_size": 10**300}, {"intermediate_size": 2**50}])
def test_no_memory_is_taken_for_a_network_that_only_its_configuration_has(sizes, tmp_path):
    READERS["safetensors"].build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | sizes
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = huggingface.read_weights(tmp_path)[1]
    kept = {name: t for name, t in tensors.items() if "attention" in name}
    huggingface.write_weights(tmp_path / "model.safetensors", kept, "float32")
    with pytest.raises(UserError, match="its configuration does not belong to its weights"):
        AlbertModel.from_pretrained(tmp_path, verbose=False)


@pytest.mark.parametrize("answers", ["7", "true", "1.5", '"A"', "{}"])
def test_answers_that_are_no_list_are_refused(answers, tmp_path):
    article = f'{{"article": "a", "questions": ["q"], "options": [["a", "b", "c", "d"]], "answers": {answers}}}'
    assert "expected article, questions, options and answers" in refusal("race", tmp_path, article)


# ---- found cases: tables


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("table_csv", f"question,context,answer,answer_start\nq,a b,b,{DIGITS}\n", "expected a whole number"),
        ("table_tsv", f"text\tchoice{DIGITS}\tchoice1\tlabel\nt\ta\tb\t1\n", "no column choices0"),
        ("swag", '"' + "a\n" * 1000 + '"\n', "no column startphrase"),
        ("conll", f"word {'x' * 5000} O\nword O\n", "2 columns, expected 3"),
    ],
)
def test_cells_beyond_all_bounds_are_refused(name, content, expected, tmp_path):
    assert expected in refusal(name, tmp_path, content)


@pytest.mark.parametrize("label", [HUGE, "NaN", "Infinity", "true", "null", "[]"])
def test_an_amount_that_is_none_is_refused(label, tmp_path):
    (tmp_path / "train.jsonl").write_text(f'{{"text": "a", "label": 1.5}}\n{{"text": "b", "label": {label}}}\n')
    with pytest.raises(UserError, match=r"train\.jsonl, line 2, column 'label': "):
        read_table(tmp_path / "train.jsonl", kind="regression")


def test_labels_of_thousands_of_digits_are_labels(tmp_path):
    reader = READERS["table_tsv"]
    (tmp_path / reader.file).write_text(f"text\tlabel\na\t{DIGITS}\nb\t1\n")
    assert read(reader, tmp_path) is None


# ---- found cases: tokenizers


def test_a_vocabulary_with_pieces_that_are_no_text_is_refused(tmp_path):
    broken = small_model().replace("▁".encode(), b"\xe2\x96\x41", 1)
    assert "has a piece that is no text" in refusal("spiece_model", tmp_path, broken)


@pytest.mark.parametrize("noise", range(8))
def test_a_broken_character_map_does_not_end_the_process(noise, tmp_path):
    reader = READERS["tokenizer_json"]
    reader.build(tmp_path)
    content = json.loads((tmp_path / reader.file).read_text())
    step = next(s for s in content["normalizer"]["normalizers"] if s["type"] == "Precompiled")
    character_map = bytearray(base64.b64decode(step["precompiled_charsmap"]))
    rng = random.Random(noise)
    for _ in range(20):  # behind the length of the trie that it begins with
        character_map[rng.randrange(4, len(character_map))] = rng.randrange(256)
    step["precompiled_charsmap"] = base64.b64encode(character_map).decode()
    (tmp_path / reader.file).write_text(json.dumps(content))
    read(reader, tmp_path)


# ---- found cases: what is larger than it seems, or leads elsewhere


def test_a_compressed_file_is_unpacked_only_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(squad, "MAX_FILE_BYTES", 2**20)
    packed = lzma.compress(b"[" + b" " * 2**22)
    assert len(packed) < 2**11
    assert "unpacks to more than 1,048,576 bytes" in refusal("squad_xz", tmp_path, packed)


def test_a_large_configuration_is_not_read(tmp_path):
    for name in ("config_json", "albert_config", "safetensors_index", "corpus_manifest", "tokenizer_config"):
        (tmp_path / name).mkdir()
        reader = READERS[name]
        reader.build(tmp_path / name)
        os.truncate(tmp_path / name / reader.file, 2**34)  # a hole, which takes no place on the disk
        assert "more than such a file ever has" in read(reader, tmp_path / name)


def test_a_compressed_torch_file_is_refused(tmp_path):
    reader = READERS["torch"]
    if not reader.available:
        pytest.skip("needs torch")
    reader.build(tmp_path)
    with zipfile.ZipFile(tmp_path / reader.file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(tmp_path / reader.file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    assert "it is compressed" in read(reader, tmp_path)


def test_a_torch_that_executes_files_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    reader = READERS["torch"]
    reader.build(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "install torch 2.6 or newer" in read(reader, tmp_path)


@pytest.mark.parametrize("spelled", ["{outside}", "../outside/model.ckpt", "sub/../../outside/model.ckpt", "", "\\000"])
def test_a_state_file_leads_nowhere_else(spelled, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
    (outside / "model.ckpt.index").touch()
    name = spelled.format(outside=outside / "model.ckpt")
    (inside / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    with pytest.raises(UserError, match=r"checkpoint: names .*, which is not there"):
        checkpoint_prefix(inside)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(*entries: tuple[bytes, bytes], restart: int = 0) -> bytes:
    pairs = b"".join(b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return pairs + struct.pack("<II", restart, 1)


def table(entry: bytes, restart: int = 0, keys: tuple[bytes, bytes] = (b"", b"variable")) -> bytes:
    """TensorFlow's index with a header and one variable."""
    data = block((keys[0], b"\x08\x01"), (keys[1], entry), restart=restart)
    index = block((b"w", varint(0) + varint(len(data))))
    footer = varint(0) + varint(8) + varint(len(data) + 5) + varint(len(index))
    magic = struct.pack("<Q", tensor_bundle.MAGIC)
    return data + bytes(5) + index + bytes(5) + footer.ljust(40, b"\0") + magic


def entry(shape: tuple[int, ...] = (2, 3), dtype: int = 1, size: int = 24, offset: int = 0, shard: int = 0) -> bytes:
    dimensions = [b"\x08" + varint(n % 2**64) for n in shape]
    message = b"".join(b"\x12" + varint(len(d)) + d for d in dimensions)
    fields = b"\x08" + varint(dtype) + b"\x12" + varint(len(message)) + message
    return fields + b"\x18" + varint(shard) + b"\x20" + varint(offset) + b"\x28" + varint(size) + b"\x35abcd"


@pytest.fixture
def data_file(tmp_path) -> Path:
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(bytes(24))
    return path


def test_a_sound_index_of_tensorflow_is_accepted(tmp_path, data_file):
    (tmp_path / "model.ckpt.index").write_bytes(table(entry()))
    tensor_bundle.require_sound_index(tmp_path / "model.ckpt.index", [data_file])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(entry(shape=(2**31, 2**31), size=2**64 - 4)), "needs .* bytes and has"),
        (table(entry(shape=(-1,))), "impossible shape"),
        (table(entry(shape=(1,) * 300, size=4)), "impossible shape"),
        (table(entry(dtype=7, shape=(2**40,))), "needs .* bytes and has 24"),
        (table(entry(dtype=20)), "type 20, which is none of numbers or texts"),
        (table(entry(shard=1)), "is in data file 1 of 1"),
        (table(entry()[:-2]), "cut short"),
        (table(entry() + b"\x3a\x00"), "is partitioned, which is not read; save it whole"),
        (table(entry() + b"\x42\x00"), "has field 8"),
        (table(b"\x0b", keys=(b"", b"")), "field of wire type 3"),
        (table(entry(), keys=(b"a", b"b")), "its first entry is no header"),
        (table(b"\x12\x07\x12\x05\x08\x06\x12\x01\xff" + entry(shape=())), "can't decode"),
        (table(entry() + b"\x88\x80\x80\x80\x80\x00\x01"), "a number is too long"),
        (table(entry(), restart=3), "can be entered between its entries"),
        (table(entry())[:-1], "no table's footer"),
        (b"", "no table's footer"),
        (bytes(40) + struct.pack("<Q", tensor_bundle.MAGIC), "leads out of the file"),
    ],
)
def test_an_index_at_which_tensorflow_would_end_the_process_is_refused(content, message, tmp_path, data_file):
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.ckpt\.index: damaged.*{message}"):
        tensor_bundle.require_sound_index(path, [data_file])


@pytest.mark.parametrize("behind", [dict(offset=1), dict(shape=(2**20, 2**20), size=2**42)])
def test_a_tensor_that_ends_behind_its_data_file_names_that(behind, tmp_path, data_file):
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(table(entry(**behind)))
    with pytest.raises(UserError, match=f"{data_file}: .* cannot be read: it ends at byte .*; the file is truncated"):
        tensor_bundle.require_sound_index(path, [data_file])


def test_a_dataset_folder_that_names_a_module_is_refused(tmp_path):
    folder = tmp_path / "set" / "1.0.0"
    folder.mkdir(parents=True)
    features = {"pythonClassName": "this.Feature", "featuresDict": {"features": {}}}
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "dataset_info.json").write_text(json.dumps({"name": "set", "version": "1.0.0", "splits": []}))
    sys.modules.pop("this", None)
    with pytest.raises(UserError, match=r"features\.json: names the class this\.Feature"):
        open_dataset(f"tfds:set#data_dir={tmp_path}", "train", usual="set")
    assert "this" not in sys.modules


def test_a_dataset_in_a_community_namespace_is_refused():
    with pytest.raises(UserError, match="whose code would be fetched and executed"):
        open_dataset("tfds:someone:set", "train", usual="glue")


@pytest.mark.parametrize(
    ("name", "message"),
    [("set/data_dir=elsewhere", "data_dir cannot be part of the name"), ("a b", "is not a dataset's name")],
)
def test_a_name_that_says_more_than_the_dataset_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        require_no_code(name, None)


@pytest.mark.parametrize("name", ["set", "set:1.0.0", "set/config", "set/config.2:1.0.0", "set:1.*.*"])
def test_a_dataset_may_be_named_with_its_version(name):
    require_no_code(name, None)


# ---- code


PROGRAM = [path for folder in ("albert_jax", "data") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_executes_what_a_file_holds(path):
    """But `albert_jax.config`, which executes the configuration that the user wrote."""
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "tarfile", "code", "runpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
            assert node.attr == "UnpicklingError"  # torch's refusal
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
            assert not called.endswith((".extractall", ".extract", ".unpack_archive"))
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert "trust_remote_code" not in keywords
            if called in {"torch.load", "np.load", "numpy.load"}:
                assert keywords.get("weights_only") == "True" or called != "torch.load"
                assert "allow_pickle" not in keywords
            assert not called.endswith("exec_module") or path.name == "config.py"


# ---- messages


def test_a_message_commands_no_terminal_and_ends(tmp_path):
    message = refusal("glue_cola", tmp_path, f"id\t\x1b[31m{'9' * 5000}\t\tsentence\n")
    assert "\x1b" not in message
    assert "\\x1b[31m" in message
    assert len(message) <= LONGEST_MESSAGE
    assert "expected" in message or "cola has" in message  # the end of it, which says what to do


def test_offsets_that_do_not_increase_are_refused_without_reading_the_tokens(tmp_path):
    READERS["corpus_sentences"].build(tmp_path)
    path = tmp_path / READERS["corpus_sentences"].file
    offsets = np.fromfile(path, "<u4")
    offsets[1] = 2**32 - 1
    offsets.tofile(path)
    assert "offsets do not increase" in read(READERS["corpus_sentences"], tmp_path)


def test_a_model_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(small_model()[:-1])
    with pytest.raises(UserError, match=r"spiece\.model: not a SentencePiece model"):
        AlbertTokenizer.from_file(path)


# ---- that the fuzzer would see it


def loops(folder: Path) -> None:
    start = time.process_time()
    while time.process_time() - start < 0.6:
        pass


def refuses(message: str):
    def read(folder: Path) -> None:
        raise UserError(message.format(folder=folder))

    return read


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda folder: None, None),
        (refuses("{folder}/file: is empty"), None),
        (refuses("is empty"), "message does not name the file"),
        (lambda folder: {}["key"], "KeyError"),
        (lambda folder: sys.exit(0), "SystemExit"),
        (lambda folder: (folder.parent / "other").read_text(), "opens .*other"),
        (lambda folder: (folder / ".." / "other").read_text(), "opens .*other"),
        (lambda folder: (folder / "new").write_text("x"), "writes .*new"),
        (lambda folder: (folder / "new").mkdir(), "os.mkdir"),
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: pickle.loads(b"cos\nsystem\n."), "pickle.find_class"),
        (loops, "takes long"),
    ],
)
def test_the_fuzzer_sees_what_a_reader_must_not_do(fault, found, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_worker, "MOST_SECONDS", 0.5)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "other").write_text("not for readers")

    def read(folder: Path) -> None:
        if (folder / "file").read_bytes() == b"damaged":
            fault(folder)

    trial = Trial(Reader("sample", "file", lambda folder: (folder / "file").touch(), read), folder)
    _, wrong = trial.run(b"damaged")
    assert wrong is None if found is None else re.search(found, wrong)


def test_the_fuzzer_sees_memory_that_is_taken(tmp_path):
    trial = Trial(Reader("sample", "file", lambda folder: (folder / "file").touch(), lambda folder: None), tmp_path)
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory cannot be reset here")
    assert trial.memory_grown() < 2**26
    np.ones(2**26).sum()
    assert trial.memory_grown() > 2**28  # of 512 MiB


def test_a_reader_is_fuzzed_from_the_command_line(tmp_path):
    pytest.importorskip("atheris")
    script = ROOT / "benchmarks" / "fuzz.py"
    options = ["--inputs", "500", "--readers", "conll", "--folder", "fuzz", "--output", "fuzz.json"]
    done = subprocess.run(
        [sys.executable, str(script), *options], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = json.loads((tmp_path / "fuzz.json").read_text())["readers"]
    assert result["inputs"] >= 500
    assert 0 < result["refused"] < result["inputs"]
    assert result["edges"] > result["edges_of_valid"] > 0
