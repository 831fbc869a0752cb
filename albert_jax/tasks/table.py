"""A user's own data: a .csv, .tsv, .jsonl or .json file with named columns becomes examples of any task. What the
columns leave open must be said; what a file of another task would be read as is an error that names line and column."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from albert_jax.errors import UserError
from albert_jax.tasks.examples import ChoiceExample, TaggingExample, TextExample, listing, read_lines, read_rows
from albert_jax.tasks.squad import GoldAnswer, SquadExample

Kind = Literal["classification", "regression", "multi_label", "tagging", "multiple_choice", "question_answering"]
JSON_SUFFIXES = (".jsonl", ".json")
SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES)
_WHOLE = re.compile(r"[+-]?\d{1,4000}")  # Python converts no longer ones


@dataclass(frozen=True)
class Columns:
    """The columns' names. A `pair`, `question` of choices, `id` or `answer_start` is read where it is there."""

    id: str = "id"
    text: str = "text"
    pair: str = "pair"
    label: str = "label"
    """of classification, regression, and multiple choice: there the number of the right choice from 0, or its letter"""
    labels: str = "labels"
    """of multi-label: a list in JSON; elsewhere separated by `separator`, and nothing for none"""
    words: str = "words"
    """of tagging, and `tags`: lists in JSON, elsewhere separated by spaces"""
    tags: str = "tags"
    choices: str = "choices"
    """of multiple choice: a list in JSON, elsewhere a column for each, choices0, choices1 and so on, or choice0"""
    question: str = "question"
    context: str = "context"
    answer: str = "answer"
    """of question answering: words of the context, or nothing for a question without an answer"""
    answer_start: str = "answer_start"
    """the answer's first character in the context, from 0; without it, the first place where the answer stands"""
    answers: str = "answers"
    """in JSON instead of these two: {"text": [...], "answer_start": [...]}, as Hugging Face's squad has them"""
    separator: str = "|"


@dataclass(frozen=True)
class Table:
    """What a file holds. `labels` are those of classes, tags, or several at once, in their order."""

    kind: Kind
    columns: Columns
    labels: tuple[str, ...]
    examples: list[TextExample] | list[ChoiceExample] | list[TaggingExample] | list[SquadExample]


@dataclass(frozen=True)
class _Row:
    path: Path
    line: int
    cells: dict[str, Any]
    unit: Literal["line", "item"] = "line"
    """what `line` counts: those of the file, or the items of its JSON list"""

    @property
    def json(self) -> bool:
        return self.path.suffix in JSON_SUFFIXES

    @property
    def place(self) -> str:
        return f"{self.unit} {self.line:,}"

    def where(self, column: str) -> str:
        return f"{self.path}, {self.place}, column {column!r}"


