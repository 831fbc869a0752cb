"""Where a pretraining run is in its data: epochs, documents and tokens of each corpus, counted again from what its
folder says. Reads only, so a run that is under way does not notice."""

import json
from dataclasses import dataclass
from pathlib import Path

from albert_jax.config import PretrainConfig, read_pretrain_config, require
from albert_jax.errors import UserError
from albert_jax.inputs.corpus import open_corpus
from albert_jax.run_directory import CONFIG_FILE, DATA_FILE, TOKENIZER_FOLDER
from albert_jax.tasks.pretraining import corpus_fingerprint, require_different, training_batches
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import METRICS_FILE


@dataclass(frozen=True)
class CorpusPosition:
    """What a phase has read of one corpus."""

    corpus: str
    share: float
    """Of the phase's rows."""
    epochs: float
    """Times that the phase has read the corpus: whole epochs and the fraction of the one under way."""
    epoch_rows: int
    """Rows of the epoch under way."""
    epoch_rows_read: int
    epoch_documents_begun: int
    documents: int
    """Of the training split."""
    rows: int
    """Read since the phase began, as are the sequences and tokens."""
    sequences: int
    tokens: int
    """With [CLS] and [SEP], without padding."""


@dataclass(frozen=True)
class PhasePosition:
    """A phase that has begun, after `steps_done` of its steps."""

    number: int
    steps_done: int
    steps: int
    sequence_length: int
    batch_size: int
    corpora: tuple[CorpusPosition, ...]


@dataclass(frozen=True)
class RunPosition:
    """A run after `step` of its steps; every count is recomputed from the corpora."""

    run: str
    step: int
    step_from: str
    """How the step is known."""
    total_steps: int
    checkpoint: int | None
    """The newest one."""
    sequences: int
    """Over all phases and corpora, as are the tokens."""
    tokens: int
    phases: tuple[PhasePosition, ...]
    """Those that have begun."""


def run_position(directory: str | Path, step: int | None = None) -> RunPosition:
    """The position of the run in `directory` after `step` steps; by default where it stands now.

    Raises `UserError` if it is not a run of pretrain.py, or its corpora are no longer those that it reads.
    """
    directory = Path(directory)
    if not (directory / CONFIG_FILE).exists():
        raise UserError(f"{directory}: not a run directory of pretrain.py, there is no {CONFIG_FILE}")
    config = read_pretrain_config(directory / CONFIG_FILE)
    total = config.phases.total_steps
    checkpoint = max((int(path.name) for path in directory.glob("checkpoints/*") if path.name.isdigit()), default=None)
    source = "as asked for"
    if step is None:
        recorded = last_recorded_step(directory)
        source = f"newest record in {METRICS_FILE}" if recorded >= (checkpoint or 0) else "newest checkpoint"
        step = max(recorded, checkpoint or 0)
    require(0 <= step <= total, "--step", step, f"must be 0 to {total:,}, the steps of the run")
    phases = phase_positions(config, directory, step)
    parts = [corpus for phase in phases for corpus in phase.corpora]
    return RunPosition(
        run=str(directory),
        step=step,
        step_from=source,
        total_steps=total,
        checkpoint=checkpoint,
        sequences=sum(part.sequences for part in parts),
        tokens=sum(part.tokens for part in parts),
        phases=phases,
    )


def last_recorded_step(directory: Path) -> int:
    """The step of the newest whole record; 0 if there is none."""
    path = directory / METRICS_FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, LookupError, TypeError):
            continue  # the run may be writing it now
    return 0


def phase_positions(config: PretrainConfig, directory: Path, step: int) -> tuple[PhasePosition, ...]:
    """The phases that have begun once `step` steps are done; the first has begun at step 0."""
    tokenizer = AlbertTokenizer.load(directory / TOKENIZER_FOLDER)
    require_different(config.data.corpus)
    corpora = tuple(
        open_corpus(path, "train", tokenizer_fingerprint=tokenizer.fingerprint, verify=False)
        for path in config.data.corpus
    )
    record = directory / DATA_FILE
    # As it was written; whatever else is there is not this corpus.
    if record.exists() and f'"corpus": "{corpus_fingerprint(corpora)}"' not in record.read_text(errors="replace"):
        raise UserError(
            f"{directory}: was trained with another corpus than is now at {' and '.join(config.data.corpus)}; restore "
            "that one"
        )
    found = []
    for number, phase in enumerate(config.phases.phases, start=1):
        done = min(step, phase.stop) - phase.start
        if done <= 0 and number > 1:
            break
        batches = training_batches(config, tokenizer, corpora, phase)
        rows = batches.mix.rows_before(done * phase.batch_size)
        positions = []
        for part, share, count in zip(batches.parts, batches.mix.shares, rows, strict=True):
            reading = part.reading(count)
            positions.append(
                CorpusPosition(
                    corpus=str(part.corpus.directory),
                    share=float(share),
                    epochs=reading.epochs,
                    epoch_rows=reading.epoch_rows,
                    epoch_rows_read=reading.read_rows,
                    epoch_documents_begun=reading.begun_documents,
                    documents=part.corpus.num_documents,
                    rows=reading.rows,
                    sequences=reading.sequences,
                    tokens=reading.tokens,
                )
            )
        shape = (phase.steps, phase.sequence_length, phase.batch_size)
        found.append(PhasePosition(number, done, *shape, tuple(positions)))
    return tuple(found)


def position_lines(position: RunPosition) -> list[str]:
    """The same for people."""
    checkpoint = "no checkpoint yet" if position.checkpoint is None else f"last saved at {position.checkpoint:,}"
    lines = [
        f"{position.run}: step {position.step:,} of {position.total_steps:,} ({position.step_from}; {checkpoint})",
        f"{position.sequences:,} sequences, {position.tokens:,} tokens so far, counted again from the corpora",
    ]
    for phase in position.phases:
        lines.append(
            f"phase {phase.number}: step {phase.steps_done:,} of {phase.steps:,}, "
            f"each a batch of {phase.batch_size:,} rows of {phase.sequence_length} tokens"
        )
        for part in phase.corpora:
            lines += [
                f"  {part.corpus}" + (f" ({part.share:.2%} of the rows)" if len(phase.corpora) > 1 else ""),
                f"    read {part.epochs:.3f} times: of this epoch {part.epoch_rows_read:,} of {part.epoch_rows:,} rows "
                f"and {part.epoch_documents_begun:,} of {part.documents:,} documents begun",
                f"    {part.rows:,} rows, {part.sequences:,} sequences, {part.tokens:,} tokens in this phase",
            ]
    return lines
