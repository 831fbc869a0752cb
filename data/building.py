"""The state of a build on disk, and the encoding of one item: what makes a build continuable.

`progress/` holds the settings, a lock, and one marker per finished item, written after the item's shards. It
goes when the manifest is there.
"""

import errno
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from albert_jax.errors import UserError
from albert_jax.inputs.corpus import (
    MANIFEST_FILE,
    PROGRESS_FOLDER,
    SPLITS,
    ShardRecord,
    ShardWriter,
    read_manifest,
    write_atomically,
)
from albert_jax.tokenizer import AlbertTokenizer
from data.encoding import BATCH_BYTES, DocumentEncoder
from data.readers import PieceReader
from data.sources import Item

SETTINGS_FILE, LOCK_FILE = "settings.json", "lock"
# A shard of 512 MB. Only an item that cannot be cut, a large compressed file, ever gets there.
SHARD_TOKENS = 1 << 28
HASHED_BYTES = 4096  # more would tell few documents apart, and cost a hundredth of the build


@dataclass(frozen=True)
class ItemJob:
    """What a worker needs to know besides the item."""

    output: str
    tokenizer: AlbertTokenizer
    language: str
    held_out_fraction: float
    seed: int


@dataclass(frozen=True)
class Marker:
    """What a finished item gave."""

    number: int
    shards: dict[str, list[ShardRecord]]
    left_out: int
    documents_cut: int


@contextmanager
def claim(output: Path, settings: dict[str, Any]) -> Iterator[bool]:
    """Holds the output folder for one build, new or continued; yields True if the very corpus is finished.

    Raises UserError if the folder belongs to something else: other files, other settings, a build that still
    runs.
    """
    try:
        if (output / MANIFEST_FILE).exists():
            _require_same(output, read_manifest(output).get("settings"), settings)
            yield True
            return
        progress = output / PROGRESS_FOLDER
        if output.exists() and not progress.exists() and any(output.iterdir()):
            raise UserError(f"{output}: holds other files and no corpus; give a new or empty folder as --output")
        progress.mkdir(parents=True, exist_ok=True)
        lock = open(progress / LOCK_FILE, "w")
    except OSError as error:
        raise UserError(f"{output}: cannot be used as output folder: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{output}: another build is at work there; wait for it or stop it") from None
        with _disk_errors(output):
            stored = progress / SETTINGS_FILE
            if stored.exists():
                _require_same(output, _read_json(stored), settings)
            else:
                write_atomically(stored, json.dumps(settings, indent=1) + "\n")
            for leftover in [*output.glob("*.partial"), *progress.glob("*.partial")]:
                leftover.unlink(missing_ok=True)
            yield False


def _require_same(output: Path, before: Any, now: dict[str, Any]) -> None:
    before = before if isinstance(before, dict) else {}
    now = json.loads(json.dumps(now))
    different = [
        f"  {key}: {before.get(key, 'nothing')} there, {value} now"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if different:
        raise UserError(
            f"{output}: holds a corpus, or part of one, made with other settings:\n"
            + "\n".join(different)
            + "\ngive the same settings, or another --output, or remove the folder"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken ({error}); remove the output folder and build again") from None


def read_markers(output: Path, items: int) -> dict[int, Marker]:
    """The markers of the items done by earlier runs."""
    markers = {}
    for number in range(items):
        path = _marker_path(output, number)
        if path.exists():
            data = _read_json(path)
            shards = {split: [ShardRecord(**record) for record in data["shards"][split]] for split in SPLITS}
            markers[number] = Marker(**{**data, "shards": shards})
    return markers


def _marker_path(output: Path, number: int) -> Path:
    return output / PROGRESS_FOLDER / f"item-{number:05d}.json"


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{output}: the disk is full; make room and run the same command again") from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UserError(f"{output}: cannot be written: {error.strerror}") from None
        raise


def encoder_of_items(job: ItemJob) -> Callable[[Item, Callable[[dict[str, int]], None]], Marker]:
    """For `run_jobs`: the function that encodes one item, with what it needs at hand."""
    encoder = DocumentEncoder(job.tokenizer, job.language)

    def encode(item: Item, report: Callable[[dict[str, int]], None]) -> Marker:
        with _disk_errors(Path(job.output)):
            return _ItemEncoder(job, encoder, item, report).run()

    return encode


class _ItemEncoder:
    """Streams the documents of one item into its shards, in batches per split."""

    def __init__(self, job: ItemJob, encoder: DocumentEncoder, item: Item, report: Callable[[dict[str, int]], None]):
        self.job, self.encoder, self.item, self.report = job, encoder, item, report
        self.batches: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        self.sizes = dict.fromkeys(SPLITS, 0)
        self.records: dict[str, list[ShardRecord]] = {split: [] for split in SPLITS}
        self.writers = {split: self._new_writer(split) for split in SPLITS}
        self.left_out = 0

    def run(self) -> Marker:
        job, documents_cut = self.job, 0
        is_held_out = held_out_rule(job.held_out_fraction, job.seed)
        try:
            for piece in self.item.pieces:
                reader, reported = PieceReader(piece), 0
                for document in reader:
                    split = self.item.split or ("held_out" if is_held_out(document) else "train")
                    self.batches[split].append(document)
                    self.sizes[split] += len(document)
                    if self.sizes[split] >= BATCH_BYTES:
                        consumed = reader.consumed
                        self._flush(split, consumed - reported)
                        reported = consumed
                documents_cut += reader.documents_cut
                self.report({"done_bytes": piece.size - reported})
            for split in SPLITS:
                self._flush(split, 0)
                self._close(split, self.writers[split])
        except BaseException:
            for writer in self.writers.values():
                writer.abandon()
            raise
        marker = Marker(self.item.number, self.records, self.left_out, documents_cut)
        path = _marker_path(Path(job.output), self.item.number)
        write_atomically(path, json.dumps(asdict(marker)))
        return marker

    def _flush(self, split: str, consumed: int) -> None:
        documents = self.batches[split]
        encoded = self.encoder.encode(documents)
        writer = self.writers[split]
        writer.append(encoded.tokens, encoded.sentence_lengths, encoded.document_lengths)
        self.left_out += encoded.left_out
        self.report({"done_bytes": consumed, "text_bytes": self.sizes[split], "tokens": len(encoded.tokens)})
        self.batches[split], self.sizes[split] = [], 0
        if writer.counts["tokens"] >= SHARD_TOKENS:
            self._close(split, writer)
            self.writers[split] = self._new_writer(split)

    def _close(self, split: str, writer: ShardWriter) -> None:
        record = writer.close()
        self.records[split] += [record] if record else []

    def _new_writer(self, split: str) -> ShardWriter:
        part = len(self.records[split])
        return ShardWriter(Path(self.job.output), f"{split}-{self.item.number:05d}" + (f"-{part}" if part else ""))


def held_out_rule(fraction: float, seed: int) -> Callable[[bytes], bool]:
    """Whether a document is held out: by a hash of how it begins and the seed, so that copies stay together."""
    key, limit = f"{seed}\n".encode(), int(fraction * 2**64)

    def is_held_out(document: bytes) -> bool:
        return int.from_bytes(hashlib.sha256(key + document.strip()[:HASHED_BYTES]).digest()[:8], "little") < limit

    return is_held_out if limit else lambda document: False
