"""The corpus builder as an Apache Beam pipeline, for text beyond one machine: `python
data/encode_corpus_beam.py ...`.

Same options, items, item function and shards as `data/encode_corpus.py`; only who runs the items differs.
`--output` must be a file system that all workers share. Whatever follows `--` goes to Beam: `--
--runner=FlinkRunner --flink_master=...`.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As a script this file's folder is on the path, not the repository, which holds `albert_jax` and `data`.
# ruff: noqa: E402
sys.path[:0] = [] if __package__ else [str(Path(__file__).resolve().parents[1])]

try:
    import apache_beam as beam
except ImportError:
    beam = None

from albert_jax.errors import UserError, exit_cleanly
from data.building import ItemJob, Marker, encoder_of_items, read_markers
from data.encode_corpus import MANIFEST_FILE, start_build, stop_like_interrupt
from data.sources import Item


@dataclass(frozen=True)
class Arguments:
    """Encodes text into a corpus folder with Apache Beam. Options behind `--` are Beam's."""

    sources: tuple[str, ...]
    """Files, patterns or folders, hf:NAME:CONFIG, tfds:NAME; each with #option=value behind. See
    docs/data.md."""
    tokenizer: Path
    """The SentencePiece model that data/train_vocab.py wrote."""
    output: Path
    """The corpus folder to make, on a file system that all workers share."""
    do_lower_case: bool = True
    """Lower-case the text, as the released ALBERT vocabulary needs."""
    held_out_fraction: float = 0.005
    """The share of documents, chosen by a hash of their text, that goes into the held_out split."""
    held_out_sources: tuple[str, ...] = ()
    """Sources for the held_out split instead; then all of --sources is for training."""
    language: str = "en"
    """ISO 639 code of the text, for finding sentences."""
    seed: int = 0
    """Changes which documents are held out."""


def encode_corpus_with_beam(arguments: Arguments, beam_options: Sequence[str] = ()) -> Path:
    """Builds the corpus; a build that either script left unfinished is continued. Raises UserError as
    there."""
    if beam is None:
        raise UserError("Apache Beam is not installed; pip install 'albert-jax[beam]'")
    with start_build(**{**asdict(arguments), "output": Path(arguments.output)}) as build:
        if build:
            done = read_markers(build.output, len(build.items))
            todo = [item for item in build.items if item.number not in done]
            options = beam.options.pipeline_options.PipelineOptions(list(beam_options), save_main_session=False)
            with beam.Pipeline(options=options) as pipeline:
                items = pipeline | "items" >> beam.Create(todo) | "spread" >> beam.Reshuffle()
                _ = items | "encode" >> beam.ParDo(_encode_with(build.job))
            # The markers on the shared file system say what was done, whichever runner did it.
            build.finish(read_markers(build.output, len(build.items)))
    return Path(arguments.output)


def _encode_with(job: ItemJob) -> Any:
    class EncodeItem(beam.DoFn):
        def setup(self) -> None:
            self.encode: Callable[..., Marker] = encoder_of_items(job)

        def process(self, item: Item) -> Iterator[int]:
            yield self.encode(item, lambda report: None).number

    return EncodeItem()


def main() -> None:
    import tyro

    signal.signal(signal.SIGTERM, stop_like_interrupt)
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = tyro.cli(Arguments, args=sys.argv[1:split], description=__doc__)
    output = encode_corpus_with_beam(arguments, sys.argv[split + 1 :])
    print(f"corpus: {output / MANIFEST_FILE}")


if __name__ == "__main__":
    exit_cleanly(main)
