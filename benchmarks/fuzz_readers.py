"""What `fuzz.py` throws damaged files at: every reader, a valid folder for it made on the spot, and ways to damage a
file that keep enough of its structure for the reader to go on. Needs nothing beyond the package, but for the readers
that need TensorFlow or torch themselves."""

import base64
import gzip
import importlib.util
import io
import json
import lzma
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Mutate = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader and the file that is damaged before it."""

    name: str
    file: str
    """below the reader's folder"""
    build: Callable[[Path], None]
    """writes a valid folder, that file in it included"""
    read: Callable[[Path], Any]
    """reads the folder, and uses what it got where reading alone does not show that it is sound"""
    mutate: Mutate | None = None
    """damages a file within its structure; None where bytes alone do"""
    needs: str | None = None
    """a package without which the reader is left out"""
    more_seeds: tuple[bytes, ...] = ()
    """other valid contents of the file"""

    @property
    def available(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


# ---- ways to damage a file

HOSTILE_NUMBERS = (0, 1, -1, 2, 3, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31)
HOSTILE_NUMBERS += (2**32, 2**40, 2**53, 2**63, 2**64)
HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "..",
    "../../x",
    "/etc/passwd",
    "/dev/zero",
    "\ufeff",
    "\x1b[31m",
    "a\nb",
    "\u2028",
    "\ud800",
    "\U0001f600",
    "½",
    "NaN",
    "1e400",
    "٣",
    "1_0",
    "[MASK]",
    "▁",
    "x" * 3000,
)
JSON_SCALARS = ("null", "true", "false", "NaN", "Infinity", "-Infinity", "-0", "1e308", "1e-400", "0.5", "{}", "[]")


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """One to three changes to the tree of a JSON document."""
    try:
        document = json.loads(data)
        raw: dict[str, str] = {}
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            document = _mutate_tree(rng, document, raw)
        text = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data)
    for name, spelled in raw.items():
        text = text.replace(f'"{name}"', spelled)
    return text.encode("utf-8", "surrogatepass")


def _mutate_tree(rng: random.Random, document: Any, raw: dict[str, str]) -> Any:
    places = _places(document)
    holder, key = rng.choice(places) if places else (None, None)
    if holder is None or rng.random() < 0.02:
        return _hostile_json(rng, document, raw)
    action = rng.randrange(7)
    if action == 0:
        del holder[key]
    elif action == 1:
        other, there = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[there]))
    elif action == 2 and isinstance(holder, dict):
        holder[rng.choice((*holder, *HOSTILE_TEXTS))] = holder.pop(key)
    elif action == 2:
        holder.extend(json.loads(json.dumps(holder[:50])))
    elif action == 3:
        value = holder[key]
        holder[key] = rng.choice(([value], {"a": value}, str(value)))
    else:
        holder[key] = _hostile_json(rng, holder[key], raw)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    found, waiting = [], [document]
    while waiting and len(found) < 5000:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def _hostile_json(rng: random.Random, value: Any, raw: dict[str, str]) -> Any:
    """Another value: of the same type, of another, or one that only text can spell."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((1, -1)) * rng.choice(HOSTILE_NUMBERS)
    if kind == 1:
        return rng.choice(HOSTILE_TEXTS)
    if kind == 2 and type(value) is int:
        return value + rng.choice((-1, 1))
    if kind == 2 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(HOSTILE_TEXTS) + value[at + rng.randrange(2) :]
    if kind == 3:
        name = f"@{len(raw)}@"
        depth = rng.choice((10, 900, 990, 2_000, 50_000))
        nested = rng.choice((("[", "]"), ('{"a":', "}")))
        raw[name] = rng.choice(("1" * 4000, "1" * 5000, "9" * 400 + ".0", nested[0] * depth + "1" + nested[1] * depth))
        return name
    return json.loads(rng.choice(JSON_SCALARS))


CELLS = (
    b"",
    b" ",
    b"\0",
    b"\r",
    b"\r\n",
    b"\n",
    b"\n\n",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b'"',
    b'""',
)
CELLS += (b"'", b",", b"\t", b"|", b"\x85", b"\xe2\x80\xa8", b"\xc2\xa0", b"nan", b"inf", b"-1", b"1e999", b"9" * 5000)
CELLS += (b"\x1b[31m", b"../x", b"-DOCSTART-", b"x" * 5000, b"O", b"B-", b"I-PER", b"entailment", b"0", b"1", b"2.5")


def mutate_rows(rng: random.Random, data: bytes) -> bytes:
    """One to three changes to the lines and cells of a table or of any other text in lines."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        end = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r"))
        lines = data.split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        separator = next((s for s in (b"\t", b",", b" ") if s in lines[i]), b" ")
        cells = lines[i].split(separator)
        k, action = rng.randrange(len(cells)), rng.randrange(9)
        if action == 0:
            del lines[i]
        elif action == 1:
            lines.insert(j, lines[i])
        elif action == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif action == 3:
            del cells[k]
        elif action == 4:
            cells.insert(k, rng.choice(CELLS))
        elif action == 5:
            other = lines[j].split(separator)
            cells[k] = rng.choice(other)
        elif action == 6:
            cut = rng.randrange(len(cells[k]) + 1)
            cells[k] = cells[k][:cut] + rng.choice(CELLS) + cells[k][cut:]
        elif action == 7:
            return end.join(lines)
        else:
            cells[k] = rng.choice(CELLS)
        if action >= 3:
            lines[i] = separator.join(cells)
        data = b"\n".join(lines)
    return data


