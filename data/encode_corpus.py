"""Turns text into an encoded corpus, with all cores: `python data/encode_corpus.py --sources text/*.txt ...`.

The work is cut into items that depend on the sources alone; a worker encodes each into shards of its own and
leaves a marker when they are whole. So the shards are the same for any number of processes, and a build that
was interrupted, even by kill -9, continues with the items that have no marker. docs/data.md has recipes.
"""

import hashlib
import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# As a script this file's folder is on the path, not the repository, which holds `albert_jax` and `data`.
# ruff: noqa: E402
sys.path[:0] = [] if __package__ else [str(Path(__file__).resolve().parents[1])]

from albert_jax.errors import UserError, exit_cleanly
from albert_jax.inputs.corpus import MANIFEST_FILE, PROGRESS_FOLDER, SPLITS, TOKENIZER_FOLDER, write_manifest
from albert_jax.tokenizer import AlbertTokenizer
from data.building import ItemJob, Marker, claim, encoder_of_items, read_markers
from data.progress import BuildProgress
from data.sentences import SPLITTER, check_language
from data.sources import Item, Source, list_files, parse_source, plan_items
from data.workers import run_jobs

# Two bytes per token of four to five letters, and the offsets.
DISK_BYTES_PER_TEXT_BYTE = 0.5


@dataclass(frozen=True)
class Arguments:
    """Encodes text into a corpus folder. The same command again continues an interrupted build."""

    sources: tuple[str, ...]
    """Files, patterns or folders, hf:NAME:CONFIG, tfds:NAME; each with #option=value behind. See
    docs/data.md."""
    tokenizer: Path
    """The SentencePiece model that data/train_vocab.py wrote."""
    output: Path
    """The corpus folder to make."""
    do_lower_case: bool = True
    """Lower-case the text, as the released ALBERT vocabulary needs."""
    held_out_fraction: float = 0.005
    """The share of documents, chosen by a hash of their text, that goes into the held_out split."""
    held_out_sources: tuple[str, ...] = ()
    """Sources for the held_out split instead; then all of --sources is for training."""
    language: str = "en"
    """ISO 639 code of the text, for finding sentences."""
    processes: int | None = None
    """How many processes encode; by default as many as there are cores to use."""
    seed: int = 0
    """Changes which documents are held out."""


@dataclass(frozen=True)
class Build:
    """A build that was checked and may go on: what to encode, with what, into where."""

    output: Path
    items: list[Item]
    settings: dict[str, Any]
    tokenizer: AlbertTokenizer

    @property
    def job(self) -> ItemJob:
        settings = self.settings
        return ItemJob(
            str(self.output),
            self.tokenizer,
            settings["language"],
            settings["held_out_fraction"],
            settings["seed"],
        )

    def finish(self, markers: dict[int, Marker]) -> None:
        """Declares the corpus complete, from the markers of all items."""
        ordered = [markers[item.number] for item in self.items]
        shards = {split: [record for marker in ordered for record in marker.shards[split]] for split in SPLITS}
        if not any(shards.values()):
            raise UserError(f"{self.output}: the sources hold no document of two tokens or more; nothing to encode")
        write_manifest(
            self.output,
            shards=shards,
            documents_left_out=sum(marker.left_out for marker in ordered),
            tokenizer={
                "fingerprint": self.tokenizer.fingerprint,
                "vocab_size": self.tokenizer.vocab_size,
                "do_lower_case": self.tokenizer.do_lower_case,
            },
            build={
                "documents_cut": sum(marker.documents_cut for marker in ordered),
                "settings": self.settings,
                "versions": _versions(),
            },
        )
        shutil.rmtree(self.output / PROGRESS_FOLDER)


