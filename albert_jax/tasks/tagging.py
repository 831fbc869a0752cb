"""Tagging: CoNLL's columns to words with tags, IOB1 to IOB2 and back, and words to sequences of pieces."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from albert_jax.errors import UserError
from albert_jax.tasks.examples import (
    IGNORED,
    TaggingExample,
    TaskSequence,
    TaskSequences,
    encode_all,
    join_sides,
    listing,
    read_lines,
)
from albert_jax.tokenizer import AlbertTokenizer

DOCUMENT_START = "-DOCSTART-"
OUTSIDE = "O"


def read_conll(path: str | Path, labels: Sequence[str] | None = None, *, labelled: bool = True) -> list[TaggingExample]:
    """The sentences of a file with a word on each line, its tag in the last column, and a blank line behind each
    sentence. Columns are separated by white space, or by tabs where there are any; -DOCSTART- lines are no words.

    The tags stay as they are spelled, in IOB1, IOB2 or anything else.

    Args:
        labels: the tags that may occur, of the training file, say; any if None.
        labelled: whether the last column is a tag; if not, the first is read alone.

    Raises:
        UserError: with file and line: another number of columns than in the first line, an unknown tag, no sentence.
    """
    path = Path(path).expanduser()
    examples: list[TaggingExample] = []
    words: list[str] = []
    tags: list[str] = []
    columns = None

    def end_sentence() -> None:
        if words:
            examples.append(TaggingExample(str(len(examples)), tuple(words), tuple(tags) if labelled else None))
        words.clear()
        tags.clear()

    for number, line in read_lines(path):
        # Not str.split() alone: CoNLL-like files of other languages have no-break spaces within words.
        cells = line.strip("\t ").split("\t") if "\t" in line.strip("\t ") else re.findall("[^ \t]+", line)
        if not line.strip():
            end_sentence()
            continue
        if cells[0] == DOCUMENT_START:
            end_sentence()
            continue
        columns = columns or len(cells)
        if len(cells) != columns:
            raise UserError(f"{path}, line {number:,}: {len(cells)} columns, expected {columns} as above: {line!r}")
        if labelled:
            if columns < 2:
                raise UserError(f"{path}, line {number:,}: one column, expected a word and its tag: {line!r}")
            if not cells[-1] or (labels is not None and cells[-1] not in labels):
                known = "a tag" if labels is None else f"one of {listing(labels)}"
                raise UserError(f"{path}, line {number:,}: the tag is {cells[-1]!r}, expected {known}")
            tags.append(cells[-1])
        words.append(cells[0])
    end_sentence()
    if not examples:
        raise UserError(f"{path}: holds no words; expected a word and its tag on each line")
    return examples


def tag_labels(examples: Sequence[TaggingExample]) -> tuple[str, ...]:
    """Every tag that occurs, sorted."""
    return tuple(sorted({tag for example in examples for tag in example.labels or ()}))


def encode_tagging(
    examples: Sequence[TaggingExample],
    tokenizer: AlbertTokenizer,
    max_length: int,
    labels: Sequence[str] = (),
) -> TaskSequences:
    """[CLS] pieces of the words [SEP]; each word encoded alone, so with the space in front that SentencePiece puts
    there. Its first piece has its label, as the place of its tag in `labels`, all others -100.

    A sentence beyond `max_length` ids becomes several sequences, parted between words, and no word is lost; a word that
    alone is longer keeps its first pieces, and its example counts as truncated. A word that the tokenizer drops (a
    zero-width space, say) is one unknown piece, for it has a tag as well.
    """
    room = max_length - 2
    if room < 1:
        raise UserError(f"max_length is {max_length}, expected at least 3 for [CLS], [SEP] and a piece")
    numbers = {label: number for number, label in enumerate(labels)}
    users = {word: example.id for example in reversed(examples) for word in example.words}
    vocabulary = dict(zip(users, encode_all(tokenizer, list(users), list(users.values())), strict=True))
    unknown = np.array([tokenizer.unk_id], np.uint16)
    sequences, truncated = [], 0
    for number, example in enumerate(examples):
        whole = [vocabulary[word] if len(vocabulary[word]) else unknown for word in example.words]
        pieces = [word[:room] for word in whole]
        truncated += any(len(word) > room for word in whole)
        known = None if example.labels is None else np.array(_numbers(example, numbers), np.int32)
        for start, stop in _parts([len(word) for word in pieces], room):
            ids, first = join_sides(tokenizer, [np.concatenate(pieces[start:stop])])
            # Place 0 is [CLS].
            starts = 1 + np.cumsum([0, *(len(word) for word in pieces[start : stop - 1])]).astype(np.int32)
            targets = None
            if known is not None:
                targets = np.full(len(ids), IGNORED, np.int32)
                targets[starts] = known[start:stop]
            sequences.append(TaskSequence(number, ids, first, starts.astype(np.int32), start, targets))
    return TaskSequences(sequences, len(examples), truncated)


def _numbers(example: TaggingExample, numbers: dict[str, int]) -> list[int]:
    if unknown := set(example.labels or ()) - set(numbers):
        raise UserError(f"example {example.id}: unknown tag {listing(sorted(unknown))}; known are {listing(numbers)}")
    return [numbers[tag] for tag in example.labels or ()]


def _parts(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Runs of words, each of as many as fit into `room` pieces."""
    start, used = 0, 0
    for i, length in enumerate(lengths):
        if used + length > room:
            yield start, i
            start, used = i, 0
        used += length
    if lengths:
        yield start, len(lengths)


# ---- kinds of tags


class Entity(NamedTuple):
    """Words `start` up to `stop`, without it, of one kind."""

    kind: str
    start: int
    stop: int


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of tags in IOB1 or IOB2: a B-, or an I- of another kind than the word before it, begins one."""
    found: list[Entity] = []
    for i, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        prefix, kind = _taken_apart(tag)
        if prefix == "I" and found and found[-1].stop == i and found[-1].kind == kind:
            found[-1] = found[-1]._replace(stop=i + 1)
        else:
            found.append(Entity(kind, i, i + 1))
    return found


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Every entity begins with B-. Takes IOB1 and IOB2."""
    result = [OUTSIDE] * len(tags)
    for kind, start, stop in find_entities(tags):
        result[start:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - start - 1)]
    return tuple(result)


def to_iob1(tags: Sequence[str]) -> tuple[str, ...]:
    """B- only where an entity follows one of the same kind without a word between. Takes IOB1 and IOB2."""
    result = [OUTSIDE] * len(tags)
    before = None
    for entity in find_entities(tags):
        touches = before is not None and before.stop == entity.start and before.kind == entity.kind
        result[entity.start : entity.stop] = [f"I-{entity.kind}"] * (entity.stop - entity.start)
        if touches:
            result[entity.start] = f"B-{entity.kind}"
        before = entity
    return tuple(result)


def _taken_apart(tag: str) -> tuple[str, str]:
    prefix, dash, kind = tag.partition("-")
    if prefix not in ("B", "I") or not dash or not kind:
        raise UserError(f"tag {tag!r}: expected {OUTSIDE}, or B- or I- and a kind, as IOB1 and IOB2 have them")
    return prefix, kind
