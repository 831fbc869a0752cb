"""Where text comes from: parses what the user wrote, lists the files or rows behind it, and cuts them into
pieces.

A piece is what one worker reads from start to end: a file, a range of a large file, a range of rows. Pieces
depend on the sources alone, never on how many workers there are; `data/readers.py` reads them.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from albert_jax.errors import UserError

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
COMPRESSED_SUFFIXES = (".gz", ".xz")
# What a compressed byte is worth in text, for sharing out work and for the check of the disk. English in xz.
COMPRESSION = 3
MAX_ITEM_BYTES, MIN_ITEM_BYTES, USUAL_ITEMS = 64 << 20, 2 << 20, 64


@dataclass(frozen=True)
class Source:
    """One source as the user wrote it, `KIND:NAME#option=value,...`, taken apart.

    kind: "files", "hf" (Hugging Face hub or a folder it loads), "disk" (a `save_to_disk` folder) or "tfds".
    text: the JSON field or the column that holds the text.
    rows_per_document: 0: a row (or what stands between blank lines) is a document. N: so many rows or lines
    in a row are.
    """

    spec: str
    kind: str
    name: str
    config: str | None = None
    text: str = "text"
    split: str = "train"
    revision: str | None = None
    data_dir: str | None = None
    rows_per_document: int = 0


OPTIONS = {"text": str, "split": str, "revision": str, "data_dir": str, "rows_per_document": int}


@dataclass(frozen=True)
class Piece:
    """What one worker reads from start to end.

    path: the file, for files. start, stop: bytes of a file, rows of a dataset, or which shard of how many of
    a stream.
    size: bytes at the source, for progress; 0 if unknown. text_bytes: about how much text that is.
    """

    source: Source
    path: str = ""
    start: int = 0
    stop: int = 0
    size: int = 0
    text_bytes: int = 0


@dataclass(frozen=True)
class Item:
    """Pieces that one worker encodes into shards of their own.

    Where `split` is None the hash of each document decides.
    """

    number: int
    split: str | None
    pieces: tuple[Piece, ...] = field(default_factory=tuple)

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


def parse_source(spec: str) -> Source:
    """Reads `path`, `hf:name[:config]` or `tfds:name`, with `#option=value,...` behind. Raises UserError."""
    body, options = spec, {}
    if match := re.fullmatch(r"(.*)#(\w+=.*)", spec, re.DOTALL):
        body = match[1]
        options = dict(_parse_option(part, spec) for part in match[2].split(","))
    kind, _, name = body.partition(":")
    if kind in ("hf", "tfds"):
        config = None
        if kind == "hf" and ":" in name:
            name, config = name.rsplit(":", 1)
        if not name:
            raise UserError(f"source {spec!r} names no dataset; write {kind}:NAME")
        return Source(spec, kind, name, config, **options)
    if not body:
        raise UserError(f"source {spec!r} names no file; write a path, hf:NAME or tfds:NAME")
    path = Path(body).expanduser()
    is_disk = path.is_dir() and any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    if not is_disk and (unused := options.keys() & {"split", "revision", "data_dir"}):
        raise UserError(f"source {spec!r}: option {min(unused)} means nothing for files")
    return Source(spec, "disk" if is_disk else "files", str(path), **options)


def _parse_option(part: str, spec: str) -> tuple[str, Any]:
    key, _, value = part.partition("=")
    if key not in OPTIONS:
        raise UserError(f"source {spec!r}: no option {key!r}; there are {', '.join(OPTIONS)}")
    if key == "rows_per_document":
        if not value.isascii() or not value.isdigit() or int(value) == 0:
            raise UserError(f"source {spec!r}: rows_per_document is {value!r}, expected a number above 0")
        return key, int(value)
    return key, value


def list_files(source: Source) -> list[tuple[str, int]]:
    """The files of a "files" source with their bytes, sorted by name. Raises UserError if there is none."""
    path = Path(source.name)
    if path.is_dir():
        found = (p for p in path.rglob("*") if not any(part[0] == "." for part in p.relative_to(path).parts))
    elif path.exists():
        found = iter([path])
    else:
        found = map(Path, glob.iglob(source.name, recursive=True))
    try:
        files = sorted((str(p), p.stat().st_size) for p in found if p.is_file())
    except OSError as error:
        raise UserError(f"source {source.spec!r}: {error.filename}: {error.strerror}") from None
    if not files:
        what = "the folder holds no files" if path.is_dir() else "no such file, and no file matches it as a pattern"
        raise UserError(f"source {source.spec!r}: {what}")
    if not any(size for _, size in files):
        raise UserError(f"source {source.spec!r}: empty, its {len(files):,} file(s) hold 0 bytes")
    return [(name, size) for name, size in files if size]


def is_json(path: str) -> bool:
    return _suffix(path) in JSON_SUFFIXES


def is_compressed(path: str) -> bool:
    return Path(path).suffix in COMPRESSED_SUFFIXES


def _suffix(path: str) -> str:
    path = Path(path)
    return Path(path.stem).suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix


def plan_items(sources: Sequence[Source], held_out_sources: Sequence[Source]) -> list[Item]:
    """Cuts everything into items. Raises UserError for a source that is missing or empty.

    Items are about a 64th of all text, between 2 and 64 MB, whatever the number of workers; small files share
    one.
    """
    train = [piece for source in sources for piece in whole_pieces(source)]
    held_out = [piece for source in held_out_sources for piece in whole_pieces(source)]
    total = sum(piece.text_bytes for piece in train + held_out)
    item_bytes = min(MAX_ITEM_BYTES, max(MIN_ITEM_BYTES, -(-total // USUAL_ITEMS)))
    items: list[Item] = []
    for split, pieces in (("train" if held_out else None, train), ("held_out", held_out)):
        for group in _group(pieces, item_bytes):
            items.append(Item(len(items), split, tuple(group)))
    return items


def _group(pieces: list[Piece], item_bytes: int) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    group_bytes = 0
    for piece in (part for whole in pieces for part in _cut(whole, item_bytes)):
        # A piece of unknown size is a shard of a stream: large.
        piece_bytes = piece.text_bytes or item_bytes
        if group and group_bytes + piece_bytes > item_bytes:
            yield group
            group, group_bytes = [], 0
        group.append(piece)
        group_bytes += piece_bytes
    if group:
        yield group


def _cut(piece: Piece, item_bytes: int) -> Iterator[Piece]:
    """Equal ranges of about `item_bytes` of text, where the piece can be entered anywhere."""
    if piece.source.kind == "hf" or (piece.path and is_compressed(piece.path)):
        yield piece
        return
    unit = 1 if piece.path else max(1, piece.source.rows_per_document)
    units = -(-piece.stop // unit)
    parts = max(1, min(units, -(-piece.text_bytes // item_bytes)))
    edges = [min(units * i // parts * unit, piece.stop) for i in range(parts + 1)]
    sizes = [piece.size * i // parts for i in range(parts + 1)]
    for i in range(parts):
        size = sizes[i + 1] - sizes[i]
        yield replace(piece, start=edges[i], stop=edges[i + 1], size=size, text_bytes=size)


def whole_pieces(source: Source) -> Iterator[Piece]:
    if source.kind == "files":
        for path, size in list_files(source):
            text_bytes = size * COMPRESSION if is_compressed(path) else size
            yield Piece(source, path, 0, size, size, text_bytes)
        return
    from data.readers import count_rows, count_stream_shards

    if source.kind == "hf":
        shards = count_stream_shards(source)
        yield from (Piece(source, start=i, stop=shards) for i in range(shards))
        return
    rows, size = count_rows(source)
    if rows == 0:
        raise UserError(f"source {source.spec!r}: empty, it has no rows")
    yield Piece(source, "", 0, rows, size, size)


def piece_from_json(data: dict[str, Any]) -> Piece:
    """The inverse of `dataclasses.asdict`."""
    return Piece(**{**data, "source": Source(**data["source"])})


assert set(OPTIONS) < {f.name for f in fields(Source)}