def read_table(
    path: str | Path,
    *,
    kind: Kind | None = None,
    columns: Columns | None = None,
    like: Table | None = None,
    labelled: bool = True,
) -> Table:
    """The examples of a file with a header; in JSON the fields of the first object are the header. A .json holds an
    object on each line, as a .jsonl does, or one list of objects, whose places are then named in place of lines.

    Args:
        kind: what the examples are for. Unsaid, the columns tell: words; choices; question and context; labels; and a
            label is a class if it is words or has two values, and a number if some have a decimal point. Whole numbers
            of more than two values could be either.
        columns: their names, where they are others than the usual ones.
        like: the training file's table: its kind, columns and labels hold here, and another label is an error.
        labelled: whether the labels are there to be read; without, they are None.

    Raises:
        UserError: with file, line and column: what was found, and what was expected.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name ends in {path.suffix!r}, expected one of {listing(SUFFIXES)}")
    if kind is not None and kind not in get_args(Kind):
        raise UserError(f"kind is {kind!r}, expected one of {listing(get_args(Kind))}")
    if like is not None and (kind, columns) != (None, None):
        raise UserError("kind and columns are those of the table in `like`; give either these or that")
    in_json = path.suffix in JSON_SUFFIXES
    rows = list(_json_rows(path) if in_json else _delimited_rows(path))
    if not rows:
        raise UserError(f"{path}: no rows" + ("" if in_json else " below the header"))
    columns = like.columns if like else columns or Columns()
    kind = like.kind if like else kind or _infer_kind(rows, columns, labelled)
    known = like.labels if like else None
    _require_columns(rows[0], kind, columns, labelled)
    duplicates: dict[str, str] = {}
    for row in rows:
        if (name := _id(row, columns)) in duplicates:
            raise UserError(f"{row.where(columns.id)}: {name!r} is the id of {duplicates[name]} too")
        duplicates[name] = row.place
    match kind:
        case "classification":
            return _classification(rows, columns, labelled, known)
        case "regression":
            numbers = [_number(row, columns.label) if labelled else None for row in rows]
            return Table(kind, columns, (), _texts(rows, columns, numbers))
        case "multi_label":
            return _multi_label(rows, columns, labelled, known)
        case "tagging":
            return _tagging(rows, columns, labelled, known)
        case "multiple_choice":
            return Table(kind, columns, (), [_choice(row, columns, labelled) for row in rows])
        case "question_answering":
            return Table(kind, columns, (), [_question(row, columns, labelled) for row in rows])


# ---- rows


def _delimited_rows(path: Path) -> Iterator[_Row]:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    if not any(header):
        raise UserError(f"{path}, line 1: expected a header with the columns' names")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path}, line 1: column {listing(repeated)} occurs more than once")
    empty = None
    for line, cells in rows:
        if cells in ([], [""]):
            empty = empty or line
            continue
        if empty is not None:
            raise UserError(f"{path}, line {empty:,}: empty; remove it, or quote an empty cell in a .csv")
        if len(cells) != len(header):
            hint = "; a cell with a comma needs quotes" if path.suffix == ".csv" else ""
            raise UserError(
                f"{path}, line {line:,}: {len(cells)} cells, expected {len(header)} as in the header "
                f"({listing(header)}){hint}"
            )
        yield _Row(path, line, dict(zip(header, cells, strict=True)))


def _json_rows(path: Path) -> Iterator[_Row]:
    lines = list(read_lines(path))
    first = next((text.lstrip() for _, text in lines if text.strip()), "")
    if path.suffix == ".json" and first.startswith("["):
        items = _parse_json("\n".join(text for _, text in lines), str(path))
        rows = [_Row(path, number, item, "item") for number, item in enumerate(items, 1)]
    else:
        hint = "" if path.suffix == ".jsonl" else "; a .json holds an object on each line, or one list of objects"
        rows = [
            _Row(path, line, _parse_json(text, f"{path}, line {line:,}", hint)) for line, text in lines if text.strip()
        ]
    for row in rows:
        if not isinstance(row.cells, dict):
            found = type(row.cells).__name__
            raise UserError(f"{path}, {row.place}: {found}, expected an object with named fields")
        yield row


def _parse_json(text: str, where: str, hint: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}){hint}") from None


def _cell(row: _Row, column: str) -> Any:
    if row.cells.get(column) is None:
        raise UserError(f"{row.where(column)}: nothing there; the {row.unit} has {listing(row.cells)}")
    return row.cells[column]


def _string(row: _Row, column: str) -> str:
    value = _cell(row, column)
    if not isinstance(value, str):
        raise UserError(f"{row.where(column)}: {type(value).__name__} {value!r:.60}, expected a text")
    return value


def _strings(row: _Row, column: str, separator: str) -> tuple[str, ...]:
    """A list of texts, or a text parted at `separator`."""
    value = _cell(row, column)
    if isinstance(value, list):
        if wrong := [item for item in value if not isinstance(item, str)]:
            raise UserError(f"{row.where(column)}: {wrong[0]!r:.60} in the list, expected texts")
        return tuple(value)
    if not isinstance(value, str) or row.json:
        raise UserError(f"{row.where(column)}: {value!r:.60}, expected a list of texts")
    return tuple(item for part in value.split(separator) if (item := part.strip()))


def _label(row: _Row, column: str) -> str:
    value = _cell(row, column)
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or not str(value).strip():
        raise UserError(f"{row.where(column)}: {value!r:.60}, expected a label")
    return str(value).strip()


def _number(row: _Row, column: str) -> float:
    value = _cell(row, column)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row.where(column)}: {value!r:.60}, expected a number")
    return number


def _id(row: _Row, columns: Columns) -> str:
    value = row.cells.get(columns.id)
    return f"{row.unit}-{row.line}" if value is None or value == "" else str(value)


# ---- what the columns tell


def _infer_kind(rows: Sequence[_Row], columns: Columns, labelled: bool) -> Kind:
    first = rows[0]
    present = first.cells.keys()
    if columns.words in present:
        return "tagging"
    if columns.choices in present or _choice_columns(first, columns):
        return "multiple_choice"
    if {columns.question, columns.context} <= present:
        return "question_answering"
    if columns.labels in present:
        return "multi_label"
    if columns.label not in present or not labelled:
        raise UserError(
            f"{first.path}: the columns ({listing(present)}) do not tell what the examples are for; state kind, one of "
            f"{listing(get_args(Kind))}, and name the columns (--table.kind classification --table.columns.text NAME "
            "--table.columns.label NAME)"
        )
    values = {value if isinstance(value := _cell(row, columns.label), str) else repr(value) for row in rows}
    if all(_is_number(value) for value in values):
        if not all(_WHOLE.fullmatch(value.strip()) for value in values):
            return "regression"
        if len(values) > 2:
            raise UserError(
                f"{first.path}, column {columns.label!r}: {len(values)} different whole numbers, which could be "
                "classes or amounts; state kind, classification or regression"
            )
    decimals = {value for value in values if _is_number(value) and not _WHOLE.fullmatch(value.strip())}
    if len(decimals) > len(values) / 2:
        odd = next(row for row in rows if not _is_number(str(_cell(row, columns.label))))
        raise UserError(
            f"{odd.where(columns.label)}: {_cell(odd, columns.label)!r:.60} among decimal numbers; mend it, or state "
            "kind, classification or regression"
        )
    return "classification"


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _choice_columns(row: _Row, columns: Columns) -> list[str]:
    """choices0, choices1 and so on, or choice0, choice_1, by their numbers."""
    pattern = re.compile(rf"({re.escape(columns.choices)}|{re.escape(columns.choices.removesuffix('s'))})_?(\d{{1,9}})")
    found = [(int(match[2]), name) for name in row.cells if (match := pattern.fullmatch(name))]
    return [name for _, name in sorted(found)]


def _require_columns(row: _Row, kind: Kind, columns: Columns, labelled: bool) -> None:
    """Raises UserError where the first row lacks what the kind needs."""
    needed = {
        "classification": [columns.text, columns.label],
        "regression": [columns.text, columns.label],
        "multi_label": [columns.text, columns.labels],
        "tagging": [columns.words, columns.tags],
        "multiple_choice": [columns.text, columns.label],
        "question_answering": [columns.question, columns.context, columns.answer],
    }[kind]
    needed = needed if labelled else needed[:-1]
    if columns.answers in row.cells:
        needed = [name for name in needed if name != columns.answer]
    missing = [name for name in needed if name not in row.cells]
    if kind == "multiple_choice" and columns.choices not in row.cells and len(_choice_columns(row, columns)) < 2:
        missing.append(f"{columns.choices}0, {columns.choices}1 ..." if not row.json else columns.choices)
    if missing:
        raise UserError(
            f"{row.path}, {row.place if row.json else 'line 1'}: no column {listing(missing)} for "
            f"{kind}, found {listing(row.cells)}; name the columns, or mend the header"
        )


# ---- rows to examples


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """By their value if all are whole numbers, else by their letters."""
    if all(_WHOLE.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _position(label: str, labels: Sequence[str], row: _Row, column: str) -> int:
    if label not in labels:
        raise UserError(f"{row.where(column)}: unknown label {label!r}; the training file has {listing(labels)}")
    return labels.index(label)


def _texts(rows: Sequence[_Row], columns: Columns, labels: Sequence[Any]) -> list[TextExample]:
    paired = columns.pair in rows[0].cells
    return [
        TextExample(
            _id(row, columns), _string(row, columns.text), _string(row, columns.pair) if paired else None, label
        )
        for row, label in zip(rows, labels, strict=True)
    ]


def _classification(rows: Sequence[_Row], columns: Columns, labelled: bool, known: tuple[str, ...] | None) -> Table:
    if not labelled:
        return Table("classification", columns, known or (), _texts(rows, columns, [None] * len(rows)))
    spelled = [_label(row, columns.label) for row in rows]
    labels = _sorted_labels(set(spelled)) if known is None else known
    if len(labels) < 2:
        raise UserError(f"{rows[0].path}, column {columns.label!r}: {labels[0]!r} on every line; two labels are needed")
    numbers = [_position(one, labels, row, columns.label) for one, row in zip(spelled, rows, strict=True)]
    return Table("classification", columns, labels, _texts(rows, columns, numbers))


def _multi_label(rows: Sequence[_Row], columns: Columns, labelled: bool, known: tuple[str, ...] | None) -> Table:
    if not labelled:
        return Table("multi_label", columns, known or (), _texts(rows, columns, [None] * len(rows)))
    spelled = [_strings(row, columns.labels, columns.separator) for row in rows]
    labels = _sorted_labels({label for some in spelled for label in some}) if known is None else known
    if not labels:
        raise UserError(f"{rows[0].path}, column {columns.labels!r}: no label on any line")
    numbers = [
        tuple(sorted({_position(label, labels, row, columns.labels) for label in some}))
        for some, row in zip(spelled, rows, strict=True)
    ]
    return Table("multi_label", columns, labels, _texts(rows, columns, numbers))


def _tagging(rows: Sequence[_Row], columns: Columns, labelled: bool, known: tuple[str, ...] | None) -> Table:
    examples = []
    for row in rows:
        words, tags = _strings(row, columns.words, " "), None
        if not words:
            raise UserError(f"{row.where(columns.words)}: no words")
        if labelled:
            tags = _strings(row, columns.tags, " ")
            if len(tags) != len(words):
                raise UserError(f"{row.where(columns.tags)}: {len(tags)} tags for {len(words)} words")
            for tag in tags if known is not None else ():
                _position(tag, known, row, columns.tags)
        examples.append(TaggingExample(_id(row, columns), words, tags))
    found = _sorted_labels({tag for example in examples for tag in example.labels or ()})
    return Table("tagging", columns, found if known is None else known, examples)


def _choice(row: _Row, columns: Columns, labelled: bool) -> ChoiceExample:
    if columns.choices in row.cells:
        name, choices = columns.choices, _strings(row, columns.choices, columns.separator)
    else:
        names = _choice_columns(row, columns)
        name, choices = listing(names), tuple(_string(row, name) for name in names)
    if len(choices) < 2:
        raise UserError(f"{row.where(name)}: {len(choices)} choices, expected at least 2")
    question = _string(row, columns.question) if columns.question in row.cells else ""
    label = None
    if labelled:
        spelled = _label(row, columns.label)
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
        numbers = [str(number) for number in range(len(choices))]
        if spelled not in (*letters, *numbers):
            raise UserError(
                f"{row.where(columns.label)}: {spelled!r}, expected the right choice's number from 0 to {numbers[-1]}, "
                f"or its letter, A to {letters[-1:]}"
            )
        label = letters.index(spelled) if spelled in letters else int(spelled)
    return ChoiceExample(_id(row, columns), _string(row, columns.text), question, choices, label)


def _question(row: _Row, columns: Columns, labelled: bool) -> SquadExample:
    context, question = _string(row, columns.context), _string(row, columns.question)
    answers: list[GoldAnswer] = []
    if labelled and columns.answers in row.cells:
        column = columns.answers
        match row.cells[column]:
            case {"text": [*texts], "answer_start": [*starts]} if len(texts) == len(starts):
                given = list(zip(texts, starts, strict=True))
            case other:
                expected = '{"text": [...], "answer_start": [...]}'
                raise UserError(f"{row.where(column)}: {other!r:.60}, expected {expected} of one length")
        for text, start in given:
            if not isinstance(text, str) or not text:
                raise UserError(f"{row.where(column)}: {text!r:.60} for an answer, expected a text")
            answers.append(_answer(row, column, context, text, start))
    elif labelled and (text := _string(row, columns.answer)):
        start = row.cells.get(columns.answer_start)
        column = columns.answer if start in (None, "") else columns.answer_start
        answers.append(_answer(row, column, context, text, start))
    return SquadExample(_id(row, columns), "", question, context, tuple(answers), labelled and not answers)


def _answer(row: _Row, column: str, context: str, text: str, start: Any) -> GoldAnswer:
    """An answer where it is said to be, or at its first place where that is not said."""
    if start in (None, ""):
        if text not in context:
            raise UserError(f"{row.where(column)}: {text!r:.60} does not stand in the context")
        return GoldAnswer(text, context.index(text))
    if isinstance(start, bool) or not _WHOLE.fullmatch(str(start)):
        raise UserError(f"{row.where(column)}: {start!r:.60}, expected a whole number")
    start = int(start)
    if start < 0 or not context.startswith(text, start):
        found = context[max(0, start) : max(0, start) + len(text)]
        raise UserError(f"{row.where(column)}: at {start} stands {found!r:.60}, expected {text!r:.60}")
    return GoldAnswer(text, start)
