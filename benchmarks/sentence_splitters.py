"""How fast sentence splitters are and how often they err: `python benchmarks/sentence_splitters.py`.

Errors are counted at places two ways, since no large English text at hand has its sentences marked by people.
"marked": news of CoNLL-2003, where sentences are separate lines; here the sentences of a document that end in
. ? or ! are joined with spaces, words untokenised, and every join is a boundary. "agreed": paragraphs of
Wikipedia and books, where a boundary is what BlingFire and nupunkt both set and no boundary what neither
sets; the two are slow but were built in quite different ways. missed and false are shares of the boundaries.
Ours is `data/sentences.py`. Candidates that are not installed
are left out: pip install blingfire nupunkt pysbd syntok.
"""

import importlib
import itertools
import json
import lzma
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console
from rich.table import Table

from albert_jax.errors import UserError, exit_cleanly
from data.preparation import prepare_lines
from data.sentences import find_sentences, separate_sentences

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
Splitter = Callable[[str], list[str]]


@dataclass(frozen=True)
class Arguments:
    """Compares sentence splitters."""

    shared: Path = SHARED
    """The folder with text/ and conll2003/."""
    paragraphs: int = 4_000
    """How many paragraphs of Wikipedia, and as many of books."""
    seed: int = 0
    """Changes which."""
    output: Path = Path("sentence_splitters.json")
    """Where the figures go."""


def ours(text: str) -> list[str]:
    lines = prepare_lines([text.encode()], False, np.zeros(0x10000, bool))
    return separate_sentences(lines, find_sentences(lines, "en"), 0, len(lines.ends))


def ours_batch(paragraphs: list[str]) -> list[list[str]]:
    """Every paragraph's sentences; none of the paragraphs has more than a line."""
    lines = prepare_lines([p.encode() for p in paragraphs], False, np.zeros(0x10000, bool))
    found = find_sentences(lines, "en")
    sentences = iter(separate_sentences(lines, found, 0, len(paragraphs)))
    return [list(itertools.islice(sentences, count)) for count in found.per_line.tolist()]


def candidates() -> dict[str, Splitter]:
    """The splitters that are installed, by name."""
    makers: dict[str, tuple[str, Callable]] = {
        "sentencex": ("sentencex", lambda m: lambda text: list(m.segment("en", text))),
        "BlingFire": ("blingfire", lambda m: lambda text: m.text_to_sentences(text).split("\n")),
        "nupunkt": ("nupunkt", lambda m: m.sent_tokenize),
        "pySBD": ("pysbd", lambda m: m.Segmenter(language="en", clean=False).segment),
        "syntok": (
            "syntok.segmenter",
            lambda m: (
                lambda text: [
                    "".join(token.spacing + token.value for token in sentence)
                    for paragraph in m.process(text)
                    for sentence in paragraph
                ]
            ),
        ),
    }
    found: dict[str, Splitter] = {"ours: sentencex, marks hidden": ours}
    for name, (module, make) in makers.items():
        try:
            found[name] = make(importlib.import_module(module))
        except ImportError:
            continue
    return found


def boundaries(sentences: list[str]) -> set[int]:
    """Where sentences end, in characters that are not white space; the end of the text is none."""
    position, found = 0, set()
    for sentence in sentences:
        position += len("".join(sentence.split()))
        found.add(position)
    found.discard(position)
    return found


def sample_paragraphs(path: Path, count: int, seed: int) -> list[str]:
    if not path.exists():
        raise UserError(f"{path}: no such text; give the folder with --shared")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines = [line.strip() for _, line in zip(range(100_000), file, strict=False) if line.strip()]
    return random.Random(seed).sample(lines, count)


