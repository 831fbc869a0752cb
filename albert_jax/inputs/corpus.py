"""The encoded corpus on disk: how it is written and how it is read, in this one file so that the two cannot
drift.

A corpus is a folder with `manifest.json`, the tokenizer it was encoded with, and for each split (`train`,
`held_out`) shards of three raw little-endian files that are memory-mapped, never loaded. The manifest is
written last: a folder without one is not a corpus. numpy only, no jax.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_jax.errors import UserError
from albert_jax.files import MAX_JSON_BYTES, read_file, require_file

FORMAT, VERSION = "albert_jax corpus", 1
MANIFEST_FILE, TOKENIZER_FOLDER = "manifest.json", "tokenizer"
PROGRESS_FOLDER = "progress"  # the builder's notes; there while a build is unfinished
SPLITS = ("train", "held_out")
# What each file of a shard holds. Offsets have one more entry than there are things, the last being the
# total.
DTYPES = {
    "tokens": np.dtype("<u2"),  # ids, sentence after sentence
    "sentences": np.dtype("<u4"),  # where each sentence's first token is
    "documents": np.dtype("<u4"),  # which sentence each document begins with
}
MAX_SHARD_TOKENS = 2**32 - 1  # offsets are uint32
OFFSETS = ("sentences", "documents")
SAMPLES = "samples"  # beside the parts in a shard's sha256: of some blocks of its tokens; not in older corpora
SAMPLED_BLOCKS, SAMPLED_TOKENS = 16, 1024  # evenly spaced, the first and the last included; tokens of each
_REBUILD = "build the corpus again with data/encode_corpus.py"


@dataclass(frozen=True)
class ShardRecord:
    """A shard as the manifest lists it: counts, and the sha256 in hex of each of its three files and of `SAMPLES`."""

    name: str
    tokens: int
    sentences: int
    documents: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """A memory-mapped shard: tokens uint16 [tokens], sentences uint32 [sentences + 1], documents uint32
    [documents + 1].

    Sentence s is tokens[sentences[s]:sentences[s + 1]]; document d is the sentences documents[d] to
    documents[d + 1].
    """

    name: str
    tokens: np.memmap
    sentences: np.memmap
    documents: np.memmap


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus, opened by `open_corpus`. `manifest` is the whole manifest as read."""

    directory: Path
    split: str
    manifest: Mapping[str, Any]
    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the counts and checksums of every shard of both splits; the same whether or not there are
        samples."""
        splits = {
            split: content | {"shards": [_without_samples(entry) for entry in content["shards"]]}
            for split, content in self.manifest["splits"].items()
        }
        return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()

    @property
    def num_tokens(self) -> int:
        return sum(len(shard.tokens) for shard in self.shards)

    @property
    def num_sentences(self) -> int:
        return sum(len(shard.sentences) - 1 for shard in self.shards)

    @property
    def num_documents(self) -> int:
        return sum(len(shard.documents) - 1 for shard in self.shards)


class ShardWriter:
    """Streams documents into one shard; the files bear their final names only after `close`.

    A shard that got no document leaves no file, and `close` returns None.
    """

    def __init__(self, directory: Path, name: str):
        self.directory, self.name = directory, name
        self.counts = dict.fromkeys(DTYPES, 0)
        self._files: dict[str, Any] = {}
        self._hashes = {part: hashlib.sha256() for part in DTYPES}

    def append(self, tokens: np.ndarray, sentence_lengths: np.ndarray, document_lengths: np.ndarray) -> None:
        """Adds documents: uint16 ids, tokens of each sentence, sentences of each document; no length may be
        0."""
        if len(document_lengths) == 0:
            return
        if self.counts["tokens"] + len(tokens) > MAX_SHARD_TOKENS:
            raise UserError(f"{self.name}: more than {MAX_SHARD_TOKENS:,} tokens in one shard; cut the source smaller")
        sentence_starts = self.counts["tokens"] + np.cumsum(sentence_lengths) - sentence_lengths
        document_starts = self.counts["sentences"] + np.cumsum(document_lengths) - document_lengths
        self._write("tokens", tokens)
        self._write("sentences", sentence_starts)
        self._write("documents", document_starts)

    def close(self) -> ShardRecord | None:
        """Ends the offsets with the totals and gives the files their names."""
        if not self._files:
            return None
        counts = dict(self.counts)
        self._write("sentences", np.array([counts["tokens"]]))
        self._write("documents", np.array([counts["sentences"]]))
        for part, file in self._files.items():
            # Not synced to the disk, for speed: should the power fail, `open_corpus` finds the damage.
            file.close()
            os.replace(file.name, shard_path(self.directory, self.name, part))
        tokens = np.memmap(shard_path(self.directory, self.name, "tokens"), DTYPES["tokens"], mode="r")
        sha256 = {part: h.hexdigest() for part, h in self._hashes.items()} | {SAMPLES: _sample(tokens)}
        return ShardRecord(self.name, **counts, sha256=sha256)

    def abandon(self) -> None:
        """Closes the files and removes what was written."""
        for file in self._files.values():
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _write(self, part: str, array: np.ndarray) -> None:
        if part not in self._files:
            path = shard_path(self.directory, self.name, part)
            self._files[part] = open(_partial(path), "wb")
        data = np.ascontiguousarray(array, DTYPES[part]).data.cast("B")
        self._files[part].write(data)
        self._hashes[part].update(data)
        self.counts[part] += len(array)


def shard_path(directory: Path, name: str, part: str) -> Path:
    return directory / f"{name}.{part}"


def write_manifest(
    directory: Path,
    *,
    shards: Mapping[str, list[ShardRecord]],
    documents_left_out: int,
    tokenizer: Mapping[str, Any],
    build: Mapping[str, Any],
) -> None:
    """Declares the corpus complete: writes the manifest, atomically.

    `tokenizer` holds fingerprint, vocab_size and settings; `build` whatever else describes the build
    (sources, splitter, seed, library versions) and is stored under its own keys.
    """
    splits = {}
    for split in SPLITS:
        totals = {part: sum(getattr(record, part) for record in shards[split]) for part in DTYPES}
        splits[split] = {**totals, "shards": [asdict(record) for record in shards[split]]}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "tokenizer": dict(tokenizer),
        "splits": splits,
        "documents_left_out": documents_left_out,
        **build,
    }
    write_atomically(directory / MANIFEST_FILE, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _partial(path: Path) -> Path:
    # By process, so that a worker that outlives a killed build cannot write into its successor's file.
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file that either has its old content or all of the new, whatever happens meanwhile."""
    temporary = _partial(path)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a finished corpus, checked field by field. Raises UserError for anything else."""
    directory = Path(directory)
    path = directory / MANIFEST_FILE
    if not directory.is_dir():
        raise UserError(f"{directory}: no such corpus folder; make one with data/encode_corpus.py")
    if not path.exists():
        if (directory / PROGRESS_FOLDER).exists():
            raise UserError(f"{directory}: the build was interrupted; run the same data/encode_corpus.py command again")
        raise UserError(f"{directory}: not a corpus, there is no {MANIFEST_FILE}; make one with data/encode_corpus.py")
    content = read_file(path, MAX_JSON_BYTES)
    try:
        manifest = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore it or {_REBUILD}") from None
    _check_manifest(manifest, path)
    return manifest


def open_corpus(
    directory: str | Path,
    split: str,
    *,
    tokenizer_fingerprint: str | None,
    verify: bool,
    process_index: int = 0,
    process_count: int = 1,
) -> Corpus:
    """Maps one split of a corpus into memory.

    Args:
        split: "train" or "held_out".
        tokenizer_fingerprint: the reader's `AlbertTokenizer.fingerprint`; None skips the comparison.
        verify: also reads every token: checksums, ids below vocab_size. Sizes, offsets with their checksums and, where
            the manifest has them, samples of the tokens are always checked.
        process_index, process_count: of the shards to verify, this process reads its share.

    Raises:
        UserError: naming the file, what was found and the fix, for anything that is not an intact corpus.
    """
    directory = Path(directory)
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    manifest = read_manifest(directory)
    built_with = manifest["tokenizer"]["fingerprint"]
    if tokenizer_fingerprint is not None and tokenizer_fingerprint != built_with:
        raise UserError(
            f"{directory}: encoded with another tokenizer (fingerprint {built_with[:12]}…, yours is "
            f"{tokenizer_fingerprint[:12]}…); use the one in {directory / TOKENIZER_FOLDER} or {_REBUILD}"
        )
    records = [_record(entry) for entry in manifest["splits"][split]["shards"]]
    if not records:
        raise UserError(
            f"{directory}: the {split} split is empty; {_REBUILD}, with more text"
            + (" in more documents, or a larger held_out_fraction, in another folder" if split == "held_out" else "")
        )
    shards = tuple(_open_shard(directory, record) for record in records)
    vocab_size = manifest["tokenizer"]["vocab_size"]
    jobs = [(record, shard, part) for record, shard in zip(records, shards, strict=True) for part in OFFSETS]
    if verify:
        pairs = list(zip(records, shards, strict=True))[process_index::process_count]
        jobs += [(record, shard, "tokens") for record, shard in pairs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: _verify(directory, *job, vocab_size), jobs))
    return Corpus(directory, split, manifest, shards)


def _record(entry: Mapping[str, Any]) -> ShardRecord:
    return ShardRecord(**{key: entry[key] for key in ("name", "tokens", "sentences", "documents", "sha256")})


def _check_manifest(manifest: Any, path: Path) -> None:
    def require(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{path}: altered or broken, {what}; restore it or {_REBUILD}")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value <= 2**63

    require(isinstance(manifest, dict), "it does not hold an object")
    require(manifest.get("format") == FORMAT, f"format is not {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{path}: corpus version {str(manifest.get('version'))[:20]}, this code reads {VERSION}; {_REBUILD}"
        )
    tokenizer, splits = manifest.get("tokenizer"), manifest.get("splits")
    require(isinstance(tokenizer, dict) and isinstance(splits, dict), "tokenizer or splits is missing")
    require(isinstance(tokenizer.get("fingerprint"), str), "the tokenizer's fingerprint is missing")
    vocab_size = tokenizer.get("vocab_size")
    require(is_count(vocab_size) and 0 < vocab_size <= 65_536, "vocab_size is not between 1 and 65,536")
    names: set[str] = set()
    for split in SPLITS:
        shards = splits[split].get("shards") if isinstance(splits.get(split), dict) else None
        require(isinstance(shards, list), f"split {split} has no list of shards")
        for entry in shards:
            require(isinstance(entry, dict), f"a shard of {split} is not an object")
            name, sha256 = entry.get("name"), entry.get("sha256")
            # A name is a bare file name: nothing that could lead out of the folder.
            require(
                isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name) is not None,
                f"shard name {str(name)[:60]!r} is not a plain file name",
            )
            require(name not in names, f"shard {name} is listed twice")
            names.add(name)
            for part in DTYPES:
                count = entry.get(part)
                require(
                    is_count(count) and 0 < count <= MAX_SHARD_TOKENS,
                    f"{part} of {name} is not between 1 and 2^32 - 1",
                )
                digest = sha256.get(part) if isinstance(sha256, dict) else None
                require(
                    isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None,
                    f"sha256 of {name}.{part} is not one",
                )
        for part in DTYPES:
            total = splits[split].get(part)
            require(
                is_count(total) and total == sum(entry[part] for entry in shards),
                f"{part} of {split} is not the sum over its shards",
            )


def _open_shard(directory: Path, record: ShardRecord) -> Shard:
    counts = {"tokens": record.tokens, "sentences": record.sentences + 1, "documents": record.documents + 1}
    arrays = {}
    for part, dtype in DTYPES.items():
        path = shard_path(directory, record.name, part)
        expected = counts[part] * dtype.itemsize
        require_file(path)
        try:
            found = path.stat().st_size
            if found == expected:
                arrays[part] = np.memmap(path, dtype, mode="r")
                continue
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be opened ({error}); restore it or {_REBUILD}") from None
        kind = "truncated" if found < expected else "altered"
        raise UserError(f"{path}: {kind}, {found:,} bytes instead of {expected:,}; restore it or {_REBUILD}")
    for part, total in (("sentences", record.tokens), ("documents", record.sentences)):
        if arrays[part][0] != 0 or arrays[part][-1] != total:
            raise UserError(
                f"{shard_path(directory, record.name, part)}: altered, offsets run from "
                f"{arrays[part][0]:,} to {arrays[part][-1]:,} "
                f"instead of 0 to {total:,}; restore it or {_REBUILD}"
            )
        # Always checked: what reads the offsets is compiled and checks no bounds.
        if not np.all(arrays[part][1:] > arrays[part][:-1]):
            path = shard_path(directory, record.name, part)
            raise UserError(f"{path}: altered, offsets do not increase; restore it or {_REBUILD}")
    if SAMPLES in record.sha256 and _sample(arrays["tokens"]) != record.sha256[SAMPLES]:
        path = shard_path(directory, record.name, "tokens")
        raise UserError(f"{path}: altered, samples of it are not those of the manifest; restore it or {_REBUILD}")
    return Shard(record.name, **arrays)


def _sample(tokens: np.ndarray) -> str:
    """SHA-256 of a few blocks of a shard's tokens: cheap, and another file's are others."""
    starts = np.linspace(0, max(0, len(tokens) - SAMPLED_TOKENS), SAMPLED_BLOCKS).astype(np.int64)
    return hashlib.sha256(b"".join(tokens[start : start + SAMPLED_TOKENS].tobytes() for start in starts)).hexdigest()


def _without_samples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "sha256": {part: digest for part, digest in entry["sha256"].items() if part != SAMPLES}}


def _verify(directory: Path, record: ShardRecord, shard: Shard, part: str, vocab_size: int) -> None:
    path = shard_path(directory, record.name, part)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or {_REBUILD}") from None
    if digest != record.sha256[part]:
        raise UserError(f"{path}: altered, its sha256 is not the manifest's; restore it or {_REBUILD}")
    array = getattr(shard, part)
    if part == "tokens" and array.max() >= vocab_size:
        raise UserError(f"{path}: id {array.max()} is outside the vocabulary of {vocab_size:,}; {_REBUILD}")