def mutate_json_lines(rng: random.Random, data: bytes) -> bytes:
    """A change to one line's object, or to the lines."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    if rng.random() < 0.2:
        return mutate_rows(rng, data)
    lines[i] = mutate_json(rng, lines[i])
    return b"\n".join(lines)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes to bytes, which know of nothing."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        action = rng.randrange(5)
        if action == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            content[at:at] = rng.randbytes(rng.randint(1, 8))
        elif action == 2:
            del content[at : at + rng.randint(1, 64)]
        elif action == 3:
            number = rng.choice(HOSTILE_NUMBERS) & 0xFFFFFFFFFFFFFFFF
            content[at : at + 8] = number.to_bytes(8, rng.choice(("little", "big")))
        else:
            there = rng.randrange(len(content) + 1)
            content[at:at] = content[there : there + rng.randint(1, 64)]
    return bytes(content)


def mutate_sizes(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed at their places, so that the file keeps its length."""
    content = np.frombuffer(data, np.uint8).copy()
    for _ in range(rng.randint(1, 4) if len(content) >= 8 else 0):
        at = rng.randrange(len(content) - 7)
        number = rng.choice(HOSTILE_NUMBERS) & 0xFFFFFFFF
        width = rng.choice((1, 2, 4))
        content[at : at + width] = np.frombuffer(number.to_bytes(8, "little")[:width], np.uint8)
    return content.tobytes()


def mutate_protobuf(rng: random.Random, data: bytes) -> bytes:
    """A change to one field of a message, however deep."""
    fields = _parse_protobuf(data)
    if not fields:
        return mutate_bytes(rng, data)
    i = rng.randrange(len(fields))
    # The long list of pieces should not hide the few other fields.
    if rng.random() < 0.5:
        i = rng.choice([i for i, (number, _, _) in enumerate(fields) if number == rng.choice(fields)[0]] or [i])
    if rng.random() < 0.4:
        kinds = sorted({(number, kind) for number, kind, _ in fields})
        chosen = rng.choice(kinds)
        i = next(i for i, (number, kind, _) in enumerate(fields) if (number, kind) == chosen)
    number, kind, value = fields[i]
    action = rng.randrange(8)
    if action == 0:
        del fields[i]
    elif action == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[i])
    elif action == 2:
        fields[i] = (rng.choice((number, number + 1, 2**28)), kind, value)
    elif kind == 0:
        fields[i] = (number, 0, rng.choice((value + 1, max(0, value - 1), *(n % 2**64 for n in HOSTILE_NUMBERS))))
    elif kind == 2 and action == 3:
        hostile = rng.choice((*(text.encode("utf-8", "surrogatepass") for text in HOSTILE_TEXTS), b"\xff", b"\xc3"))
        fields[i] = (number, 2, hostile)
    elif kind == 2 and action == 4:
        fields[i] = (number, 2, mutate_bytes(rng, value))
    elif kind == 2 and action == 5:
        fields[i] = (number, 2, mutate_sizes(rng, value))
    elif kind == 2:
        fields[i] = (number, 2, mutate_protobuf(rng, value))
    else:
        fields[i] = (number, kind, rng.choice((rng.randbytes(len(value)), b"\0\0\xc0\x7f\0\0\xc0\x7f"[: len(value)])))
    return _write_protobuf(fields)


