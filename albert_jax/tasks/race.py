"""Multiple choice: RACE, DREAM and SWAG, from the files that their authors distribute or from datasets, all as
`ChoiceExample`s."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from albert_jax.errors import UserError
from albert_jax.tasks.datasets import is_dataset, open_dataset, require_columns, require_split
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
ALL = "all.txt"
"""Google's run_race.py read one file with an article on each line; the distribution has one file for each article."""

SWAG_FILES = {"train": "train.csv", "dev": "val.csv", "test": "test.csv"}
ENDINGS = ("ending0", "ending1", "ending2", "ending3")

RACE_V1 = Hyperparameters(2e-5, 32, 0.1, 0.1, 12_000, 1_000, 512, "paper, Table 14")
RACE_V2 = Hyperparameters(1e-5, 32, 0.0, 0.1, 12_000, 1_000, 512, "paper, Table 14; rate and dropout: Google's README")
"""With RACE_V1's rate and dropout the second version diverges, says Google's README."""


def read_race(data_dir: str | Path, split: str, groups: Sequence[str] = GROUPS) -> list[ChoiceExample]:
    """The questions of RACE in the order of the groups, of the articles' numbers, and of each article.

    `data_dir` is the folder RACE or the one around it; in a group's folder lies either a file for each article, or
    all.txt with one on each line. Or it is a dataset as in `open_dataset`: `hf:race`, `hf:FOLDER` (of both groups, or
    with a folder for each) or `tfds:race`, which needs TensorFlow to be prepared, though not to be read. Articles
    without "answers" have no labels. Raises UserError with file and line, or the dataset and row.
    """
    require_split("RACE", split)
    if not groups or (unknown := [group for group in groups if group not in GROUPS]):
        raise UserError(f"RACE has no group {listing(unknown) if groups else '()'}; there are {listing(GROUPS)}")
    if is_dataset(data_dir):
        return [example for group in groups for example in _race_rows(data_dir, split, group)]
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


def open_dream(split: str, data_dir: str | Path) -> list[ChoiceExample]:
    """The questions of DREAM's "train", "dev" or "test", all with their answers, from the folder of train.json,
    dev.json and test.json, or from a dataset as in `open_dataset`: `hf:dream` or `hf:FOLDER`."""
    require_split("DREAM", split)
    if not is_dataset(data_dir):
        return read_dream(Path(data_dir) / f"{split}.json")
    data = open_dataset(data_dir, split, usual="dream")
    examples: list[ChoiceExample] = []
    asked: Counter[str] = Counter()
    for where, row in data:
        require_columns(row, ("dialogue_id", "dialogue", "question", "choice"), where)
        name, turns = row["dialogue_id"], row["dialogue"]
        if not isinstance(name, str) or not _are_texts(turns):
            raise UserError(f"{where}: expected a text as dialogue_id and a list of texts as dialogue")
        examples.append(_dream_question(row, f"{name}-{asked[name]}", turns, f"{where} ({name})"))
        asked[name] += 1
    return examples


def read_dream(path: str | Path) -> list[ChoiceExample]:
    """The questions of a file in DREAM's layout. Raises UserError with file and dialogue."""
    path = Path(path).expanduser()
    dialogues = _json("\n".join(line for _, line in read_lines(path)), str(path))
    if not isinstance(dialogues, list) or not dialogues:
        raise UserError(f"{path}: expected a list of dialogues, [[turns], [questions], id] each")
    examples = []
    for number, dialogue in enumerate(dialogues):
        where = f"{path}, dialogue {number + 1:,}"
        match dialogue:
            case [turns, [*questions], str(name)] if _are_texts(turns):
                pass
            case _:
                raise UserError(f"{where}: expected [[turns], [questions], id]")
        for i, question in enumerate(questions):
            examples.append(_dream_question(question, f"{name}-{i}", turns, f"{where} ({name}), question {i + 1}"))
    return examples


def open_swag(split: str, data_dir: str | Path) -> list[ChoiceExample]:
    """The questions of SWAG's "train", "dev" or "test", from the folder of train.csv, val.csv and test.csv, or from a
    dataset as in `open_dataset`: `hf:swag` or `hf:FOLDER`. The test split has no labels."""
    require_split("SWAG", split)
    labelled = split != "test"
    if is_dataset(data_dir):
        data = open_dataset(data_dir, split, usual="swag", hub_config="regular")
        return [_swag_example(row, str(n), where, labelled) for n, (where, row) in enumerate(data)]
    path = Path(data_dir).expanduser() / SWAG_FILES[split]
    examples = read_swag(path, labelled=labelled)
    if labelled and examples[0].label is None:
        raise UserError(f"{path}, line 1: no column label in the header")
    return examples