def encode_corpus(
    sources: Sequence[str],
    tokenizer: Path,
    output: Path,
    *,
    do_lower_case: bool = True,
    held_out_fraction: float = 0.005,
    held_out_sources: Sequence[str] = (),
    language: str = "en",
    processes: int | None = None,
    seed: int = 0,
) -> Path:
    """Builds the corpus and returns its folder; returns at once where the same corpus is finished already.

    Arguments are those of `Arguments`. Raises UserError, and leaves no manifest, for anything wrong with
    them, with the text or with the disk; what is encoded by then is kept for the next try.
    """
    if processes is not None and processes < 1:
        raise UserError(f"processes is {processes}, expected at least 1")
    with start_build(
        sources,
        tokenizer,
        Path(output),
        do_lower_case=do_lower_case,
        held_out_fraction=held_out_fraction,
        held_out_sources=held_out_sources,
        language=language,
        seed=seed,
    ) as build:
        if build:
            _encode(build, processes or len(os.sched_getaffinity(0)))
    return Path(output)


@contextmanager
def start_build(
    sources: Sequence[str],
    tokenizer: Path,
    output: Path,
    *,
    do_lower_case: bool,
    held_out_fraction: float,
    held_out_sources: Sequence[str],
    language: str,
    seed: int,
) -> Iterator[Build | None]:
    """Checks everything, claims the folder and cuts the work into items; yields None where the corpus is
    finished."""
    if not 0 <= held_out_fraction < 1:
        raise UserError(f"held_out_fraction is {held_out_fraction}, expected at least 0 and below 1")
    if not sources:
        raise UserError("no sources given; see docs/data.md for what they can be")
    check_language(language)
    encoder = AlbertTokenizer.from_file(tokenizer, do_lower_case)
    train, held_out = [parse_source(s) for s in sources], [parse_source(s) for s in held_out_sources]
    settings = {
        "sources": list(sources),
        "held_out_sources": list(held_out_sources),
        "held_out_fraction": 0.0 if held_out else held_out_fraction,
        "seed": seed,
        "language": language,
        "splitter": SPLITTER,
        "tokenizer": encoder.fingerprint,
        "files": _describe_files([*train, *held_out]),
    }
    with claim(output, settings) as finished:
        if finished:
            yield None
            return
        items = plan_items(train, held_out)
        _check_disk(output, items)
        encoder.save(output / TOKENIZER_FOLDER)
        yield Build(output, items, settings, encoder)


def _describe_files(sources: Sequence[Source]) -> dict[str, Any]:
    """Count, bytes and a hash over names and sizes of the files read: another run must find the same ones."""
    files = [file for source in sources if source.kind == "files" for file in list_files(source)]
    digest = hashlib.sha256(repr(files).encode("utf-8", "surrogateescape")).hexdigest()
    return {"count": len(files), "bytes": sum(size for _, size in files), "sha256": digest}


def _check_disk(output: Path, items: Sequence[Item]) -> None:
    needed = int(DISK_BYTES_PER_TEXT_BYTE * sum(piece.text_bytes for item in items for piece in item.pieces))
    needed -= sum(path.stat().st_size for path in output.glob("*.*"))
    free = shutil.disk_usage(output).free
    if needed > free:
        raise UserError(f"{output}: about {needed:,} bytes are needed, the disk has {free:,} left; make room")


def _encode(build: Build, processes: int) -> None:
    items = build.items
    markers = read_markers(build.output, len(items))
    # The largest first, so that no worker is left alone with one at the end.
    todo = sorted((item for item in items if item.number not in markers), key=lambda item: -item.size)
    sizes_known = all(piece.size for item in items for piece in item.pieces)
    total = sum(item.size for item in items) if sizes_known else 0
    with BuildProgress("encoding", total, len(items)) as progress:
        progress.skip(sum(item.size for item in items if item.number in markers), len(markers))
        for kind, value in run_jobs(encoder_of_items, build.job, todo, processes):
            if kind == "progress":
                progress.add(**value)
            else:
                markers[value.number] = value
                progress.add(items=1)
    build.finish(markers)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {n: version(n) for n in ("numpy", "sentencepiece", "sentencex")}


def stop_like_interrupt(signal_number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    import tyro

    # Asked to stop by the system: end the workers as after Ctrl-C.
    signal.signal(signal.SIGTERM, stop_like_interrupt)
    arguments = tyro.cli(Arguments, description=__doc__)
    output = encode_corpus(**vars(arguments))
    print(f"corpus: {output / MANIFEST_FILE}")


if __name__ == "__main__":
    exit_cleanly(main)