def _parse_protobuf(data: bytes) -> list[tuple[int, int, Any]]:
    """Fields of a message: number, wire type, value. [] for what is none."""
    fields: list[tuple[int, int, Any]] = []
    at = 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = _varint(data, at)
            elif kind == 2:
                size, at = _varint(data, at)
                value, at = data[at : at + size], at + size
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
            else:
                return []
            if at > len(data):
                return []
            fields.append((number, kind, value))
    except IndexError:
        return []
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def _write_protobuf(fields: list[tuple[int, int, Any]]) -> bytes:
    out = bytearray()
    for number, kind, value in fields:
        out += _written_varint(number << 3 | kind)
        if kind == 0:
            out += _written_varint(value)
        else:
            out += (_written_varint(len(value)) if kind == 2 else b"") + value
    return bytes(out)


def _written_varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A change to the header, mostly with its length put right, or to the numbers."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.1:
        return data[:8] + header + mutate_bytes(rng, body)
    header = mutate_json(rng, header)
    size = len(header) if rng.random() < 0.95 else rng.choice(HOSTILE_NUMBERS) % 2**64
    return size.to_bytes(8, "little") + header + body


def mutate_zip(rng: random.Random, data: bytes) -> bytes:
    """A change to one member of an archive, to its name, or to how it is stored."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        members = []
    if not members:
        return mutate_bytes(rng, data)
    i = rng.randrange(len(members))
    if rng.random() < 0.5:
        i = next((i for i, (name, _) in enumerate(members) if name.endswith("data.pkl")), i)
    name, content = members[i]
    action = rng.randrange(8)
    if action == 0:
        del members[i]
    elif action == 1:
        members.append((name, content))
    elif action == 2:
        members[i] = (rng.choice(("../x", "/tmp/x", name + "\0", name.upper())), content)
    else:
        members[i] = (name, mutate_bytes(rng, content) if action < 6 else mutate_sizes(rng, content))
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w", method) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return out.getvalue()


def mutate_compressed(kind: Any, inner: Mutate) -> Mutate:
    """A change to what a compressed file holds, or to the file."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        try:
            content = kind.decompress(data)
        except Exception:
            return mutate_bytes(rng, data)
        if rng.random() < 0.2:
            return mutate_bytes(rng, data)
        return kind.compress(inner(rng, content))

    return mutate


def mutate_tensorflow_index(rng: random.Random, data: bytes) -> bytes:
    """A change to a key or to an entry's message, in a table whose checksums are right."""
    entries = _table_entries(data)
    if not entries or rng.random() < 0.1:
        return mutate_bytes(rng, data)
    i = rng.choice((0, rng.randrange(len(entries))))
    key, value = entries[i]
    action = rng.randrange(8)
    if action == 0:
        del entries[i]
    elif action == 1:
        entries[i] = (rng.choice((key + b"x", b"", b"a" * 3000, b"\xff", b"../x")), value)
    elif action == 2:
        entries[i] = (key, rng.choice(entries)[1])
    else:
        entries[i] = (key, mutate_protobuf(rng, value))
    return _write_table(entries)


# LevelDB's table format, as far as TensorFlow's index files use it: uncompressed blocks of prefix-compressed keys, each
# with a masked CRC-32C behind, and a footer that says where the index block is.
_MAGIC = 0xDB4775248B80FB57


