"""What a fine-tuning task learns from, whatever file it came from: texts, choices and tagged words, and the unpadded
sequences the tokenizer makes of them. The readers beside it give examples; batches begin where this ends."""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from albert_jax.errors import UserError
from albert_jax.files import read_file
from albert_jax.tokenizer import AlbertTokenizer

IGNORED = -100
"""The label of a piece that is not judged."""

LONGEST_CHOICE = 128
"""Pieces of question and option together that stay, as in Google's race_utils.py (`max_qa_length`)."""

Blanks = Literal["none", "runs", "characters"]
"""What an option does with the underscores of its question: nothing, and it follows behind; it takes the place of each
run of them; or of each single one, as in Google's code."""


@dataclass(frozen=True)
class TextExample:
    """A text, or two, with a class, a number, or the classes that hold (ascending); None is unknown."""

    id: str
    text: str
    pair: str | None
    label: int | float | tuple[int, ...] | None


@dataclass(frozen=True)
class ChoiceExample:
    """A text, a question about it or "", and the answers to choose from; `label` counts them from 0."""

    id: str
    text: str
    question: str
    choices: tuple[str, ...]
    label: int | None
    group: str | None = None
    """A part of the data set that is also judged alone: "middle" or "high" for RACE"""


@dataclass(frozen=True)
class TaggingExample:
    """Words and the tag of each, as the file spells them; None is unknown."""

    id: str
    words: tuple[str, ...]
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Hyperparameters:
    """What a task is fine-tuned with; linear warm-up and decay, AdamW, gradients clipped to 1.0."""

    learning_rate: float
    batch_size: int
    encoder_dropout: float
    classifier_dropout: float
    steps: int
    warmup_steps: int
    max_length: int
    source: str


@dataclass(frozen=True)
class Published:
    """A published result in percent, on the development set unless `source` says otherwise."""

    model: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class TaskSequence:
    """One sequence for the model, of n ids. Of a choice example there is one for each choice, in their order."""

    example: int
    """which of the examples it is of, or is a part of"""
    input_ids: np.ndarray
    """uint16 [n], as every ALBERT vocabulary fits; with segments and in int32 RACE would take more than a gigabyte"""
    first: int
    """how many ids are of segment 0: those up to the first [SEP], it included"""
    word_starts: np.ndarray | None = None
    """int32 [words], for tagging: where the first piece of each word is"""
    first_word: int = 0
    """which word of the example that begins with"""
    labels: np.ndarray | None = None
    """int32 [n], for tagging with known tags: the label on the first piece of each word, elsewhere -100"""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def token_type_ids(self) -> np.ndarray:
        """uint8 [n]: 0 up to the first [SEP], it included, and 1 behind"""
        return (np.arange(len(self.input_ids)) >= self.first).astype(np.uint8)


@dataclass(frozen=True)
class TaskSequences:
    """The sequences of all examples in their order, and how many examples lost pieces to the length."""

    sequences: list[TaskSequence]
    examples: int
    truncated: int

    @property
    def truncated_share(self) -> float:
        return self.truncated / self.examples if self.examples else 0.0


# ---- examples to sequences


