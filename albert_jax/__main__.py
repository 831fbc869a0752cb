"""`albert-jax COMMAND` (or `python -m albert_jax COMMAND`): use, convert and look into models from the command line.

Texts come from arguments, files or standard input; results are a table on a terminal and JSON lines elsewhere. A MODEL
is a run directory of pretrain.py, a folder in Hugging Face's layout, a name on the Hugging Face hub or a TensorFlow
checkpoint. `albert-jax COMMAND --help` lists the options."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EACCES
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from albert_jax.errors import UserError, disk_errors_explained, exit_cleanly

CHUNK = 512
"""Texts that are read, computed and written at a time."""
COMPRESSED = (b"\xfd7zXZ", b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""How files of xz, gzip, bzip2, zstd and zip begin."""

TEXT_WIDTH = 48
"""Characters of a text that a table shows beside what was found."""


def _shown_as(metavar: str) -> Any:
    """How help calls the value of an option, or a position, whose default is nothing to tell."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Model = Annotated[tyro.conf.Positional[str], _shown_as("MODEL")]
Texts = Annotated[tyro.conf.Positional[tuple[str, ...]], _shown_as("[TEXT ...]")]
Revision = Annotated[str | None, _shown_as("NAME")]
Checkpoint = Annotated[int | None, _shown_as("STEP")]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where texts come from and how results are shown."""

    file: Annotated[tuple[Path, ...], _shown_as("PATH ...")] = ()
    """Files in UTF-8 with a text on every line, blank ones too, so that results and lines correspond. .tsv: columns
    parted by tabs, no header. .jsonl: objects. "-" is standard input, which is read where there are no texts."""
    input_format: Literal["auto", "lines", "tsv", "jsonl"] = "auto"
    """auto: by the files' names; for standard input lines, or jsonl where a line needs more than one text."""
    output_format: Literal["auto", "table", "jsonl"] = "auto"
    """auto: a table on a terminal, JSON lines elsewhere."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products."""
    revision: Revision = None
    """Branch, tag or commit of a model on the hub."""
    checkpoint: Checkpoint = None
    """Step of a run; its latest by default."""


@dataclass(frozen=True, kw_only=True)
class FillMask(Inputs):
    """Complete [MASK] in texts.

    Example: albert-jax fill-mask runs/sample "Plants create [MASK] through photosynthesis."
    """

    model: Model
    """Run directory, folder, hub name or TensorFlow checkpoint."""
    texts: Texts = ()
    """The texts; without any they come from --file or standard input."""
    top_k: int = 5
    """Completions of each [MASK]."""
    targets: Annotated[tuple[str, ...], _shown_as("WORD ...")] = ()
    """Compare only these words, each a single piece of the vocabulary. Texts go before this option."""


