"""Tagging: CoNLL's columns or datasets to words with tags, IOB1 to IOB2 and back, and words to sequences of pieces."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from albert_jax.errors import UserError
from albert_jax.tasks.datasets import class_name, is_dataset, open_dataset, require_columns, require_split
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
CONLL_FILES = {
    "train": ("eng.train", "train.txt"),
    "dev": ("eng.testa", "valid.txt"),
    "test": ("eng.testb", "test.txt"),
}
"""The official name, and the one in the distribution that the datasets are made of."""

Scheme = Literal["iob1", "iob2", "as_is"]


def open_conll(split: str, data_dir: str | Path, scheme: Scheme = "iob2") -> list[TaggingExample]:
    """The sentences of CoNLL-2003's "train", "dev" or "test", the same ones from every source.

    `data_dir` is a folder with `CONLL_FILES`, or a dataset as in `open_dataset`: `hf:conll2003`, `hf:FOLDER` or
    `tfds:conll2003`. The official files are in IOB1 and the datasets in IOB2; `scheme` is what all become, or "as_is".
    Those on the hub have the files' order; TensorFlow Datasets shuffles as it writes and keeps no index, so its own
    order stays, and ids count it.

    Raises:
        UserError: as `read_conll`; or no such split, file or scheme; or tags that are in neither scheme.
    """
    require_split("CoNLL-2003", split)
    if scheme not in get_args(Scheme):
        raise UserError(f"scheme is {scheme!r}, expected one of {listing(get_args(Scheme))}")
    if is_dataset(data_dir):
        examples = _dataset_sentences(split, data_dir)
    else:
        paths = [Path(data_dir).expanduser() / name for name in CONLL_FILES[split]]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UserError(f"{Path(data_dir)}: holds neither {' nor '.join(CONLL_FILES[split])}")
        examples = read_conll(path)
    if scheme == "as_is":
        return examples
    convert = to_iob1 if scheme == "iob1" else to_iob2
    converted = []
    for example in examples:
        try:
            converted.append(replace(example, labels=convert(example.labels or ())))
        except UserError as error:
            raise UserError(f"{data_dir}, sentence {example.id} of {split}: {error}") from None
    return converted


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


def _dataset_sentences(split: str, source: str | Path) -> list[TaggingExample]:
    """Rows of tokens, and ner_tags on the hub or ner in TensorFlow's; without those that are empty, or but a
    -DOCSTART-."""
    data = open_dataset(source, split, usual="conll2003")
    examples: list[TaggingExample] = []
    for where, row in data:
        column = "ner" if "ner" in row else "ner_tags"
        require_columns(row, ("tokens", column), where)
        words, tags = row["tokens"], row[column]
        if not isinstance(words, list) or not isinstance(tags, list) or not all(isinstance(w, str) for w in words):
            raise UserError(f"{where}: expected a list of texts as tokens and a list of tags as {column}")
        if len(words) != len(tags):
            raise UserError(f"{where}: {len(tags)} {column} for {len(words)} tokens")
        if words in ([], [DOCUMENT_START]):
            continue
        names = data.class_names.get(column)
        spelled = tuple(
            class_name(tag, names, f"tag of {word!r}", where) for word, tag in zip(words, tags, strict=True)
        )
        examples.append(TaggingExample(str(len(examples)), tuple(words), spelled))
    if not examples:
        raise UserError(f"{data.title}: the {split} split holds no words")
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
