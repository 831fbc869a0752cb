"""Multiple choice: RACE as its authors distribute it, DREAM, and SWAG-like csv files, all as `ChoiceExample`s."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albert_jax.errors import UserError
from albert_jax.tasks.examples import (
    Blanks,
    ChoiceExample,
    Hyperparameters,
    TaskSequences,
    encode_choices,
    listing,
    read_lines,
    read_rows,
)
from albert_jax.tokenizer import AlbertTokenizer

GROUPS = ("middle", "high")
SPLITS = ("train", "dev", "test")
ALL = "all.txt"
"""Google's run_race.py read one file with an article on each line; the distribution has one file for each article."""

RACE_V1 = Hyperparameters(2e-5, 32, 0.1, 0.1, 12_000, 1_000, 512, "paper, Table 14")
RACE_V2 = Hyperparameters(1e-5, 32, 0.0, 0.1, 12_000, 1_000, 512, "paper, Table 14; rate and dropout: Google's README")
"""With RACE_V1's rate and dropout the second version diverges, says Google's README."""


def read_race(data_dir: str | Path, split: str, groups: Sequence[str] = GROUPS) -> list[ChoiceExample]:
    """The questions of RACE in the order of the groups, of the articles' numbers, and of each article.

    `data_dir` is the folder RACE or the one around it; in a group's folder lies either a file for each article, or
    all.txt with one on each line. Articles without "answers" have no labels. Raises UserError with file and line.
    """
    if split not in SPLITS:
        raise UserError(f"RACE has no split {split!r}; there are {listing(SPLITS)}")
    if not groups or (unknown := [group for group in groups if group not in GROUPS]):
        raise UserError(f"RACE has no group {listing(unknown) if groups else '()'}; there are {listing(GROUPS)}")
    root = Path(data_dir).expanduser()
    root = root / "RACE" if (root / "RACE").is_dir() else root
    examples: list[ChoiceExample] = []
    for group in groups:
        folder = root / split / group
        for path in _article_files(folder):
            # An article's own file may be laid out over several lines.
            whole = path.name != ALL
            lines = [(1, "\n".join(line for _, line in read_lines(path)))] if whole else read_lines(path)
            for line, text in lines:
                where = str(path) if whole else f"{path}, line {line:,}"
                examples += _article(_json(text, where), where, path.stem if whole else f"line{line}", group)
    if not examples:
        raise UserError(f"{root / split}: the articles of {' and '.join(groups)} hold no questions")
    return examples


def encode_race(
    examples: Sequence[ChoiceExample], tokenizer: AlbertTokenizer, max_length: int = 512, *, blanks: Blanks = "runs"
) -> TaskSequences:
    """`encode_choices` with the options in the blanks of the questions.

    Google replaces every single underscore, so that "___" would hold the option three times; here a run of them is one
    blank. Both rules agree on RACE as we have it: of 81,190 training and development questions none has a longer run.
    """
    return encode_choices(examples, tokenizer, max_length, blanks=blanks)


def read_dream(path: str | Path) -> list[ChoiceExample]:
    """The questions of DREAM: train.json, dev.json or test.json, or a folder's of that name given as its path."""
    path = Path(path).expanduser()
    dialogues = _json("\n".join(line for _, line in read_lines(path)), str(path))
    if not isinstance(dialogues, list) or not dialogues:
        raise UserError(f"{path}: expected a list of dialogues, [[turns], [questions], id] each")
    examples = []
    for number, dialogue in enumerate(dialogues):
        where = f"{path}, dialogue {number + 1:,}"
        match dialogue:
            case [[*turns], [*questions], str(name)] if all(isinstance(turn, str) for turn in turns):
                pass
            case _:
                raise UserError(f"{where}: expected [[turns], [questions], id]")
        for i, question in enumerate(questions):
            there = f"{where} ({name}), question {i + 1}"
            match question:
                case {"question": str(asked), "choice": [*choices]} if all(isinstance(c, str) for c in choices):
                    answer = question.get("answer")
                case _:
                    raise UserError(f"{there}: expected question, choice and answer")
            if answer is not None and answer not in choices:
                raise UserError(f"{there}: the answer is {answer!r}, which is none of its choices: {listing(choices)}")
            label = None if answer is None else choices.index(answer)
            examples.append(ChoiceExample(f"{name}-{i}", "\n".join(turns), asked, tuple(choices), label))
    return examples