@dataclass(frozen=True, kw_only=True)
class Embed(Inputs):
    """A vector for each text.

    Example: albert-jax embed runs/sample --file texts.txt --output vectors.npz
    """

    model: Model
    """Run directory, folder, hub name or TensorFlow checkpoint."""
    texts: Texts = ()
    """The texts; without any they come from --file or standard input."""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """The mean over the text's pieces, the vector of its [CLS], or the pooler's output."""
    output: Annotated[Path | None, _shown_as("FILE.npz")] = None
    """File for the array "embeddings" [texts, hidden size]; without it vectors go to standard output."""
    truncate: bool = False
    """Cut texts that are too long for the model, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class Classify(Inputs):
    """Label texts, or pairs of texts: the second is --pair, a second column, or "pair" beside "text" in JSON lines.

    Example: albert-jax classify my_model "A man sleeps." --pair "Someone is awake."
    """

    model: Model
    """A fine-tuned model: run directory, folder, hub name or TensorFlow checkpoint."""
    texts: Texts = ()
    """The texts; without any they come from --file or standard input."""
    pair: Annotated[str | None, _shown_as("TEXT")] = None
    """Second text for each of the texts given as arguments."""
    truncate: bool = False
    """Cut texts that are too long for the model, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class Tag(Inputs):
    """Label the words of texts, and the entities that they form.

    Example: albert-jax tag my_model "Ada Lovelace lived in London."
    """

    model: Model
    """A fine-tuned model: run directory, folder, hub name or TensorFlow checkpoint."""
    texts: Texts = ()
    """The texts; without any they come from --file or standard input."""
    truncate: bool = False
    """Cut texts that are too long for the model, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class AnswerQuestions(Inputs):
    """Find answers in contexts: --question and --context, two columns, or "question" and "context" in JSON lines.

    Example: albert-jax answer my_model --question "Who wrote it?" --context @article.txt
    """

    model: Model
    """A fine-tuned model: run directory, folder, hub name or TensorFlow checkpoint."""
    question: Annotated[str | None, _shown_as("TEXT")] = None
    context: Annotated[str | None, _shown_as("TEXT")] = None
    """Where the answer is looked for; @FILE reads it from a file."""
    n_best: int = 1
    """Answers to each question."""
    no_answer: bool = False
    """Let "there is no answer" compete, for models of SQuAD 2.0."""
    max_length: int = 384
    """Pieces of a window over the context, the question included."""
    stride: int = 128
    """Pieces between the beginnings of two windows."""
    max_answer_length: int = 30
    """Pieces of the longest answer."""


@dataclass(frozen=True, kw_only=True)
class Choose(Inputs):
    """Choose between continuations or answers: --text and the choices, columns, or "text" and "choices" in JSON lines.

    Example: albert-jax choose my_model "To the shop." "At noon." --text "Where did he go?"
    """

    model: Model
    """A fine-tuned model: run directory, folder, hub name or TensorFlow checkpoint."""
    choices: Annotated[tyro.conf.Positional[tuple[str, ...]], _shown_as("[CHOICE ...]")] = ()
    """What to choose from."""
    text: Annotated[str | None, _shown_as("TEXT")] = None
    """What the choices are for."""
    truncate: bool = False
    """Cut texts that are too long for the model, instead of refusing them."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write any model in another form, and check that both say the same.

    Example: albert-jax convert runs/sample my_folder
    """

    source: Annotated[tyro.conf.Positional[str], _shown_as("SOURCE")]
    """Run directory, folder, hub name or TensorFlow checkpoint."""
    target: Annotated[tyro.conf.Positional[Path], _shown_as("TARGET")]
    """A new folder."""
    to: Literal["huggingface", "google", "stablehlo"] = "huggingface"
    """huggingface: for transformers and albert_jax. google: a TensorFlow checkpoint (needs the extra tf). stablehlo: a
    program for serving, which needs jax, flatbuffers and safetensors only."""
    model_class: Annotated[str | None, _shown_as("CLASS")] = None
    """Such as AlbertForMaskedLM; by default the class that saved the source, or what its heads are for."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; for stablehlo, of the matrix products."""
    revision: Revision = None
    """Branch, tag or commit of a model on the hub."""
    checkpoint: Checkpoint = None
    """Step of a run; its latest by default."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """What is in a source: kind, sizes, heads, labels, tokenizer.

    Example: albert-jax info runs/sample
    """

    source: Annotated[tyro.conf.Positional[str], _shown_as("SOURCE")]
    """Run directory, folder, hub name or TensorFlow checkpoint."""
    output_format: Literal["auto", "table", "jsonl"] = "auto"
    """auto: a table on a terminal, JSON lines elsewhere."""
    revision: Revision = None
    """Branch, tag or commit of a model on the hub."""
    checkpoint: Checkpoint = None
    """Step of a run; its latest by default."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """How far a pretraining run is in its data: epochs, documents and tokens of each corpus.

    Example: albert-jax where runs/sample
    """

    run: Annotated[tyro.conf.Positional[Path], _shown_as("RUN")]
    """Run directory of pretrain.py, running or finished; it is only read."""
    step: Annotated[int | None, _shown_as("N")] = None
    """After this many steps; by default where the run stands."""
    json: bool = False
    """One JSON object instead of lines for people."""


Command = (
    Annotated[FillMask, tyro.conf.subcommand("fill-mask")]
    | Annotated[Embed, tyro.conf.subcommand("embed")]
    | Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Tag, tyro.conf.subcommand("tag")]
    | Annotated[AnswerQuestions, tyro.conf.subcommand("answer")]
    | Annotated[Choose, tyro.conf.subcommand("choose")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Where, tyro.conf.subcommand("where")]
)


def run() -> None:
    """The console script."""
    # Python has none where the caller closed them.
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    exit_cleanly(main)


def main() -> None:
    settings = (tyro.conf.FlagCreatePairsOff,)
    command = tyro.cli(Command, prog="albert-jax", description=__doc__, use_underscores=True, config=settings)
    actions: dict[type, Callable[[Any], None]] = {
        FillMask: fill_mask,
        Embed: embed,
        Classify: classify,
        Tag: tag,
        AnswerQuestions: answer,
        Choose: choose,
        Convert: convert,
        Info: info,
        Where: where,
    }
    actions[type(command)](command)
    with _written():
        sys.stdout.flush()


# ---- commands


def fill_mask(command: FillMask) -> None:
    from albert_jax import predict

    records = Records(command, ("text",), [(text,) for text in command.texts])
    for target in command.targets:
        if "[MASK]" in target:
            raise UserError(f"--targets {target!r}: is a text; texts go before --targets")
    model = load("AlbertForMaskedLM", command, trained_head=True)
    output = Output(command, ("text", "mask", "completion", "probability"), repeated=2)
    for chunk in records.chunks():
        texts = [record.values[0] for record in chunk]
        results = call(
            chunk,
            lambda texts=texts: predict.fill_mask(
                model, texts, top_k=command.top_k, targets=command.targets, dtype=command.dtype
            ),
        )
        for text, masks in zip(texts, results, strict=True):
            rows = [
                (text, str(number), completion.text, f"{completion.probability:.4f}")
                for number, completions in enumerate(masks, 1)
                for completion in completions
            ]
            output.add({"text": text, "masks": [[c._asdict() for c in completions] for completions in masks]}, rows)
    output.close()


def embed(command: Embed) -> None:
    from albert_jax import predict

    if command.output is not None:
        _require_writable(command.output)
    records = Records(command, ("text",), [(text,) for text in command.texts])
    model = load("AlbertModel", command)

    def found() -> Iterator[tuple[list[str], Any]]:
        for chunk in records.chunks():
            texts = [record.values[0] for record in chunk]
            options = dict(pooling=command.pooling, truncate=command.truncate, dtype=command.dtype)
            yield texts, call(chunk, partial(predict.embed, model, texts, **options))

    if command.output is not None:
        shape = _write_vectors(command.output, (vectors for _, vectors in found()), model.config.hidden_size)
        print(f"written {command.output}: embeddings {shape}", file=sys.stderr)
        return
    output = Output(command, ("text", "vector"))
    for texts, vectors in found():
        for text, vector in zip(texts, vectors, strict=True):
            shown = " ".join(f"{value:.3f}" for value in vector[:4]) + f" ... ({len(vector)} numbers)"
            output.add({"text": text, "embedding": [float(f"{value:.7g}") for value in vector]}, [(text, shown)])
    output.close()


def _require_writable(path: Path) -> None:
    """Raises `UserError` for a path that the vectors could not be written to once they are computed."""
    if path.suffix != ".npz":
        raise UserError(f"--output {path!s:.200}: must end in .npz")
    if not path.parent.is_dir():
        raise UserError(f"--output {path!s:.200}: there is no folder {path.parent}")
    if os.path.isdir(path):
        raise UserError(f"--output {path}: is a folder; name a file")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise UserError(f"--output {path!s:.200}: no name that a file can have ({error!s:.100})") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: cannot be written ({os.strerror(EACCES)}); choose another place")


def _write_vectors(path: Path, chunks: Iterator[Any], size: int) -> tuple[int, int]:
    """Writes chunks [texts, size] as one array, whole or not at all, without holding them all; returns its shape."""
    import numpy as np

    with (
        disk_errors_explained(path, "choose another place"),
        tempfile.TemporaryDirectory(prefix=f".{path.stem[:40]}.", dir=path.parent) as folder,
    ):
        raw, whole = Path(folder) / "raw", Path(folder) / "whole.npz"
        with raw.open("wb") as file:
            count = sum(file.write(vectors.tobytes()) // (4 * size) for vectors in chunks)
        array = np.memmap(raw, np.float32, "r", shape=(count, size)) if count else np.empty((0, size), np.float32)
        np.savez(whole, embeddings=array)
        os.replace(whole, path)
    return array.shape


def classify(command: Classify) -> None:
    from albert_jax import predict

    if command.pair is not None and not command.texts:
        raise UserError("--pair was given without texts; in files and standard input each line has its own second text")
    given = [(text,) if command.pair is None else (text, command.pair) for text in command.texts]
    records = Records(command, ("text", "pair"), given, optional=1)
    model = load("AlbertForSequenceClassification", command, trained_head=True)
    output = Output(command, ("text", "label", "score"))
    paired: bool | None = None
    for chunk in records.chunks():
        texts = [record.values[0] for record in chunk]
        pairs = [record.values[1] if len(record.values) > 1 else None for record in chunk]
        for record, pair in zip(chunk, pairs, strict=True):
            if paired not in (None, pair is not None):
                raise UserError(
                    f"{record.place}: has {'no' if paired else 'a'} second text, unlike the lines before it"
                )
            paired = pair is not None
        second = pairs if paired else None
        results = call(
            chunk,
            lambda texts=texts, second=second: predict.classify(
                model, texts, second, truncate=command.truncate, dtype=command.dtype
            ),
        )
        for text, pair, labels in zip(texts, pairs, results, strict=True):
            texts_shown = {"text": text} if pair is None else {"text": text, "pair": pair}
            rows = [(" | ".join(texts_shown.values()), label.label, f"{label.score:.4f}") for label in labels]
            output.add(texts_shown | {"labels": [label._asdict() for label in labels]}, rows)
    output.close()


def tag(command: Tag) -> None:
    from albert_jax import predict

    records = Records(command, ("text",), [(text,) for text in command.texts])
    model = load("AlbertForTokenClassification", command, trained_head=True)
    output = Output(command, ("text", "word", "label", "score"))
    for chunk in records.chunks():
        texts = [record.values[0] for record in chunk]
        results = call(
            chunk,
            lambda texts=texts: predict.tag(model, texts, truncate=command.truncate, dtype=command.dtype),
        )
        for text, tags in zip(texts, results, strict=True):
            found = predict.entities(tags, text)
            output.add(
                {"text": text, "words": [t._asdict() for t in tags], "entities": [e._asdict() for e in found]},
                [(text, t.word, t.label, f"{t.score:.4f}") for t in tags],
            )
    output.close()


def answer(command: AnswerQuestions) -> None:
    from albert_jax import predict

    if (command.question is None) != (command.context is None):
        raise UserError("give --question and --context together, or --file, or pipe JSON lines in")
    given = [(command.question, _text_or_file(command.context))] if command.question is not None else []
    records = Records(command, ("question", "context"), given)
    model = load("AlbertForQuestionAnswering", command, trained_head=True, other="AlbertForBeamQuestionAnswering")
    output = Output(command, ("question", "answer", "score"))
    for chunk in records.chunks():
        questions, contexts = ([record.values[side] for record in chunk] for side in (0, 1))
        results = call(
            chunk,
            lambda questions=questions, contexts=contexts: predict.answer(
                model,
                questions,
                contexts,
                n_best=command.n_best,
                no_answer=command.no_answer,
                max_length=command.max_length,
                stride=command.stride,
                max_answer_length=command.max_answer_length,
                dtype=command.dtype,
            ),
        )
        for question, answers in zip(questions, results, strict=True):
            rows = [(question, a.text or "(no answer)", f"{a.score:.4f}") for a in answers]
            output.add({"question": question, "answers": [a._asdict() for a in answers]}, rows)
    output.close()


def choose(command: Choose) -> None:
    from albert_jax import predict

    if command.choices and command.text is None:
        raise UserError("choices were given without --text, what they are choices for")
    given = [(command.text, *command.choices)] if command.text is not None else []
    records = Records(command, ("text", "choices"), given, repeated=True)
    model = load("AlbertForMultipleChoice", command, trained_head=True)
    output = Output(command, ("text", "choice", "score"))
    for chunk in records.chunks():
        texts, choices = [record.values[0] for record in chunk], [record.values[1:] for record in chunk]
        results = call(
            chunk,
            lambda texts=texts, choices=choices: predict.choose(
                model, texts, choices, truncate=command.truncate, dtype=command.dtype
            ),
        )
        for text, ranked in zip(texts, results, strict=True):
            rows = [(text, choice.text, f"{choice.score:.4f}") for choice in ranked]
            output.add({"text": text, "choices": [choice._asdict() for choice in ranked]}, rows)
    output.close()


def convert(command: Convert) -> None:
    from albert_jax.convert import convert as convert_model

    sys.stdout.reconfigure(errors="replace")
    for line in convert_model(
        command.source,
        command.target,
        to=command.to,
        model_class=command.model_class,
        dtype=command.dtype,
        revision=command.revision,
        checkpoint=command.checkpoint,
    ):
        print(line)


def info(command: Info) -> None:
    import dataclasses

    from albert_jax.convert import class_of
    from albert_jax.pretrained import CLASSES, find_source, read_source

    kind, _ = find_source(command.source, command.revision)
    saved, tokenizer = read_source(command.source, revision=command.revision, checkpoint=command.checkpoint)
    kinds = {"run": "run of pretrain.py", "folder": "Hugging Face folder", "hub": "Hugging Face hub"}
    heads = sorted({path.split("/")[0] for path in saved.parameters} - {"albert"})
    values = {
        "source": saved.source,
        "kind": kinds.get(kind, "TensorFlow checkpoint"),
        "class": class_of(saved),
        "parameters": sum(value.size for value in saved.parameters.values()),
        "heads": heads,
        "pooler": "albert/pooler/kernel" in saved.parameters,
        "labels": list(saved.labels) if CLASSES[class_of(saved)].label_head == "classifier/" else [],
        "problem_type": saved.problem_type,
        "tokenizer": None
        if tokenizer is None
        else {"pieces": tokenizer.vocab_size, "lower_case": tokenizer.do_lower_case},
        "left_over": saved.left_over,
        "notes": saved.notes,
        "config": dataclasses.asdict(saved.config),
    }
    output = Output(command, ("", ""), repeated=0)
    rows = [(name, _shown(value)) for name, value in values.items() if name != "config"]
    rows += [(f"config.{name}", _shown(value)) for name, value in values["config"].items()]
    output.add(values, rows)
    output.close()


def where(command: Where) -> None:
    import dataclasses

    from albert_jax.tasks.where import position_lines, run_position

    position = run_position(command.run, command.step)
    with _written():
        if command.json:
            print(json.dumps(dataclasses.asdict(position)))
        else:
            print("\n".join(position_lines(position)))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items())
    return "-" if value is None else str(value)


# ---- what they share


def load(name: str, command: Any, trained_head: bool = False, other: str | None = None) -> Any:
    """The model of a command, with its tokenizer; notes go to standard error. Its class is `name`, or `other` where the
    source is of that."""
    from albert_jax.convert import class_of
    from albert_jax.pretrained import CLASSES, read_source

    saved, tokenizer = read_source(command.model, revision=command.revision, checkpoint=command.checkpoint)
    model = CLASSES[other if other == class_of(saved) else name].from_saved(saved, tokenizer)
    if trained_head:
        model.require_trained_head()
    else:
        model.require_trained_encoder()
    for note in model.report.notes:
        print(f"note: {note}", file=sys.stderr)
    return model


def call(chunk: "list[Record]", function: Callable[[], Any]) -> Any:
    """`function()`, whose errors name the text's place in the input instead of its number in the chunk."""
    from albert_jax.predict import TextError

    try:
        return function()
    except TextError as error:
        raise UserError(f"{chunk[error.number].place}: {error.reason}") from error