def encode_texts(examples: Sequence[TextExample], tokenizer: AlbertTokenizer, max_length: int) -> TaskSequences:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], of at most `max_length` ids.

    What is too long loses pieces at the end of the longer of the two, of the second where they are equal, as in
    Google's code. `AlbertTokenizer.build`'s longest_first, after Hugging Face, differs by one piece where two long
    texts share an odd number of places and the second is not the shorter.
    """
    paired = [example for example in examples if example.pair is not None]
    _require_room(max_length, 3 if paired else 2)
    texts = encode_all(tokenizer, [e.text for e in examples], [e.id for e in examples])
    pairs = iter(encode_all(tokenizer, [e.pair for e in paired], [e.id for e in paired]))
    sequences, truncated = [], 0
    for number, (example, text) in enumerate(zip(examples, texts, strict=True)):
        pair = None if example.pair is None else next(pairs)
        if pair is None:
            kept, rest = min(len(text), max_length - 2), 0
        else:
            kept, rest = _shared_room(len(text), len(pair), max_length - 3)
        truncated += kept < len(text) or (pair is not None and rest < len(pair))
        sides = [text[:kept]] if pair is None else [text[:kept], pair[:rest]]
        sequences.append(TaskSequence(number, *join_sides(tokenizer, sides)))
    return TaskSequences(sequences, len(examples), truncated)


def encode_choices(
    examples: Sequence[ChoiceExample],
    tokenizer: AlbertTokenizer,
    max_length: int,
    *,
    blanks: Blanks = "none",
    longest_choice: int = LONGEST_CHOICE,
) -> TaskSequences:
    """[CLS] text [SEP] question option [SEP] for each choice.

    Of question and option the last `longest_choice` pieces stay, and the text is cut at its end to what room is left:
    Google's rule for RACE. `blanks` says what becomes of underscores in the question.
    """
    _require_room(max_length, 4)
    if blanks not in get_args(Blanks):
        raise UserError(f"blanks is {blanks!r}, expected one of {', '.join(get_args(Blanks))}")
    if longest_choice < 1:
        raise UserError(f"longest_choice is {longest_choice}, expected at least 1")
    room, longest_choice = max_length - 3, min(longest_choice, max_length - 3)
    sequences, truncated, number = [], 0, 0
    # The questions of an article stand side by side: it is encoded once, and few articles are held at a time.
    for article, group in groupby(examples, key=lambda example: example.text):
        asked = list(group)
        (text,) = encode_all(tokenizer, [article], [asked[0].id])
        answers = [(e.id, fill_blanks(tokenizer, e.question, c, blanks)) for e in asked for c in e.choices]
        encoded = iter(encode_all(tokenizer, [answer for _, answer in answers], [id for id, _ in answers]))
        for example in asked:
            cut = False
            for _ in example.choices:
                whole = next(encoded)
                answer = whole[-longest_choice:]
                kept = text[: room - len(answer)]
                cut |= len(answer) < len(whole) or len(kept) < len(text)
                sequences.append(TaskSequence(number, *join_sides(tokenizer, [kept, answer])))
            truncated += cut
            number += 1
    return TaskSequences(sequences, len(examples), truncated)


def fill_blanks(tokenizer: AlbertTokenizer, question: str, option: str, blanks: Blanks) -> str:
    """Question and option as one text, both normalised. Without an underscore the option follows the question."""
    question, option = tokenizer.normalize(question), tokenizer.normalize(option)
    if blanks == "none" or "_" not in question:
        return f"{question} {option}".strip()
    if blanks == "characters":
        return question.replace("_", option)
    return "".join(option if blank else "".join(run) for blank, run in groupby(question, "_".__eq__))


def encode_all(tokenizer: AlbertTokenizer, texts: Sequence[str], ids: Sequence[str]) -> list[np.ndarray]:
    """uint16 ids of each text, without [CLS] and [SEP]. A `UserError` names the example by its id."""
    try:
        return tokenizer.encode_batch(texts)
    except UserError:
        for id, text in zip(ids, texts, strict=True):
            try:
                tokenizer.encode(text)
            except UserError as error:
                raise UserError(f"example {id}: {error}") from None
        raise


def join_sides(tokenizer: AlbertTokenizer, sides: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """[CLS], and each side with a [SEP] behind: uint16 ids, and how many are of segment 0."""
    cls, sep = (np.array([id], np.uint16) for id in (tokenizer.cls_id, tokenizer.sep_id))
    parts = [part for side in sides for part in (side, sep)]
    return np.concatenate([cls, *parts], dtype=np.uint16, casting="unsafe"), len(sides[0]) + 2


def _shared_room(first: int, second: int, room: int) -> tuple[int, int]:
    """How many pieces of two texts stay: from the longer the last is taken, on a tie from the second, until they
    fit."""
    if first + second <= room:
        return first, second
    half = room // 2
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half


def _require_room(max_length: int, least: int) -> None:
    if max_length < least:
        raise UserError(f"max_length is {max_length}, expected at least {least} for [CLS], [SEP] and a piece")


# ---- what is in the data


def count_labels(examples: Sequence[TextExample | ChoiceExample | TaggingExample], labels: Sequence[str]) -> dict:
    """How many examples (tagging: words) have each label, in the order of `labels`, also where none has; the key None
    counts what is unlabelled. For choices give names of their positions, "ABCD". Not for the numbers of a regression.
    """
    counts: Counter = Counter()
    for example in examples:
        label = example.label if not isinstance(example, TaggingExample) else example.labels
        several = label if isinstance(label, tuple) else (label,)
        counts.update(labels[one] if isinstance(one, int) else one for one in several)
    known = {label: counts.pop(label, 0) for label in labels}
    return known | dict(sorted(counts.items(), key=lambda item: str(item[0])))


def describe_labels(
    examples: Sequence[TextExample | ChoiceExample | TaggingExample], labels: Sequence[str] = ()
) -> str:
    """The balance of the classes in one line; without `labels` that of a regression's numbers."""
    if not examples:
        return "no examples"
    if not labels:
        numbers = [e.label for e in examples if isinstance(e, TextExample) and isinstance(e.label, int | float)]
        if not numbers:
            return f"{len(examples):,} examples without labels"
        mean, spread = np.mean(numbers), np.std(numbers)
        return (
            f"{len(numbers):,} numbers from {min(numbers):g} to {max(numbers):g}, "
            f"mean {mean:.2f}, standard deviation {spread:.2f}"
        )
    if all((e.labels if isinstance(e, TaggingExample) else e.label) is None for e in examples):
        return f"{len(examples):,} examples without labels"
    counts = count_labels(examples, labels)
    # Of several labels for one example, or of words, the shares are of what could have the label.
    words = isinstance(examples[0], TaggingExample)
    total = sum(counts.values()) if words else len(examples)
    shares = (f"{label or 'without label'} {n:,} ({n / total:.1%})" for label, n in counts.items())
    return f"{len(examples):,} examples{f' of {total:,} tags' if words else ''}: {', '.join(shares)}"


# ---- files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, from 1, without the BOM and the line end. Only a line feed ends a line: the other
    characters that Python takes for line ends occur in texts."""
    lines = read_file(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise UserError(f"{path}, line {number:,}: not UTF-8 (byte 0x{byte:02x}); convert the file") from None


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row of a .tsv, where quotation marks are ordinary characters, or of a .csv, where a
    quoted cell may hold commas, line ends and doubled quotation marks."""
    if path.suffix != ".csv":
        for number, line in read_lines(path):
            yield number, line.split("\t")
        return
    # Python's own limit is 131,072 characters a cell; contexts may be longer.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    before = 0
    try:
        for row in reader:
            yield before + 1, row
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, line {before + 1:,}: not csv ({error}); quote the cell, doubling its quotes"
        ) from None


def listing(names: Iterable[object]) -> str:
    """Names for a message, at most 20 of them, on one line: those of a .csv's columns may have line ends."""
    names = [str(name).replace("\n", "\\n") for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") if names else "none"