def read_swag(path: str | Path) -> list[ChoiceExample]:
    """SWAG's csv: sent1 is the text and sent2 the beginning of each ending; with startphrase alone that is the text.
    Without a column label nothing is known. Raises UserError with file and line."""
    path = Path(path).expanduser()
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    endings = [f"ending{i}" for i in range(4)]
    starts = ["sent1", "sent2"] if {"sent1", "sent2"} <= set(header) else ["startphrase"]
    if missing := [name for name in (*starts, *endings) if name not in header]:
        raise UserError(
            f"{path}, line 1: no column {listing(missing)}; expected sent1 and sent2 or startphrase, "
            f"{listing(endings)} and label, found {listing(header)}"
        )
    examples = []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line:,}: {len(row)} cells, expected {len(header)} as in the header")
        cells = dict(zip(header, row, strict=True))
        label = None
        if "label" in cells:
            if cells["label"] not in ("0", "1", "2", "3"):
                raise UserError(f"{path}, line {line:,}: the label is {cells['label']!r}, expected 0, 1, 2 or 3")
            label = int(cells["label"])
        text, question = cells[starts[0]], cells["sent2"] if len(starts) == 2 else ""
        choices = tuple(cells[name] for name in endings)
        examples.append(ChoiceExample(str(len(examples)), text, question, choices, label))
    if not examples:
        raise UserError(f"{path}: no rows below the header")
    return examples


def _article_files(folder: Path) -> list[Path]:
    """all.txt, or the articles' files by number. Raises UserError where there is neither, or both."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected RACE/{{train,dev,test}}/{{middle,high}}/*.txt")
    found = [path for path in folder.glob("*.txt") if not path.name.startswith(".")]
    if not found:
        raise UserError(f"{folder}: holds no articles; expected {ALL} or a .txt file for each article")
    if len(found) > 1 and folder / ALL in found:
        raise UserError(f"{folder}: holds {ALL} and {len(found) - 1:,} other .txt files; remove the one or the others")
    return sorted(found, key=lambda path: (len(path.stem), path.stem))


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None


def _article(article: Any, where: str, name: str, group: str) -> list[ChoiceExample]:
    """The questions of an article; `name` stands in for an id that it lacks."""
    match article:
        case {"article": str(text), "questions": [*questions], "options": [*options]}:
            answers = article.get("answers")
        case _:
            found = listing(article) if isinstance(article, dict) else type(article).__name__
            raise UserError(f"{where}: expected article, questions, options and answers, found {found}")
    name = str(article.get("id", name)).removesuffix(".txt")
    lengths = {len(questions), len(options), len(questions if answers is None else answers)}
    if len(lengths) > 1:
        raise UserError(f"{where}: questions, options and answers differ in number: {listing(sorted(lengths))}")
    examples = []
    for i, (question, choices) in enumerate(zip(questions, options, strict=True)):
        there = f"{where}, question {i + 1}"
        if not isinstance(question, str) or not isinstance(choices, list) or len(choices) != 4:
            raise UserError(f"{there}: expected a text and a list of 4 options")
        if not all(isinstance(choice, str) for choice in choices):
            raise UserError(f"{there}: expected options that are texts, found {choices}")
        if answers is not None and answers[i] not in ("A", "B", "C", "D"):
            raise UserError(f"{there}: the answer is {answers[i]!r}, expected A, B, C or D")
        label = None if answers is None else ord(answers[i]) - ord("A")
        examples.append(ChoiceExample(f"{name}-{i}", text, question, tuple(choices), label, group))
    return examples