def _table_entries(data: bytes) -> list[tuple[bytes, bytes]]:
    try:
        if len(data) < 48 or int.from_bytes(data[-8:], "little") != _MAGIC:
            return []
        footer = data[-48:]
        _, at = _varint(footer, 0)
        _, at = _varint(footer, at)
        offset, at = _varint(footer, at)
        size, _ = _varint(footer, at)
        entries = []
        for _, handle in _block_entries(data[offset : offset + size]):
            start, at = _varint(handle, 0)
            length, _ = _varint(handle, at)
            entries += _block_entries(data[start : start + length])
        return entries
    except IndexError:
        return []


def _block_entries(block: bytes) -> list[tuple[bytes, bytes]]:
    stop = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key, entries = 0, b"", []
    while at < stop:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        entries.append((key, block[at + fresh : at + fresh + length]))
        at += fresh + length
    return entries


def _write_table(entries: list[tuple[bytes, bytes]]) -> bytes:
    def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
        out = b"".join(
            _written_varint(0) + _written_varint(len(key)) + _written_varint(len(value)) + key + value
            for key, value in pairs
        )
        return out + struct.pack("<II", 0, 1)

    def stored(content: bytes) -> bytes:
        checksum = _crc32c(content + b"\0")
        masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
        return content + b"\0" + struct.pack("<I", masked)

    def handle(offset: int, size: int) -> bytes:
        return _written_varint(offset) + _written_varint(size)

    data, nothing = block(entries), block([])
    index = block([(b"\xff", handle(0, len(data)))])
    out = stored(data)
    places = [(len(out), len(nothing))]
    out += stored(nothing)
    places.append((len(out), len(index)))
    out += stored(index)
    return out + b"".join(handle(*place) for place in places).ljust(40, b"\0") + struct.pack("<Q", _MAGIC)


@cache
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table


def _crc32c(data: bytes) -> int:
    table, value = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


# ---- what is read

SENTENCES = (
    "the cat sat on 1,999 mats.",
    "a café in “Zürich” was closed, she said",
    "he had 12, or 1,000 of them [MASK]",
)
QUESTION = {"id": "q1", "question": "who sat?", "answers": [{"text": "cat", "answer_start": 4}], "is_impossible": False}
ARTICLE = {
    "id": "high1.txt",
    "article": SENTENCES[0],
    "questions": ["who _ ?", "where"],
    "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
    "answers": ["A", "D"],
}


@cache
def small_model(rules: bool = False) -> bytes:
    """A SentencePiece model of ALBERT's kind; with `rules`, a small map of characters of its own."""
    import tempfile

    import sentencepiece

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)] + [
        "1,000",
        "1999,",
        "12,",
    ] * 30
    lines = [" ".join(rng.choices(words, k=10)) for _ in range(300)]
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        table.write("41\t61\n42\t62\nBD\t31 2044 32\nFB01\t66 69\n")
        table.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=80,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece="<pad>",
            unk_piece="<unk>",
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            minloglevel=2,
            **({"normalization_rule_tsv": table.name} if rules else {"normalization_rule_name": "identity"}),
        )
    return model.getvalue()


def _write(path: Path, content: bytes | str | dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def build_corpus(folder: Path) -> None:
    from albert_jax.inputs.corpus import ShardWriter, write_manifest

    records = {}
    for split in ("train", "held_out"):
        writer = ShardWriter(folder, f"{split}-00000")
        for document in range(6):
            tokens = (np.arange(20) * (document + 3) % 80).astype(np.uint16)
            writer.append(tokens, np.array([5, 7, 8]), np.array([2, 1]))
        records[split] = [writer.close()]
    tokenizer = {"fingerprint": "0" * 64, "vocab_size": 80}
    write_manifest(folder, shards=records, documents_left_out=0, tokenizer=tokenizer, build={"seed": 1})


def read_corpus(folder: Path) -> None:
    from albert_jax.errors import UserError
    from albert_jax.inputs.corpus import open_corpus

    for verify in (False, True):
        try:
            corpus = open_corpus(folder, "train", tokenizer_fingerprint=None, verify=verify)
        except UserError:
            if verify:
                raise
            continue
        for shard in corpus.shards:  # what the compiled readers of the offsets rely on
            assert shard.sentences[-1] == len(shard.tokens) and shard.documents[-1] == len(shard.sentences) - 1
            assert (np.diff(shard.sentences.astype(np.int64)) > 0).all()
            assert (np.diff(shard.documents.astype(np.int64)) > 0).all()


def use_tokenizer(tokenizer: Any) -> None:
    for text in SENTENCES:
        ids, offsets = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text) and len(offsets) == len(ids)
        tokenizer.decode(ids)
    tokenizer.encode_batch(SENTENCES)


