"""How each kind of fine-tuning is learnt and read: what a packed batch is to learn, the loss of the network's output,
and what the output says about every example.

A `Head` is the same for all tasks of its kind; what is particular to a task (files, labels, metrics), `catalog` has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from albert_jax import model as networks
from albert_jax.config import AlbertConfig, ComputeConfig
from albert_jax.inputs.batches import Part, Units
from albert_jax.inputs.packing import PackedBatch
from albert_jax.model import apply
from albert_jax.objectives import (
    choice_sums,
    classification_sums,
    multi_label_sums,
    regression_sums,
    span_beam_sums,
    span_sums,
)
from albert_jax.tasks.examples import IGNORED, TaskSequence
from albert_jax.tasks.squad import (
    MAX_ANSWER_LENGTH,
    N_BEST,
    BeamScores,
    SquadAnswer,
    SquadFeature,
    beam_answers,
    plain_answers,
)
from albert_jax.train import Objective

Arrays = dict[str, np.ndarray]
Batch = dict[str, jax.Array]
PACKED_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
PACKED_SETTINGS = ("position_ids", "first_positions")


@dataclass(frozen=True)
class Split:
    """A part of a data set, encoded."""

    name: str
    examples: Sequence[Any]
    sequences: Sequence[TaskSequence] | Sequence[SquadFeature]
    """in the order of the examples, of each of which there is at least one"""
    truncated: int
    """examples that lost pieces to the length"""

    def __len__(self) -> int:
        return len(self.examples)

    def units(self, *, of_examples: bool) -> Units:
        """What batches are drawn from: whole examples, or single sequences."""
        lengths = np.array([len(sequence.input_ids) for sequence in self.sequences], np.int64)
        owners = np.array([sequence.example for sequence in self.sequences])
        offsets = np.searchsorted(owners, np.arange(len(self.examples) + 1))
        return Units(lengths, offsets if of_examples else np.arange(len(lengths) + 1))

    @property
    def pairs(self) -> "Pairs":
        return Pairs(self.sequences)


class Pairs(Sequence):
    """Ids and segments of each sequence; the segments are made when asked for, which saves their memory."""

    def __init__(self, sequences: Sequence[TaskSequence] | Sequence[SquadFeature]):
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sequence = self._sequences[index]
        return sequence.input_ids, sequence.token_type_ids


@dataclass(frozen=True)
class Head:
    """One kind of fine-tuning."""

    model: str
    """the class of `albert_jax.pretrained`"""
    network: type[nnx.Module]
    """what computes it on packed rows, with the same parameters"""
    targets: Callable[[Split, Part], Arrays]
    """what a part is to learn, `weights` among it"""
    sums: Callable[[Any, Batch], dict[str, jax.Array]]
    """(the network's output, batch) -> loss and weight, and more to be shown"""
    read: Callable[[Any, Batch], Any]
    """(the network's output, batch) -> arrays [rows, ...] for `of_sequences`"""
    of_sequences: Callable[[PackedBatch, Any], Iterator[tuple[int, Any]]]
    """what those arrays say about each sequence, by its index"""
    of_examples: Callable[[Split, list[Any]], Any]
    """what that says about each example"""
    draws_examples: bool = True
    """whether a batch is so many examples, or so many sequences"""
    inputs: Callable[[Split, PackedBatch], Arrays] | None = None
    """arrays [rows, ...] that the network needs beside the usual ones, by the names of its arguments"""
    training_inputs: tuple[str, ...] = ()
    """targets that the network reads in training"""


def objective(head: Head, model: AlbertConfig, compute: ComputeConfig) -> Objective:
    """The head's loss, its mean over the weight of the whole batch."""

    def sums(params: Any, batch: Batch, keys: jax.Array | None) -> dict[str, jax.Array]:
        extra = {name: batch[name] for name in head.training_inputs}
        output = forward(head, model, compute, params, batch, keys=keys, remat=compute.remat, **extra)
        tokens = jnp.sum(batch["attention_mask"] > 0).astype(jnp.float32)
        return head.sums(output, batch) | {"tokens": tokens, "places": jnp.float32(batch["input_ids"].size)}

    dropouts = model.hidden_dropout_prob, model.attention_probs_dropout_prob, model.classifier_dropout_prob
    return Objective(
        sums=sums,
        weights=lambda batch: {"weight": batch["weights"].sum()},
        loss=lambda sums, weights: sums["loss"] / jnp.maximum(weights["weight"], 1.0),
        random=max(dropouts) > 0,
    )


def forward(head: Head, model: AlbertConfig, compute: ComputeConfig, params: Any, batch: Batch, **settings: Any) -> Any:
    """The network's output on a packed batch of arrays [rows, ...]."""
    known = (*PACKED_INPUTS, *PACKED_SETTINGS)
    if head.inputs is not None:
        settings["answerable"] = batch["answerable"]
    inputs = {name: batch[name] for name in known}
    if head.network is networks.AlbertForSequenceClassification:
        # It reads the pooled output alone, so the last block need not be computed elsewhere.
        settings["read_positions"] = jnp.zeros((len(batch["input_ids"]), 0), jnp.int32)
    return apply(
        model,
        params,
        *(inputs[name] for name in PACKED_INPUTS),
        network=head.network,
        dtype=compute.dtype,
        attention=compute.attention,
        **{name: inputs[name] for name in PACKED_SETTINGS},
        **settings,
    )


# ---- one label, a number or several labels for each text


def _sequence_targets(split: Split, part: Part, dtype: type, width: int | None = None) -> Arrays:
    packed = part.packed
    shape = packed.first_positions.shape
    weights = np.zeros(shape, np.float32)
    labels = np.zeros(shape if width is None else (*shape, width), dtype)
    for place in packed.places:
        weights[place.row, place.slot] = 1.0
        label = split.examples[split.sequences[place.index].example].label
        if width is None:
            labels[place.row, place.slot] = label
        else:
            labels[place.row, place.slot, list(label)] = 1.0
    return {"labels": labels, "weights": weights}


def _by_sequence(packed: PackedBatch, outputs: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for place in packed.places:
        yield place.index, outputs[place.row, place.slot]


def _stacked(split: Split, found: list[np.ndarray]) -> np.ndarray:
    return np.stack(found)


def classification_head() -> Head:
    """One class for each text or pair; of examples: logits [n, labels]."""
    return Head(
        model="AlbertForSequenceClassification",
        network=networks.AlbertForSequenceClassification,
        targets=partial(_sequence_targets, dtype=np.int32),
        sums=lambda output, batch: classification_sums(output.logits, batch["labels"], batch["weights"]),
        read=lambda output, batch: output.logits,
        of_sequences=_by_sequence,
        of_examples=_stacked,
    )


def regression_head() -> Head:
    """One number for each text or pair; of examples: numbers [n]."""
    return Head(
        model="AlbertForSequenceClassification",
        network=networks.AlbertForSequenceClassification,
        targets=partial(_sequence_targets, dtype=np.float32),
        sums=lambda output, batch: regression_sums(output.logits[..., 0], batch["labels"], batch["weights"]),
        read=lambda output, batch: output.logits[..., 0],
        of_sequences=_by_sequence,
        of_examples=_stacked,
    )


def multi_label_head(num_labels: int) -> Head:
    """Any number of labels for each text or pair; of examples: logits [n, labels]."""
    return Head(
        model="AlbertForSequenceClassification",
        network=networks.AlbertForSequenceClassification,
        targets=partial(_sequence_targets, dtype=np.float32, width=num_labels),
        sums=lambda output, batch: multi_label_sums(output.logits, batch["labels"], batch["weights"]),
        read=lambda output, batch: output.logits,
        of_sequences=_by_sequence,
        of_examples=_stacked,
    )


# ---- multiple choice


def _choice_targets(split: Split, part: Part, num_choices: int) -> Arrays:
    packed = part.packed
    slots = packed.first_positions.shape[1]
    # A batch over the end of an epoch may hold an example twice, and then each of its choices twice.
    units: dict[int, list[int]] = {}
    for unit, example in enumerate(part.units):
        units.setdefault(int(example), []).append(unit)
    places = np.full((len(part.units), num_choices), -1, np.int32)
    count = np.zeros(len(part.units), np.int64)
    # The choices of an example have ascending indices, in their order; copies of one choice go to the copies in turn.
    for _, copies in groupby(sorted(packed.places), key=lambda place: place.index):
        for copy, place in enumerate(copies):
            unit = units[split.sequences[place.index].example][copy]
            places[unit, count[unit]] = place.row * slots + place.slot
            count[unit] += 1
    labels = np.array([split.examples[example].label for example in part.units], np.int32)
    return {"choice_places": places, "labels": labels, "weights": np.ones(len(labels), np.float32)}


def _by_example(split: Split, found: list[np.ndarray]) -> list[np.ndarray]:
    logits: list[list[float]] = [[] for _ in split.examples]
    for sequence, logit in zip(split.sequences, found, strict=True):
        logits[sequence.example].append(float(logit))
    return [np.array(one) for one in logits]


def choice_head(num_choices: int) -> Head:
    """The right one of up to `num_choices` choices; of examples: logits [choices] each.

    Every choice is a sequence, wherever it lies: a classifier of one output computes what `AlbertForMultipleChoice`
    does, and the parameters have the same names.
    """
    return Head(
        model="AlbertForMultipleChoice",
        network=networks.AlbertForSequenceClassification,
        targets=partial(_choice_targets, num_choices=num_choices),
        sums=lambda output, batch: choice_sums(
            output.logits[..., 0], batch["choice_places"], batch["labels"], batch["weights"]
        ),
        read=lambda output, batch: output.logits[..., 0],
        of_sequences=_by_sequence,
        of_examples=_by_example,
    )


# ---- tagging


def _tagging_targets(split: Split, part: Part) -> Arrays:
    labels = np.full(part.packed.input_ids.shape, IGNORED, np.int32)
    for place in part.packed.places:
        labels[place.row, place.start : place.stop] = split.sequences[place.index].labels
    judged = labels != IGNORED
    return {"labels": np.where(judged, labels, 0), "weights": judged.astype(np.float32)}


def _tags_by_sequence(packed: PackedBatch, best: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for place in packed.places:
        yield place.index, best[place.row, place.start : place.stop]


def _tags_by_example(split: Split, found: list[np.ndarray]) -> list[np.ndarray]:
    parts: list[list[np.ndarray]] = [[] for _ in split.examples]
    for sequence, best in zip(split.sequences, found, strict=True):
        parts[sequence.example].append(best[sequence.word_starts])
    return [np.concatenate(some) for some in parts]


def tagging_head() -> Head:
    """A label for each word, on its first piece; of examples: int [words] each."""
    return Head(
        model="AlbertForTokenClassification",
        network=networks.AlbertForTokenClassification,
        targets=_tagging_targets,
        sums=lambda output, batch: classification_sums(output.logits, batch["labels"], batch["weights"]),
        read=lambda output, batch: output.logits.argmax(-1),
        of_sequences=_tags_by_sequence,
        of_examples=_tags_by_example,
        draws_examples=False,
    )


# ---- question answering


def _span_targets(split: Split, part: Part) -> Arrays:
    shape = part.packed.first_positions.shape
    starts, ends = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    impossible, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for place in part.packed.places:
        feature = split.sequences[place.index]
        here = place.row, place.slot
        starts[here], ends[here] = place.start + feature.start, place.start + feature.end
        impossible[here], weights[here] = feature.is_impossible, 1.0
    return {"start_positions": starts, "end_positions": ends, "impossible": impossible, "weights": weights}


def _logits_by_window(packed: PackedBatch, logits: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for place in packed.places:
        yield place.index, logits[place.row, place.start : place.stop]


def span_head(*, no_answer: bool, n_best: int = N_BEST, max_answer_length: int = MAX_ANSWER_LENGTH) -> Head:
    """Two logits for each piece, as Google's SQuAD 1.1 code and Hugging Face have them; of examples: `SquadAnswer`s."""

    def answers(split: Split, logits: list[np.ndarray]) -> list[SquadAnswer]:
        return plain_answers(
            split.examples,
            split.sequences,
            logits,
            no_answer=no_answer,
            n_best=n_best,
            max_answer_length=max_answer_length,
        )

    return Head(
        model="AlbertForQuestionAnswering",
        network=networks.AlbertForQuestionAnswering,
        targets=_span_targets,
        sums=lambda output, batch: span_sums(
            output.logits, batch["attention_mask"], batch["start_positions"], batch["end_positions"], batch["weights"]
        ),
        read=lambda output, batch: output.logits,
        of_sequences=_logits_by_window,
        of_examples=answers,
        draws_examples=False,
    )


def _answerable(split: Split, packed: PackedBatch) -> Arrays:
    allowed = np.zeros(packed.input_ids.shape, bool)
    for place in packed.places:
        allowed[place.row, place.start : place.stop] = split.sequences[place.index].answerable
    return {"answerable": allowed}


def _beams_by_window(packed: PackedBatch, beams: dict[str, np.ndarray]) -> Iterator[tuple[int, BeamScores]]:
    for place in packed.places:
        found = {name: values[place.row, place.slot] for name, values in beams.items()}
        yield (
            place.index,
            BeamScores(
                found["start_top_log_probs"],
                found["start_top_index"] - place.start,
                found["end_top_log_probs"],
                found["end_top_index"] - place.start,
                float(found["answer_class"]),
            ),
        )


def beam_head(*, n_best: int = N_BEST, max_answer_length: int = MAX_ANSWER_LENGTH) -> Head:
    """Google's SQuAD 2.0 head: ends conditioned on starts, and whether there is an answer; of examples:
    `SquadAnswer`s."""

    def answers(split: Split, beams: list[BeamScores]) -> list[SquadAnswer]:
        return beam_answers(split.examples, split.sequences, beams, n_best=n_best, max_answer_length=max_answer_length)

    return Head(
        model="AlbertForBeamQuestionAnswering",
        network=networks.AlbertForBeamQuestionAnswering,
        targets=_span_targets,
        sums=lambda output, batch: span_beam_sums(
            output, batch["start_positions"], batch["end_positions"], batch["impossible"], batch["weights"]
        ),
        read=lambda output, batch: {name: getattr(output, name) for name in BeamScores._fields},
        of_sequences=_beams_by_window,
        of_examples=answers,
        draws_examples=False,
        inputs=_answerable,
        training_inputs=("start_positions",),
    )