def marked_paragraphs(path: Path) -> tuple[list[str], list[set[int]]]:
    """CoNLL-2003 documents as running text, and where their sentences end."""
    texts, ends = [], []
    for document in path.read_text("utf-8").split("-DOCSTART-")[1:]:
        sentences = [
            untokenise([line.split(" ")[0] for line in block.split("\n") if line])
            for block in document.split("\n\n")[1:]
        ]
        sentences = [s for s in sentences if re.search(r"[.?!][\"')]*$", s) and len(s) > 20]
        if len(sentences) > 1:
            texts.append(" ".join(sentences))
            ends.append(boundaries(sentences))
    return texts, ends


def untokenise(words: list[str]) -> str:
    """Words with the spaces a newspaper would set; quotation marks open and close in turn."""
    text, opens = "", True
    for word in words:
        if word == '"':
            text += ' "' if opens else '" '
            opens = not opens
        elif re.fullmatch(r"[.,;:?!)%]|'\w*|n't", word) or (text.endswith(("(", "$", '"')) and not opens):
            text += word
        else:
            text += " " + word
    return " ".join(text.split())


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__)
    text = arguments.shared / "text"
    paragraphs = [
        paragraph
        for path in (text / "wikipedia/wiki_01.txt.xz", text / "books/books_01.txt.xz")
        for paragraph in sample_paragraphs(path, arguments.paragraphs, arguments.seed)
    ]
    marked, marked_ends = marked_paragraphs(arguments.shared / "conll2003/eng.train")
    size = sum(len(paragraph.encode()) for paragraph in paragraphs) / 1e6
    splitters, found, rates = candidates(), {}, {}
    for name, split in splitters.items():
        split(paragraphs[0])
        # pySBD and syntok would take minutes; their rate is that of a part.
        part = paragraphs[:: 20 if name in ("pySBD", "syntok") else 1]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            # Ours works on batches, and normalises on the way.
            split_part = ours_batch(part) if split is ours else [split(paragraph) for paragraph in part]
            times.append(time.perf_counter() - start)
        rates[name] = sum(len(p.encode()) for p in part) / 1e6 / min(times)
        if len(part) == len(paragraphs):
            found[name] = [boundaries(sentences) for sentences in split_part]
    if not {"BlingFire", "nupunkt"} <= found.keys():
        raise UserError("the comparison needs both: pip install blingfire nupunkt")
    sure = [a & b for a, b in zip(found["BlingFire"], found["nupunkt"], strict=True)]
    possible = [a | b for a, b in zip(found["BlingFire"], found["nupunkt"], strict=True)]
    rows = {}
    for name, split in splitters.items():
        in_marked = [boundaries(split(document)) for document in marked]
        rows[name] = {
            "megabytes_per_second": rates[name],
            "marked_missed": share([e - f for e, f in zip(marked_ends, in_marked, strict=True)], marked_ends),
            "marked_false": share([f - e for e, f in zip(marked_ends, in_marked, strict=True)], marked_ends),
        }
        if name in found and name not in ("BlingFire", "nupunkt"):
            rows[name]["agreed_missed"] = share([e - f for e, f in zip(sure, found[name], strict=True)], sure)
            rows[name]["agreed_false"] = share([f - e for e, f in zip(possible, found[name], strict=True)], sure)
    show(rows, f"{size:.1f} MB of paragraphs, {sum(map(len, marked_ends)):,} marked boundaries")
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def share(wrong: list[set[int]], all_of_them: list[set[int]]) -> float:
    return sum(map(len, wrong)) / sum(map(len, all_of_them))


def show(rows: dict[str, dict[str, float]], title: str) -> None:
    table = Table(title=title)
    table.add_column("splitter")
    for column in ("MB/s", "marked: missed", "false", "agreed: missed", "false"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        errors = ("marked_missed", "marked_false", "agreed_missed", "agreed_false")
        shares = [f"{row[key]:.1%}" if key in row else "" for key in errors]
        table.add_row(name, f"{row['megabytes_per_second']:.1f}", *shares)
    Console().print(table)


if __name__ == "__main__":
    exit_cleanly(main)