class Record(NamedTuple):
    """One line of input."""

    place: str
    values: tuple[str, ...]


@dataclass
class Records:
    """The texts of a command, from arguments, else files, else standard input.

    `fields` are the columns of .tsv files and the names in .jsonl files; the last `optional` may be missing, and with
    `repeated` the last is any number of columns, or a list.
    """

    command: Inputs
    fields: tuple[str, ...]
    given: list[tuple[str, ...]]
    optional: int = 0
    repeated: bool = False
    total: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.given and self.command.file:
            raise UserError("texts were given both as arguments and by --file; choose one")
        if not self.given and not self.command.file and sys.stdin.isatty():
            raise UserError("no texts: give them as arguments, by --file, or pipe them in")
        if self.command.file.count(Path("-")) > 1:
            raise UserError("--file -: was given twice, but standard input can be read only once")
        for path in self.command.file:
            if str(path) != "-" and not _is_there(path):
                raise UserError(f"--file {path}: no such file (texts and the model go before --file)")
            if path.is_dir():
                raise UserError(f"--file {path}: is a folder; name the files in it")
        if self.given:
            self.total = len(self.given)

    def chunks(self) -> Iterator[list[Record]]:
        """The records in lists of up to `CHUNK`, with a progress bar if there are several and someone is looking."""
        records = self._records()
        first = list(islice(records, CHUNK))
        if not first:
            print("note: there are no texts in the input", file=sys.stderr)
        if len(first) < CHUNK or not sys.stderr.isatty():
            while first:
                yield first
                first = list(islice(records, CHUNK))
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.completed:,} texts"), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("texts", total=self.total)
            while first:
                yield first
                progress.advance(task, len(first))
                first = list(islice(records, CHUNK))

    def _records(self) -> Iterator[Record]:
        if self.given:
            for number, values in enumerate(self.given, 1):
                yield Record(f"text {number} ({_start(values[0])!r})", values)
            return
        for path in self.command.file or (Path("-"),):
            kind = self.command.input_format
            if kind == "auto":
                kind = {".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl"}.get(path.suffix, "lines")
            if kind == "lines" and str(path) == "-" and len(self.fields) - self.optional > 1:
                kind = "jsonl"
            for place, line in _lines(path):
                yield Record(place, self._parsed(place, line, kind))

    def _parsed(self, place: str, line: str, kind: str) -> tuple[str, ...]:
        if kind == "lines":
            if len(self.fields) - self.optional > 1:
                raise UserError(
                    f"{place}: a line needs {' and '.join(self.fields)}; use a .tsv or .jsonl file, or --input_format"
                )
            return (line,)
        needed = len(self.fields) - self.optional
        if kind == "tsv":
            values = tuple(line.split("\t"))
            if len(values) < needed or (len(values) > len(self.fields) and not self.repeated):
                columns = "1 column" if len(values) == 1 else f"{len(values)} columns"
                raise UserError(f"{place}: has {columns}, expected {' and '.join(self.fields)} parted by tabs")
            return values
        names = ", ".join(f'"{name}"' for name in self.fields)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = f"is not JSON ({error})" if line.strip() else "is blank"
            raise UserError(f"{place}: {found}; each line must be an object with {names}") from error
        if isinstance(record, str) and needed == 1:
            return (record,)
        if not isinstance(record, dict):
            raise UserError(f"{place}: is a JSON {type(record).__name__}; each line must be an object with {names}")
        values = []
        for number, name in enumerate(self.fields):
            value = record.get(name)
            if value is None and number >= needed:
                continue
            if name not in record:
                others = _start(", ".join(record)) or "nothing"
                raise UserError(f'{place}: has no "{name}" but {others}; it needs {names}')
            entries = value if self.repeated and name == self.fields[-1] and isinstance(value, list) else [value]
            if not all(isinstance(entry, str) for entry in entries):
                raise UserError(f'{place}: "{name}" is {_start(repr(value))}, expected text')
            values += entries
        return tuple(values)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of a file in UTF-8, "-" for standard input. Raises `UserError` for what is not UTF-8."""
    name = "standard input" if str(path) == "-" else str(path)
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    found = f"byte {line[error.start]:#04x} at column {error.start + 1}"
                    if number == 1 and line.startswith(COMPRESSED):
                        raise UserError(
                            f"{name}: is compressed; unpack it on the way: xz -dc or gzip -dc FILE | albert-jax ..."
                        ) from error
                    raise UserError(
                        f"{name}, line {number}: is not UTF-8 ({found}); convert it, as by iconv -f latin1 -t utf8"
                    ) from error
                yield f"{name}, line {number}", text.rstrip("\r\n")
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from error


class Output:
    """Results as they come: JSON lines at once, a table at the end of the input or of a screenful.

    The first `repeated` columns of a table are the same in many rows of a result: they are shown where they change, and
    cut to one line.
    """

    def __init__(self, command: Any, columns: Sequence[str], repeated: int = 1):
        choice = command.output_format
        self.table = sys.stdout.isatty() if choice == "auto" else choice == "table"
        self.columns = columns
        self.repeated = repeated
        self.rows: list[tuple[str, ...]] = []
        if self.table:
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="replace")

    def add(self, record: dict[str, Any], rows: Sequence[tuple[str, ...]]) -> None:
        if not self.table:
            with _written():
                print(json.dumps(record, ensure_ascii=False), flush=sys.stdout.isatty())
            return
        for above, row in zip([(), *rows], rows, strict=False):
            same = next((i for i in range(self.repeated) if row[i : i + 1] != above[i : i + 1]), self.repeated)
            self.rows.append(("",) * same + row[same:])
        if len(self.rows) > 1000:
            self.close()

    def close(self) -> None:
        if not self.rows:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=any(self.columns))
        for number, name in enumerate(self.columns):
            if number < self.repeated:
                table.add_column(name, max_width=TEXT_WIDTH)
            else:
                table.add_column(name, overflow="fold", no_wrap=name in ("score", "probability"))
        for row in self.rows:
            # Line breaks and what else moves a terminal's cursor would tear the table.
            cells = [re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", cell) for cell in row]
            heads = (Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells[: self.repeated])
            table.add_row(*heads, *(Text(cell) for cell in cells[self.repeated :]))
        console = Console(highlight=False) if sys.stdout.isatty() else Console(width=1_000_000)
        with _written():
            console.print(table)
        self.rows = []


@contextmanager
def _written() -> Iterator[None]:
    """Turns the failure of what standard output goes to into a `UserError`, but for a reader that has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain again at exit
        raise UserError(f"standard output: cannot be written ({error.strerror})") from error


def _text_or_file(value: str) -> str:
    if not value.startswith("@"):
        return value
    path = Path(value[1:])
    if not _is_there(path) or path.is_dir():
        raise UserError(f"--context {value:.200}: there is no file {value[1:]:.200}; a text must not begin with @")
    return "\n".join(line for _, line in _lines(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


if __name__ == "__main__":
    run()
