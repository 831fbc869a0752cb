"""Reads one piece of a source as documents, streaming: a worker never holds more than one document.

A document is UTF-8 with a newline between its lines. Whatever is wrong with the bytes is a UserError naming
the file and the line. The libraries of Hugging Face and TFDS are imported only where they are used.
"""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from functools import cache
from typing import IO, Any

from albert_jax.errors import UserError
from albert_jax.tasks.datasets import require_no_code
from data.sources import Piece, Source, is_compressed, is_json

# A document of more than this many bytes (three times War and Peace) is cut at a line, a line at a space: it
# bounds the memory.
MAX_DOCUMENT_BYTES = 8 << 20
_BROKEN = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)


class PieceReader:
    """Iterates over the documents of a piece.

    Attributes, valid during iteration: `consumed`, bytes of the source read so far (0 if the size is
    unknown); `documents_cut`, how often a document was cut because it exceeded `MAX_DOCUMENT_BYTES`.
    """

    def __init__(self, piece: Piece):
        self.piece = piece
        self.documents_cut = 0
        self._file: IO[bytes] | None = None
        self._rows = 0
        self._line = 0  # lines read
        self._first_offset = 0  # where the first of them begins

    @property
    def consumed(self) -> int:
        piece = self.piece
        if self._file is not None and self._file.closed:
            return piece.size
        if self._file is not None:
            return min(max(0, self._file.tell() - piece.start), piece.size)
        return piece.size * self._rows // max(1, piece.stop - piece.start)

    def __iter__(self) -> Iterator[bytes]:
        piece = self.piece
        if not piece.path:
            rows = self._dataset_rows()
        elif is_json(piece.path):
            rows = self._json_rows()
        elif piece.source.rows_per_document:
            rows = (self._checked(line, self._line).rstrip(b"\r\n") for _, line in self._lines_in_range())
        else:
            yield from self._paragraph_documents()
            return
        yield from self._group_rows(rows)

    def _group_rows(self, rows: Iterator[bytes]) -> Iterator[bytes]:
        rows_per_document = self.piece.source.rows_per_document
        if not rows_per_document:
            yield from rows
            return
        document: list[bytes] = []
        for row in rows:
            document.append(row)
            if len(document) == rows_per_document:
                yield b"\n".join(document)
                document = []
        if document:
            yield b"\n".join(document)

    # Files.

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of each line that begins at `piece.start` or later; a line too long comes in
        parts."""
        path, start = self.piece.path, self.piece.start
        try:
            with open(path, "rb") as self._file:
                stream: Any = self._file
                if path.endswith(".gz"):
                    stream = gzip.GzipFile(fileobj=self._file)
                elif path.endswith(".xz"):
                    stream = lzma.LZMAFile(self._file)
                if start:
                    # The line that contains the byte before belongs to the piece before.
                    self._file.seek(start - 1)
                    while (skipped := stream.readline(MAX_DOCUMENT_BYTES)) and not skipped.endswith(b"\n"):
                        pass
                    start = self._first_offset = self._file.tell()
                elif stream.peek(3)[:3] == b"\xef\xbb\xbf":
                    start += len(stream.read(3))
                yield from self._read_lines(stream, start)
        except _BROKEN as error:
            raise UserError(
                f"{path}: corrupt or cut short after line {self._line:,} ({error}); fetch it again"
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None

    def _read_lines(self, stream: Any, offset: int) -> Iterator[tuple[int, bytes]]:
        rest = b""
        while line := rest + stream.readline(MAX_DOCUMENT_BYTES):
            rest = b""
            if len(line) >= MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
                space = line.rfind(b" ")
                cut = space + 1 if space > 0 else _character_boundary(line)
                line, rest = line[:cut], line[cut:]
                self.documents_cut += 1
            else:
                self._line += 1
            yield offset, line
            offset += len(line)

    def _lines_in_range(self) -> Iterator[tuple[int, bytes]]:
        """The lines that begin inside the piece."""
        stop = None if is_compressed(self.piece.path) else self.piece.stop
        for offset, line in self._lines():
            if stop is not None and offset >= stop:
                return
            yield offset, line

    def _paragraph_documents(self) -> Iterator[bytes]:
        """What stands between blank lines. A document belongs to the piece that holds the blank line before
        it."""
        piece = self.piece
        stop = None if is_compressed(piece.path) else piece.stop
        inside = piece.start == 0
        document: list[bytes] = []
        size = first_line = 0
        for offset, line in self._lines():
            if line.isspace():
                if document:
                    yield self._checked(b"".join(document), first_line)
                    document, size = [], 0
                if stop is not None and offset >= stop:
                    return
                inside = True
            elif inside:
                if size + len(line) > MAX_DOCUMENT_BYTES and document:
                    yield self._checked(b"".join(document), first_line)
                    document, size = [], 0
                    self.documents_cut += 1
                if not document:
                    first_line = self._line
                document.append(line)
                size += len(line)
        if document:
            yield self._checked(b"".join(document), first_line)

    def _json_rows(self) -> Iterator[bytes]:
        name = self.piece.source.text
        for _, line in self._lines_in_range():
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self._where(self._line)}: not JSON ({error}); expected one object per line"
                ) from None
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                found = f"fields {', '.join(map(str, row))}" if isinstance(row, dict) else type(row).__name__
                raise UserError(
                    f"{self._where(self._line)}: no text in field {name!r}, found {found[:200]}; "
                    "name the field with #text=FIELD"
                )
            yield self._encoded(row[name])

    def _checked(self, data: bytes, first_line: int) -> bytes:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = first_line + data.count(b"\n", 0, error.start)
            raise UserError(
                f"{self._where(line)}: not UTF-8 (byte 0x{data[error.start]:02x}); convert it, "
                "for example with iconv -f latin1 -t utf-8"
            ) from None
        return data

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            where = self._where(self._line) if self.piece.path else self._row()
            raise UserError(f"{where}: a lone surrogate, {text[error.start]!a}, is no text; repair it") from None

    def _row(self) -> str:
        return f"source {self.piece.source.spec!r}, row {self._rows:,} from {self.piece.start:,}"

    def _where(self, line: int) -> str:
        """File and line number in it, for messages; `line` counts from the first one read."""
        before, remaining = 0, self._first_offset
        with open(self.piece.path, "rb") as file:
            while remaining and (block := file.read(min(remaining, 1 << 20))):
                before += block.count(b"\n")
                remaining -= len(block)
        return f"{self.piece.path}, line {before + line:,}"

    # Datasets.

    def _dataset_rows(self) -> Iterator[bytes]:
        source = self.piece.source
        for row in _open_rows(self.piece):
            self._rows += 1
            if source.text not in row:
                raise UserError(
                    f"source {source.spec!r}: no column {source.text!r}, "
                    f"there are {', '.join(map(str, row))}; "
                    "name it with #text=COLUMN"
                )
            text = row[source.text]
            if not isinstance(text, str | bytes):
                raise UserError(f"{self._row()}: column {source.text!r} holds {type(text).__name__}, not text")
            try:
                yield text.decode().encode() if isinstance(text, bytes) else self._encoded(text)
            except UnicodeDecodeError:
                raise UserError(f"{self._row()}: not UTF-8") from None


def _character_boundary(line: bytes) -> int:
    """Where the last whole UTF-8 character ends."""
    cut = len(line)
    while cut > 1 and line[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return max(1, cut - 1)


def count_rows(source: Source) -> tuple[int, int]:
    """Rows and about how many bytes of text a "disk" or "tfds" source has."""
    if source.kind == "disk":
        dataset = _open_disk(source)
        return len(dataset), dataset.data.nbytes
    data = _open_tfds(source)
    sample = [len(data[len(data) * i // 100].get(source.text, b"")) for i in range(min(100, len(data)))]
    return len(data), len(data) * sum(sample) // max(1, len(sample))


def count_stream_shards(source: Source) -> int:
    return _open_stream(source).num_shards


def _open_rows(piece: Piece) -> Iterator[dict[str, Any]]:
    source = piece.source
    if source.kind == "hf":
        yield from _open_stream(source).shard(piece.stop, piece.start)
    elif source.kind == "disk":
        yield from _open_disk(source).select(range(piece.start, piece.stop))
    else:
        data = _open_tfds(source)
        for i in range(piece.start, piece.stop):
            yield data[i]


def _open_stream(source: Source) -> Any:
    from datasets import load_dataset

    try:
        dataset = load_dataset(source.name, source.config, split=source.split, revision=source.revision, streaming=True)
    except Exception as error:  # the hub, its client and the file systems below each raise their own kinds
        raise UserError(f"source {source.spec!r}: cannot be opened: {_first_line(error)}") from None
    return dataset.select_columns([source.text]) if source.text in (dataset.column_names or ()) else dataset


@cache
def _open_disk(source: Source) -> Any:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(source.name)
    except Exception as error:
        raise UserError(f"source {source.spec!r}: cannot be opened: {_first_line(error)}") from None
    if isinstance(dataset, DatasetDict):
        if source.split not in dataset:
            raise UserError(f"source {source.spec!r}: no split {source.split!r}, there are {', '.join(dataset)}")
        dataset = dataset[source.split]
    return dataset.select_columns([source.text]) if source.text in dataset.column_names else dataset


@cache
def _open_tfds(source: Source) -> Any:
    import tensorflow_datasets as tfds

    require_no_code(source.name, source.data_dir)
    try:
        return tfds.data_source(source.name, split=source.split, data_dir=source.data_dir)
    except Exception as error:
        raise UserError(f"source {source.spec!r}: cannot be opened: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