def build_tokenizer(folder: Path) -> None:
    from albert_jax.tokenizer import AlbertTokenizer

    AlbertTokenizer(small_model(rules=True)).save(folder)


def read_tokenizer(folder: Path) -> None:
    from albert_jax.interop.tokenizer_json import load_tokenizer

    use_tokenizer(load_tokenizer(folder))


def build_tokenizer_json(folder: Path) -> None:
    from albert_jax.interop.tokenizer_json import save_tokenizer
    from albert_jax.tokenizer import AlbertTokenizer

    save_tokenizer(AlbertTokenizer(small_model(rules=True)), folder)
    (folder / "spiece.model").unlink()


def mutate_tokenizer_json(rng: random.Random, data: bytes) -> bytes:
    """As any JSON, or the character map within its base64."""
    try:
        document = json.loads(data)
        step = next(s for s in document["normalizer"]["normalizers"] if s["type"] == "Precompiled")
        if rng.random() < 0.5:
            character_map = base64.b64decode(step["precompiled_charsmap"])
            step["precompiled_charsmap"] = base64.b64encode(mutate_character_map(rng, character_map)).decode()
            return json.dumps(document).encode()
    except Exception:
        pass
    return mutate_json(rng, data)


def mutate_character_map(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((mutate_bytes, mutate_sizes))(rng, data)


def mutate_model(rng: random.Random, data: bytes) -> bytes:
    """As any message, or the character map of its normaliser."""
    fields = _parse_protobuf(data)
    if rng.random() < 0.3:
        for i, (number, kind, value) in enumerate(fields):
            if number == 3 and kind == 2:
                inner = _parse_protobuf(value)
                inner = [(n, k, mutate_character_map(rng, v) if (n, k) == (2, 2) else v) for n, k, v in inner]
                fields[i] = (number, kind, _write_protobuf(inner))
        return _write_protobuf(fields) if fields else mutate_bytes(rng, data)
    return mutate_protobuf(rng, data)


@cache
def small_network() -> tuple[Any, dict[str, np.ndarray]]:
    """A network's configuration, and its parameters as Hugging Face calls them."""
    import jax
    from flax.traverse_util import flatten_dict

    from albert_jax.config import AlbertConfig
    from albert_jax.interop.huggingface import to_huggingface
    from albert_jax.model import AlbertForPreTraining, initialize

    config = AlbertConfig(
        vocab_size=80,
        embedding_size=4,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    params = initialize(config, jax.random.key(0), AlbertForPreTraining)
    flat = {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    return config, to_huggingface(config, flat, bare=False)


def build_config(folder: Path) -> None:
    from albert_jax.interop.huggingface import config_values, write_config

    folder.mkdir(parents=True, exist_ok=True)
    config, _ = small_network()
    values = config_values(config, "AlbertForSequenceClassification", ("no", "yes"), "single_label_classification")
    write_config(folder / "config.json", values)


def build_safetensors(folder: Path) -> None:
    from albert_jax.interop.huggingface import write_weights

    build_config(folder)
    write_weights(folder / "model.safetensors", small_network()[1], "float32")


def build_sharded(folder: Path) -> None:
    from albert_jax.interop.huggingface import write_weights

    build_config(folder)
    tensors = sorted(small_network()[1].items())
    names = {}
    for part, some in enumerate((tensors[::2], tensors[1::2])):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        write_weights(folder / file, dict(some), "float32")
        names |= {name: file for name, _ in some}
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": names})


def build_torch(folder: Path) -> None:
    import torch

    build_config(folder)
    torch.save(
        {name: torch.tensor(tensor) for name, tensor in small_network()[1].items()}, folder / "pytorch_model.bin"
    )


def build_flax(folder: Path) -> None:
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    build_config(folder)
    tensors = {name.replace(".weight", ".kernel"): t for name, t in small_network()[1].items() if "group" in name}
    _write(folder / "flax_model.msgpack", msgpack_serialize(unflatten_dict(tensors, sep=".")))


def read_huggingface(folder: Path) -> None:
    from albert_jax.interop.huggingface import read_folder

    for value in read_folder(folder).parameters.values():
        assert value.dtype == np.float32
        value.sum()


def read_pretrained(folder: Path) -> None:
    from albert_jax.pretrained import AlbertForSequenceClassification

    AlbertForSequenceClassification.from_pretrained(folder, verbose=False)


def read_huggingface_config(folder: Path) -> None:
    from albert_jax.interop.huggingface import read_config

    read_config(folder / "config.json")


def build_google(folder: Path) -> None:
    import jax

    from albert_jax.interop.google import write_checkpoint
    from albert_jax.model import AlbertForPreTraining, initialize

    config, _ = small_network()
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder, config, initialize(config, jax.random.key(0), AlbertForPreTraining), step=3)


def read_google(folder: Path) -> None:
    from albert_jax.config import AlbertConfig
    from albert_jax.errors import UserError
    from albert_jax.interop.google import parameters_from_google, read_checkpoint

    config = AlbertConfig.from_json_file(folder / "albert_config.json")
    variables = read_checkpoint(folder)
    try:
        parameters_from_google(config, variables)
    except UserError as error:  # as `albert_jax.pretrained` does
        raise UserError(f"{folder}: {error}") from error


def read_json_config(folder: Path) -> None:
    from albert_jax.pretrained import _read_config

    _read_config(folder / "albert_config.json")


def read_config_class(folder: Path) -> None:
    from albert_jax.config import AlbertConfig

    AlbertConfig.from_json_file(folder / "albert_config.json")


def build_json_config(folder: Path) -> None:
    import dataclasses

    _write(folder / "albert_config.json", dataclasses.asdict(small_network()[0]))


GLUE_FILES = {
    "cola": ("CoLA/train.tsv", "gj04\t1\t\tthe cat sat\nbc\t0\t*\tsat cat the\n"),
    "mrpc": (
        "MRPC/msr_paraphrase_train.txt",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        "1\t12\t13\ta b\tb a\r\n0\t14\t15\tc\td\r\n1\t16\t17\te\tf\r\n",
    ),
    "stsb": ("STS-B/train.tsv", "index\tsentence1\tsentence2\tscore\n0\ta cat\ta dog\t2.5\n1\tb\tb\t5.000\n"),
    "qqp": ("QQP/train.tsv", "id\tquestion1\tquestion2\tis_duplicate\n0\twho\twhom\t1\n1\twhat\tnot\t0\n2\tshort\n"),
    "mnli": ("MNLI/train.tsv", "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\tc\td\tentailment\n"),
}


def glue_reader(task: str) -> Reader:
    def build(folder: Path) -> None:
        file, content = GLUE_FILES[task]
        _write(folder / file, content)
        if task == "mrpc":
            _write(folder / "MRPC/dev_ids.tsv", "14\t15\n")

    def read(folder: Path) -> None:
        from albert_jax.tasks.glue import read_glue

        with warnings.catch_warnings(action="ignore"):
            read_glue(task, "train", folder)

    return Reader(f"glue_{task}", GLUE_FILES[task][0], build, read, mutate_rows)


def build_dev_ids(folder: Path) -> None:
    _write(folder / "MRPC/msr_paraphrase_train.txt", GLUE_FILES["mrpc"][1])
    _write(folder / "MRPC/dev_ids.tsv", "14\t15\n12\t13\n")


def read_dev_ids(folder: Path) -> None:
    from albert_jax.tasks.glue import read_glue

    read_glue("mrpc", "dev", folder)


SQUAD = {"version": "v2.0", "data": [{"title": "Cats", "paragraphs": [{"context": SENTENCES[0], "qas": [QUESTION]}]}]}


def build_squad(folder: Path) -> None:
    _write(folder / "train-v2.0.json", SQUAD)


def build_squad_xz(folder: Path) -> None:
    _write(folder / "train-v2.0.json.xz", lzma.compress(json.dumps(SQUAD).encode()))


def read_squad_folder(folder: Path) -> None:
    from albert_jax.tasks.squad import open_squad

    open_squad("2.0", "train", folder)


def build_race(folder: Path) -> None:
    _write(folder / "RACE/train/middle/1.txt", ARTICLE)


def build_race_all(folder: Path) -> None:
    _write(folder / "RACE/train/middle/all.txt", f"{json.dumps(ARTICLE)}\n{json.dumps(ARTICLE)}\n")


def read_race_folder(folder: Path) -> None:
    from albert_jax.tasks.race import read_race

    read_race(folder, "train", ["middle"])


def build_dream(folder: Path) -> None:
    question = {"question": "who?", "choice": ["he", "she", "it"], "answer": "she"}
    _write(folder / "train.json", [[["W: hello", "M: bye"], [question], "4-1"], [["x"], [question, question], "4-2"]])


def read_dream_folder(folder: Path) -> None:
    from albert_jax.tasks.race import open_dream

    open_dream("train", folder)


def build_swag(folder: Path) -> None:
    header = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    _write(folder / "train.csv", header + '0,v,1,"a b","a",b,gold,"x, ""y""",e1,e2,e3,0\n1,v,2,c d,c,d,gen,1,2,3,4,3\n')


def read_swag_folder(folder: Path) -> None:
    from albert_jax.tasks.race import open_swag

    open_swag("train", folder)


TABLES = {
    "csv": [
        'text,label\n"a, b",x\n"c\nd",y\n',
        'id,question,context,answer,answer_start\n1,who,"a cat",cat,2\n2,q,c,,\n',
    ],
    "tsv": [
        "words\ttags\na b\tO B-X\nc\tO\n",
        "text\tchoice0\tchoice1\tlabel\nt\ta\tb\tB\n",
        "text\tlabel\na\t1.5\nb\t2\n",
    ],
    "jsonl": [
        '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n',
        '{"question": "q", "context": "a b", "answers": {"text": ["b"], "answer_start": [2]}}\n',
        '{"id": 1, "text": "a", "pair": "b", "label": true}\n{"id": 2, "text": "c", "pair": "d", "label": false}\n',
        '{"words": ["a", "b"], "tags": ["O", "B-X"]}\n',
        '{"text": "t", "choices": ["a", "b"], "label": "A"}\n',
    ],
    "json": ['[{"text": "a", "label": 1.5}, {"text": "b", "label": 2}]', '{"text": "a", "labels": ["x"]}\n'],
}


def table_reader(suffix: str) -> Reader:
    def build(folder: Path) -> None:
        _write(folder / f"train.{suffix}", TABLES[suffix][0])

    def read(folder: Path) -> None:
        from albert_jax.tasks.table import read_table

        read_table(folder / f"train.{suffix}")

    mutate = {"jsonl": mutate_json_lines, "json": mutate_json}.get(suffix, mutate_rows)
    seeds = tuple(text.encode() for text in TABLES[suffix])
    return Reader(f"table_{suffix}", f"train.{suffix}", build, read, mutate, more_seeds=seeds)


CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP B-MISC\n\nPeter NNP I-NP I-PER\n"


def build_conll(folder: Path) -> None:
    _write(folder / "eng.train", CONLL)


def read_conll_folder(folder: Path) -> None:
    from albert_jax.tasks.tagging import open_conll

    open_conll("train", folder)


TEXT = "First line.\nSecond line.\n\nAnother document.\n\n\nA third,\r\nof two lines\n"
TEXT_LINES = '{"text": "a document\\nof two lines"}\n{"text": "b"}\n\n{"text": "c", "more": [1, {"a": null}]}\n'


def text_reader(name: str, file: str, content: bytes, mutate: Mutate) -> Reader:
    def build(folder: Path) -> None:
        _write(folder / file, content)

    def read(folder: Path) -> None:
        from dataclasses import replace

        from data.readers import PieceReader
        from data.sources import is_compressed, parse_source, whole_pieces

        options = ("",) if ".json" in file else ("", "#rows_per_document=2")
        for option in options:
            for piece in whole_pieces(parse_source(f"{folder / file}{option}")):
                whole = list(PieceReader(piece))
                for document in whole:
                    document.decode()
                if is_compressed(file):
                    continue
                middle = piece.stop // 2
                for start, stop in ((0, middle), (middle, piece.stop)):
                    list(PieceReader(replace(piece, start=start, stop=stop)))

    return Reader(name, file, build, read, mutate)


READERS = {
    reader.name: reader
    for reader in (
        Reader("corpus_manifest", "manifest.json", build_corpus, read_corpus, mutate_json),
        *(
            Reader(f"corpus_{part}", f"train-00000.{part}", build_corpus, read_corpus, mutate_sizes)
            for part in ("tokens", "sentences", "documents")
        ),
        Reader("spiece_model", "spiece.model", build_tokenizer, read_tokenizer, mutate_model),
        Reader("tokenizer_config", "tokenizer_config.json", build_tokenizer, read_tokenizer, mutate_json),
        Reader("tokenizer_json", "tokenizer.json", build_tokenizer_json, read_tokenizer, mutate_tokenizer_json),
        Reader("config_json", "config.json", build_config, read_huggingface_config, mutate_json),
        Reader("albert_config", "albert_config.json", build_json_config, read_json_config, mutate_json),
        Reader("albert_config_alone", "albert_config.json", build_json_config, read_config_class, mutate_json),
        Reader("safetensors", "model.safetensors", build_safetensors, read_huggingface, mutate_safetensors),
        Reader("safetensors_index", "model.safetensors.index.json", build_sharded, read_huggingface, mutate_json),
        Reader("torch", "pytorch_model.bin", build_torch, read_huggingface, mutate_zip, needs="torch"),
        Reader("flax", "flax_model.msgpack", build_flax, read_huggingface),
        Reader("pretrained", "config.json", build_safetensors, read_pretrained, mutate_json),
        Reader(
            "tensorflow_index",
            "model.ckpt-best.index",
            build_google,
            read_google,
            mutate_tensorflow_index,
            needs="tensorflow",
        ),
        Reader(
            "tensorflow_data",
            "model.ckpt-best.data-00000-of-00001",
            build_google,
            read_google,
            mutate_sizes,
            needs="tensorflow",
        ),
        Reader("tensorflow_state", "checkpoint", build_google, read_google, mutate_rows, needs="tensorflow"),
        *map(glue_reader, GLUE_FILES),
        Reader("glue_dev_ids", "MRPC/dev_ids.tsv", build_dev_ids, read_dev_ids, mutate_rows),
        Reader("squad", "train-v2.0.json", build_squad, read_squad_folder, mutate_json),
        Reader(
            "squad_xz", "train-v2.0.json.xz", build_squad_xz, read_squad_folder, mutate_compressed(lzma, mutate_json)
        ),
        Reader("race", "RACE/train/middle/1.txt", build_race, read_race_folder, mutate_json),
        Reader("race_all", "RACE/train/middle/all.txt", build_race_all, read_race_folder, mutate_json_lines),
        Reader("dream", "train.json", build_dream, read_dream_folder, mutate_json),
        Reader("swag", "train.csv", build_swag, read_swag_folder, mutate_rows),
        *map(table_reader, TABLES),
        Reader("conll", "eng.train", build_conll, read_conll_folder, mutate_rows),
        text_reader("text", "text.txt", TEXT.encode(), mutate_rows),
        text_reader("text_gz", "text.txt.gz", gzip.compress(TEXT.encode()), mutate_compressed(gzip, mutate_rows)),
        text_reader("text_xz", "text.txt.xz", lzma.compress(TEXT.encode()), mutate_compressed(lzma, mutate_rows)),
        text_reader("text_jsonl", "text.jsonl", TEXT_LINES.encode(), mutate_json_lines),
    )
}