def read_swag(path: str | Path, *, labelled: bool = True) -> list[ChoiceExample]:
    """SWAG's csv: sent1 is the text and sent2 the beginning of each ending; with startphrase alone that is the text.
    Without a column label, or not `labelled`, nothing is known. Raises UserError with file and line."""
    path = Path(path).expanduser()
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    starts = ("sent1", "sent2") if {"sent1", "sent2"} <= set(header) else ("startphrase",)
    if missing := [name for name in (*starts, *ENDINGS) if name not in header]:
        raise UserError(
            f"{path}, line 1: no column {listing(missing)}; expected sent1 and sent2 or startphrase, "
            f"{listing(ENDINGS)} and label, found {listing(header)}"
        )
    examples = []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line:,}: {len(row)} cells, expected {len(header)} as in the header")
        cells = dict(zip(header, row, strict=True))
        known = labelled and "label" in cells
        examples.append(_swag_example(cells, str(len(examples)), f"{path}, line {line:,}", known))
    if not examples:
        raise UserError(f"{path}: no rows below the header")
    return examples


# ---- one question


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _race_question(
    name: str, text: str, question: Any, options: Any, answer: Any, group: str, where: str, *, labelled: bool
) -> ChoiceExample:
    if not isinstance(question, str) or not isinstance(options, list) or len(options) != 4:
        raise UserError(f"{where}: expected a text and a list of 4 options")
    if not _are_texts(options):
        raise UserError(f"{where}: expected options that are texts, found {options}")
    if labelled and answer not in ("A", "B", "C", "D"):
        raise UserError(f"{where}: the answer is {answer!r}, expected A, B, C or D")
    return ChoiceExample(name, text, question, tuple(options), "ABCD".index(answer) if labelled else None, group)


def _dream_question(question: Any, name: str, turns: Sequence[str], where: str) -> ChoiceExample:
    match question:
        case {"question": str(asked), "choice": choices} if _are_texts(choices):
            answer = question.get("answer")
        case _:
            raise UserError(f"{where}: expected question, choice and answer")
    if answer is not None and answer not in choices:
        raise UserError(f"{where}: the answer is {answer!r}, which is none of its choices: {listing(choices)}")
    label = None if answer is None else choices.index(answer)
    return ChoiceExample(name, "\n".join(turns), asked, tuple(choices), label)


def _swag_example(cells: Mapping[str, Any], name: str, where: str, labelled: bool) -> ChoiceExample:
    starts = ("sent1", "sent2") if "sent1" in cells and "sent2" in cells else ("startphrase",)
    require_columns(cells, (*starts, *ENDINGS, *(["label"] if labelled else [])), where)
    for column in (*starts, *ENDINGS):
        if not isinstance(cells[column], str):
            raise UserError(f"{where}: {column} is {cells[column]!r:.60}, expected a text")
    # A number in datasets.
    if labelled and str(cells["label"]) not in ("0", "1", "2", "3"):
        raise UserError(f"{where}: the label is {str(cells['label'])!r}, expected 0, 1, 2 or 3")
    choices = tuple(cells[column] for column in ENDINGS)
    question = cells["sent2"] if len(starts) == 2 else ""
    return ChoiceExample(name, cells[starts[0]], question, choices, int(cells["label"]) if labelled else None)


# ---- RACE


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
        case {"article": str(text), "questions": [*questions], "options": [*options]} if isinstance(
            answers := article.get("answers"), list | None
        ):
            pass
        case _:
            found = listing(article) if isinstance(article, dict) else type(article).__name__
            raise UserError(f"{where}: expected article, questions, options and answers, found {found}")
    name = str(article.get("id", name)).removesuffix(".txt")
    lengths = {len(questions), len(options), len(questions if answers is None else answers)}
    if len(lengths) > 1:
        raise UserError(f"{where}: questions, options and answers differ in number: {listing(sorted(lengths))}")
    known = answers is not None
    examples = []
    for i, (question, choices) in enumerate(zip(questions, options, strict=True)):
        there, answer = f"{where}, question {i + 1}", answers[i] if known else None
        examples.append(_race_question(f"{name}-{i}", text, question, choices, answer, group, there, labelled=known))
    return examples


def _race_rows(source: str | Path, split: str, group: str) -> list[ChoiceExample]:
    """A group's questions: a row is one of them in Hugging Face's datasets, and an article in TensorFlow's. The numbers
    in example_id order the articles as their files', and an article's questions stand in its order in both."""
    data = open_dataset(source, split, usual="race", hub_config=group, tensorflow_config=group)
    articles: dict[str, list[ChoiceExample]] = {}
    for where, row in data:
        require_columns(row, ("example_id", "article", "options"), where)
        name, text = str(row["example_id"]).removesuffix(".txt"), row["article"]
        if not name.startswith(GROUPS) or not isinstance(text, str):
            raise UserError(f"{where}: expected an example_id such as middle1.txt or high1.txt, and a text as article")
        if not name.startswith(group):
            continue
        asked = articles.setdefault(name, [])
        if "questions" in row:
            asked += _article(row, where, name, group)
        else:
            require_columns(row, ("question",), where)
            # One string for all questions of the article.
            text = asked[0].text if asked and asked[0].text == text else text
            question, options, answer = row["question"], row["options"], row.get("answer")
            known, number = answer is not None, f"{name}-{len(asked)}"
            asked.append(_race_question(number, text, question, options, answer, group, where, labelled=known))
    if not articles:
        raise UserError(f"{data.title}, {split}: holds no questions of the group {group}")
    return [one for name in sorted(articles, key=lambda name: (len(name), name)) for one in articles[name]]
