"""What fine-tuning found, and how it is shown: numbers of every seed, kept as JSON, and the tables and the page made of
them. Knows neither models nor tasks, and no JAX, so that results can be read and compared on any machine."""

import dataclasses
import json
import math
import os
import statistics
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from albert_jax.errors import UserError

AVERAGED_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
"""The GLUE tasks whose main metrics are averaged: those of the paper's table 9, which leaves out WNLI. MNLI counts
once, by its matched part."""

SHOWN_ERROR = 40  # characters of an error in a table on the screen


# ---- what was found


class Spread(NamedTuple):
    """How far the seeds lie apart, in percent."""

    lowest: float
    highest: float
    deviation: float
    """sample standard deviation; 0 for one seed"""


@dataclass(frozen=True)
class SeedResult:
    """One training of a task."""

    seed: int
    best_step: int
    """the evaluation whose parameters were kept"""
    steps: int
    """trained"""
    score: float
    """the main metric on the first development split at `best_step`, in percent"""
    metrics: dict[str, dict[str, float]]
    """split to metric to value, in percent (correlations times 100); the first split is the one that was chosen by"""
    seconds: float
    """training, evaluation and saving"""
    at_chance: bool
    """whether it never rose above the baseline"""
    stopped: str
    """"finished", or "early" for early stopping"""
    curve: list[dict[str, float]]
    """the evaluations: "step", "loss" (mean training loss since the one before) and "score" """


@dataclass(frozen=True)
class Reference:
    """A published result in percent."""

    value: float
    model: str
    source: str


@dataclass(frozen=True)
class TaskResult:
    """All seeds of a task, and what they are compared with.

    A score of nan counts in no median, best or spread; tables say how many there are.
    """

    task: str
    title: str
    metric: str
    seeds: list[SeedResult]
    baseline: float | None
    """the score of always giving the commonest answer, in percent"""
    references: list[Reference]
    """the first is what tables compare with; there may be none"""
    error: str | None = None
    """why the task has no result, or not one from every seed"""
    details: dict[str, Any] = field(default_factory=dict)
    """configuration, versions, device and the like, kept as given"""

    @property
    def best(self) -> SeedResult | None:
        """The seed with the highest score, the first of equals; None without seeds."""
        numbered = [seed for seed in self.seeds if math.isfinite(seed.score)]
        return max(numbered or self.seeds[:1], key=lambda seed: seed.score, default=None)

    @property
    def median(self) -> float:
        """Of the seeds' scores; nan without any."""
        return _median(seed.score for seed in self.seeds)

    @property
    def median_metrics(self) -> dict[str, dict[str, float]]:
        """Of each metric of each split over the seeds, in the order in which they first occur."""
        values: dict[str, dict[str, list[float]]] = {}
        for seed in self.seeds:
            for split, metrics in seed.metrics.items():
                for metric, value in metrics.items():
                    values.setdefault(split, {}).setdefault(metric, []).append(value)
        return {split: {metric: _median(found) for metric, found in of.items()} for split, of in values.items()}

    @property
    def spread(self) -> Spread:
        """Of the seeds' scores; nan without any."""
        return _spread(seed.score for seed in self.seeds)

    @property
    def seconds(self) -> float:
        """Of all seeds together."""
        return math.fsum(seed.seconds for seed in self.seeds)


def _median(values: Iterable[float]) -> float:
    return statistics.median([value for value in values if math.isfinite(value)] or [math.nan])


def _spread(values: Iterable[float]) -> Spread:
    known = [value for value in values if math.isfinite(value)] or [math.nan]
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0 * known[0]
    return Spread(min(known), max(known), deviation)


# ---- files


def save_result(result: TaskResult, path: str | Path) -> None:
    """Writes a result as JSON, whole or not at all. What is not a finite number becomes null.

    Raises:
        UserError: the file cannot be written.
        TypeError: `details` holds something that JSON does not know.
    """
    _write(Path(path), _json_text(_plain(dataclasses.asdict(result))))


def load_result(path: str | Path) -> TaskResult:
    """What `save_result` wrote; null where a number belongs is nan.

    Raises:
        UserError: names the file, and the field that is missing, unknown or of another type.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fine-tune again, or remove the file") from None
    return _parse(TaskResult, content, "", str(path))


def write_report(results: Sequence[TaskResult], folder: str | Path) -> None:
    """Writes report.md, report.json (the list of the results) and report.html, each whole or not at all.

    Raises:
        UserError: the folder cannot be written.
        TypeError: the `details` of a result hold something that JSON does not know.
    """
    contents = {
        "report.md": markdown(results),
        "report.json": _json_text([_plain(dataclasses.asdict(result)) for result in results]),
        "report.html": html(results),
    }
    for name, text in contents.items():
        _write(Path(folder) / name, text)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Names of files may hold halves of surrogate pairs, for which UTF-8 has no bytes.
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; give a folder that can be") from None


def _json_text(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The same for JSON, which has no nan, no infinity, no tuples, and no numbers of NumPy's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _parse(kind: Any, value: Any, name: str, path: str) -> Any:
    """`value`, out of JSON, as the type `kind`. `name` is where in the file, "" for all of it."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _parse(inner[0], value, name, path)
    if kind is float and value is None:
        return math.nan
    expected, right = {
        int: ("an integer", isinstance(value, int) and not isinstance(value, bool)),
        float: ("a number", isinstance(value, int | float) and not isinstance(value, bool)),
        bool: ("true or false", isinstance(value, bool)),
        str: ("a text", isinstance(value, str)),
        list: ("a list", isinstance(value, list)),
    }.get(origin or kind, ("an object", isinstance(value, dict)))
    if not right:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise _damaged(path, f"{name or 'the whole'} is {shown}, expected {expected}")
    if origin is list:
        return [_parse(inner[0], one, f"{name}[{place}]", path) for place, one in enumerate(value)]
    if origin is dict:
        return {key: _parse(inner[1], one, f"{name}.{key}", path) for key, one in value.items()}
    if not dataclasses.is_dataclass(kind):
        return value
    hints, prefix = get_type_hints(kind), f"{name}." if name else ""
    for key in [*hints, *value]:
        if key not in value or key not in hints:
            raise _damaged(path, f"{prefix}{key} is {'unknown' if key in value else 'missing'}")
    return kind(**{key: _parse(hint, value[key], f"{prefix}{key}", path) for key, hint in hints.items()})


def _damaged(path: str, what: str) -> UserError:
    return UserError(f"{path}: no whole result of fine-tuning: {what}; fine-tune again, or remove the file")


# ---- the table's rows, whatever they are drawn with


class _Column(NamedTuple):
    name: str
    right: bool
    """whether its cells stand to the right, as numbers do"""


_COLUMNS = (
    _Column("task", False),
    _Column("metric", False),
    _Column("median", True),
    _Column("best", True),
    _Column("spread", True),
    _Column("paper", True),
    _Column("difference", True),
    _Column("model", False),
    _Column("seeds", True),
    _Column("time", True),
    _Column("remark", False),
)

_EXPLANATION = (
    "Percent on the development sets, correlations times 100. Median and spread (sample standard deviation) are over "
    "the seeds; best is the seed with the highest main metric, in all rows of its task. The difference is the median "
    "minus the published result of the model beside it."
)


class _Row(NamedTuple):
    kind: Literal["task", "more", "mean"]
    task: str = ""
    metric: str = ""
    median: str = ""
    best: str = ""
    spread: str = ""
    paper: str = ""
    difference: str = ""
    model: str = ""
    seeds: str = ""
    time: str = ""
    remark: str = ""
    source: str = ""
    """of the number under "paper"; no column of its own"""

    @property
    def cells(self) -> tuple[str, ...]:
        return self[1:-1]


def _rows(results: Sequence[TaskResult], shown_error: int | None = None) -> list[_Row]:
    """A row for each task, one for each other metric or split of it, and the mean of GLUE's."""
    rows = []
    for result in results:
        rows.append(_task_row(result, shown_error))
        rows += _more_rows(result)
    return rows + _mean_rows(results)


def _task_row(result: TaskResult, shown_error: int | None) -> _Row:
    row = _Row(
        "task",
        task=_line(f"{result.title} {_split_name(result, next(iter(result.median_metrics), ''))}"),
        metric=_metric_name(result.metric),
        seeds=str(len(result.seeds)),
        time=_duration(result.seconds) if result.seeds else "",
        remark=_remark(result, shown_error),
    )
    if result.best is not None:
        row = row._replace(
            median=_percent(result.median),
            best=_percent(result.best.score),
            spread=_shown_spread([seed.score for seed in result.seeds]),
        )
    if result.references:
        row = _compare(row, result.median, result.references[0])
    return row


def _more_rows(result: TaskResult) -> list[_Row]:
    rows = []
    for number, (split, medians) in enumerate(result.median_metrics.items()):
        for metric, median in medians.items():
            if number == 0 and metric == result.metric:
                continue
            values = [seed.metrics.get(split, {}).get(metric, math.nan) for seed in result.seeds]
            row = _Row(
                "more",
                task=_split_name(result, split),
                metric=_metric_name(metric),
                median=_percent(median),
                best=_percent(result.best.metrics.get(split, {}).get(metric, math.nan)),
                spread=_shown_spread(values),
            )
            rows.append(row)
    return rows


def _mean_rows(results: Sequence[TaskResult]) -> list[_Row]:
    """None where fewer than two tasks have a result, or a task has several (then which of them?)."""
    averaged = [r for r in results if r.task in AVERAGED_TASKS and math.isfinite(r.median)]
    if len(averaged) < 2 or len({result.task for result in averaged}) < len(averaged):
        return []
    median = statistics.fmean(result.median for result in averaged)
    row = _Row(
        "mean",
        task="GLUE",
        metric=f"mean of {len(averaged)} tasks",
        median=_percent(median),
        best=_percent(statistics.fmean(result.best.score for result in averaged)),
        time=_duration(math.fsum(result.seconds for result in averaged)),
    )
    published = [{reference.model: reference.value for reference in result.references} for result in averaged]
    common = [model for model in published[0] if all(model in models for models in published)]
    if common:
        value = statistics.fmean(models[common[0]] for models in published)
        row = _compare(row, median, Reference(value, common[0], ""))
    return [row]


def _compare(row: _Row, median: float, reference: Reference) -> _Row:
    difference = round(median - reference.value, 1)
    shown = "" if math.isnan(difference) else f"{difference:+.1f}" if difference else "0.0"
    return row._replace(
        paper=_percent(reference.value),
        difference=shown,
        model=_line(reference.model),
        source=_line(reference.source),
    )


def _remark(result: TaskResult, shown_error: int | None) -> str:
    parts = []
    if result.baseline is not None:
        parts.append(f"baseline {_percent(result.baseline)}")
    for what, count in (
        ("at chance", sum(seed.at_chance for seed in result.seeds)),
        ("no number", sum(not math.isfinite(seed.score) for seed in result.seeds)),
    ):
        if count:
            parts.append(f"{what} {count} of {len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}")
    config = result.details.get("config")
    for name in ("train_examples", "dev_examples"):
        if isinstance(config, dict) and config.get(name):
            parts.append(f"the first {config[name]:,} of {name.removesuffix('_examples')}")
    if result.error is not None:
        error = _line(result.error)
        if shown_error is not None and len(error) > shown_error:
            error = error[: shown_error - 3].rstrip() + "..."
        parts.append(f"error: {error}")
    return "; ".join(parts)


def _split_name(result: TaskResult, split: str) -> str:
    """Such as "mismatched" for dev_mismatched; nothing where a task has a single split."""
    return _line(split.removeprefix("dev_").replace("_", " ")) if len(result.median_metrics) > 1 else ""


def _metric_name(metric: str) -> str:
    return _line(metric.replace("_", " "))


def _line(text: str) -> str:
    """On one line, whatever it holds."""
    return " ".join(text.split())


def _shown_spread(values: Sequence[float]) -> str:
    """Nothing for a single number, which says nothing of how far others would lie from it."""
    return _percent(_spread(values).deviation) if sum(map(math.isfinite, values)) > 1 else ""


def _percent(value: float) -> str:
    """One decimal, as in the paper."""
    return f"{value:.1f}" if math.isfinite(value) else "nan"


def _duration(seconds: float) -> str:
    """`7s`, `12m 07s`, `3h 05m`, `120h 00m`; nothing if unknown."""
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


# ---- as text


def text_table(results: Sequence[TaskResult]) -> str:
    """The table for a terminal: a row for each task, indented ones for its other metrics and splits, and the mean."""
    rows = _rows(results, SHOWN_ERROR)
    lines = [tuple(column.name for column in _COLUMNS)]
    for row in rows:
        task, metric, *others = row.cells
        lines.append((f"  {task}" if task else "", f"  {metric}", *others) if row.kind == "more" else row.cells)
    aligned = ["  ".join(cells).rstrip() for cells in _align(lines)]
    rule = "-" * len(aligned[0])
    if rows and rows[-1].kind == "mean":
        aligned.insert(-1, rule)
    return "\n".join([aligned[0], rule, *aligned[1:]])


def markdown(results: Sequence[TaskResult]) -> str:
    """The same as a Markdown table, with the sources of the published numbers as footnotes."""
    rows = _rows(results)
    sources = _sources(rows)
    lines = [tuple(column.name for column in _COLUMNS)]
    for row in rows:
        cells = [_markdown_escape(cell) for cell in row.cells]
        if row.kind == "more":
            cells[:2] = [f"&nbsp;&nbsp;{cell}" if cell else "" for cell in cells[:2]]
        if row.source:
            cells[_COLUMN_OF_PAPER] += f"[^{sources.index(row.source) + 1}]"
        lines.append(tuple(cells))
    header, *body = _align(lines)
    widths = map(len, header)
    rule = ["-" * (width - c.right) + ":" * c.right for width, c in zip(widths, _COLUMNS, strict=True)]
    return "\n".join(
        [
            "# Fine-tuning results",
            "",
            *(f"| {' | '.join(cells)} |" for cells in (header, rule, *body)),
            "",
            _EXPLANATION,
            *(f"\n[^{number}]: {_markdown_escape(source)}" for number, source in enumerate(sources, 1)),
            "",
        ]
    )


_COLUMN_OF_PAPER = [column.name for column in _COLUMNS].index("paper")


def _sources(rows: Sequence[_Row]) -> list[str]:
    return list(dict.fromkeys(row.source for row in rows if row.source))


def _align(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of each line, filled up to the width of their columns."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return [
        [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, _COLUMNS, strict=True)
        ]
        for line in lines
    ]


def _markdown_escape(text: str) -> str:
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---- as a page

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --quiet: #5b6875; --line: #d8dee5; --page: #fff; --panel: #f6f8fa;
  --worse: #a8431f; --better: #1a7440; --lightness: 42%; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe6ed; --quiet: #98a5b3; --line: #333d48; --page: #12171d;
  --panel: #1a2129; --worse: #f0916b; --better: #66c78c; --lightness: 66%; } }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 0 0 .25rem; }
p { margin: .5rem 0; }
.quiet, figcaption, summary, ol, ul { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: baseline; white-space: nowrap; }
sup { line-height: 0; }
a { color: inherit; }
th { color: var(--quiet); font-weight: 500; border-bottom: 1px solid var(--line); }
.right { text-align: right; }
.remark { white-space: normal; min-width: 12rem; color: var(--quiet); }
tr.task td { border-top: 1px solid var(--line); }
tr.task td:first-child, tr.task .median, tr.mean td { font-weight: 600; }
tr.more td { color: var(--quiet); padding-top: 0; }
tr.more td:nth-child(-n+2) { padding-left: 1.7rem; }
tr.mean td { border-top: 2px solid var(--line); }
.worse { color: var(--worse); } .better { color: var(--better); }
section { margin-top: 2.5rem; padding: 1.25rem 1.5rem; background: var(--panel); border-radius: .6rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }
figure { margin: .75rem 0; }
svg { display: block; width: 100%; height: auto; max-width: 38rem; }
svg text { font-size: 11px; fill: var(--quiet); }
.grid { stroke: var(--line); stroke-width: 1; }
.level { stroke: var(--quiet); stroke-width: 1.2; stroke-dasharray: 5 4; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.swatch { display: inline-block; width: 1.1rem; height: .25rem; border-radius: .2rem; margin-right: .5rem;
  vertical-align: middle; }
.error { color: var(--worse); overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; }
"""


def html(results: Sequence[TaskResult]) -> str:
    """One page that needs nothing beside it: the table, and for each task its learning curves, with a legend of the
    seeds, the published results and the details of the run. Readable in light and in dark."""
    rows = _rows(results, SHOWN_ERROR)
    sources = _sources(rows)
    header = "".join(_html_cell("th", column.name, "right" * column.right) for column in _COLUMNS)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Fine-tuning results</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Fine-tuning results</h1>",
        f'<div class="wide"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>',
        *(_html_row(row, sources) for row in rows),
        f'</tbody>\n</table></div>\n<p class="quiet">{escape(_EXPLANATION)}</p>',
    ]
    if sources:
        items = "".join(f'<li id="source-{n}">{escape(source)}</li>' for n, source in enumerate(sources, 1))
        parts.append(f"<ol>{items}</ol>")
    parts += [_html_section(result) for result in results]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _html_row(row: _Row, sources: list[str]) -> str:
    cells = []
    for column, cell in zip(_COLUMNS, row.cells, strict=True):
        classes, text = ["right" * column.right], escape(cell)
        if column.name in ("median", "remark"):
            classes.append(column.name)
        if column.name == "difference" and cell.startswith(("+", "-")):
            classes.append("better" if cell[0] == "+" else "worse")
            text = text.replace("-", "\N{MINUS SIGN}")
        if column.name == "paper" and row.source:
            number = sources.index(row.source) + 1
            text += f'<sup><a href="#source-{number}">{number}</a></sup>'
        cells.append(_html_cell("td", text, *classes))
    return f'<tr class="{row.kind}">{"".join(cells)}</tr>'


def _html_cell(tag: str, text: str, *classes: str) -> str:
    named = " ".join(filter(None, classes))
    return f'<{tag} class="{named}">{text}</{tag}>' if named else f"<{tag}>{text}</{tag}>"


def _html_section(result: TaskResult) -> str:
    parts = [f"<section>\n<h2>{escape(result.title)}</h2>"]
    if result.error is not None:
        parts.append(f'<p class="error">{escape(result.error)}</p>')
    levels = []
    if result.references:
        levels.append(("paper", result.references[0].value))
    if result.baseline is not None:
        levels.append(("baseline", result.baseline))
    charts = [
        _chart(result, "score", f"{_metric_name(result.metric)}, percent", levels),
        _chart(result, "loss", "training loss, mean since the evaluation before", []),
    ]
    if any(charts):
        parts.append(f'<div class="charts">\n{"".join(charts)}</div>')
    if result.seeds:
        parts.append(_legend(result))
    if result.references:
        items = (f"{r.model} {_percent(r.value)} ({r.source})" for r in result.references)
        parts.append(f'<p class="quiet">Published: {escape("; ".join(items))}</p>')
    if result.details:
        text = escape(json.dumps(_plain(result.details), indent=2, ensure_ascii=False))
        parts.append(f"<details><summary>Details of the run</summary><pre>{text}</pre></details>")
    return "\n".join([*parts, "</section>"])


def _legend(result: TaskResult) -> str:
    """The seeds' colours, and what each of them did."""
    names = ("seed", "score", "best step", "steps", "time", "remark")
    rows = []
    for number, seed in enumerate(result.seeds):
        remarks = [
            text
            for text, holds in (
                ("best", seed is result.best and len(result.seeds) > 1),
                ("at chance", seed.at_chance),
                ("stopped early", seed.stopped == "early"),
            )
            if holds
        ]
        swatch = f'<span class="swatch" style="background: {_color(number)}"></span>'
        numbers = (_percent(seed.score), f"{seed.best_step:,}", f"{seed.steps:,}", _duration(seed.seconds))
        cells = "".join(_html_cell("td", cell, "right") for cell in numbers)
        rows.append(f"<tr><td>{swatch}seed {seed.seed}</td>{cells}<td>{', '.join(remarks)}</td></tr>")
    header = "".join(_html_cell("th", name, "right" * (name not in ("seed", "remark"))) for name in names)
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _color(number: int) -> str:
    # Steps of the golden angle: however many there are, hues lie far apart.
    return f"hsl({(215 + 137.5 * number) % 360:g} 62% var(--lightness))"


_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 368, 12, 212  # the plot; labels of the levels stand to its right


def _chart(result: TaskResult, name: str, caption: str, levels: Sequence[tuple[str, float]]) -> str:
    """`name` of every seed's curve against the step, with a dashed line for each level; "" without a finite number."""
    levels = [(label, value) for label, value in levels if math.isfinite(value)]
    curves = [_segments(seed.curve, name) for seed in result.seeds]
    points = [point for segments in curves for segment in segments for point in segment]
    if not points:
        return ""
    last_step = max(step for step, _ in points) or 1
    heights = [value for _, value in points] + [value for _, value in levels]
    y_ticks = _ticks(min(heights), max(heights), 5, outside=True)
    lowest, highest = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / last_step

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - lowest) / (highest - lowest)

    label = escape(f"{result.title}: {caption}, against the step", quote=True)
    parts = [f'<figure>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">']
    for tick, text in zip(y_ticks, _tick_labels(y_ticks), strict=True):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    x_ticks = _ticks(0, last_step, min(5, last_step), outside=False)
    for tick, text in zip(x_ticks, _tick_labels(x_ticks), strict=True):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">step</text>')
    free = -math.inf
    for level, value in sorted(levels, key=lambda pair: -pair[1]):
        place = max(y(value), free)  # labels of levels close to each other stand below one another
        free = place + 13
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{_RIGHT + 7}" y="{place + 4:.1f}">{level} {_percent(value)}</text>')
    for number, (seed, segments) in enumerate(zip(result.seeds, curves, strict=True)):
        color = _color(number)
        for segment in segments:
            drawn = segment * 2 if len(segment) == 1 else segment  # two equal points are a dot, one is nothing
            places = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in drawn)
            title = f"<title>seed {seed.seed}</title>"
            parts.append(f'<polyline points="{places}" style="stroke: {color}">{title}</polyline>')
        best = [value for segment in segments for step, value in segment if step == seed.best_step]
        if best:
            text = f"seed {seed.seed}: {best[0]:.4g} at step {seed.best_step:,}, the one kept"
            parts.append(
                f'<circle cx="{x(seed.best_step):.1f}" cy="{y(best[0]):.1f}" r="4.5" style="fill: {color}; '
                f'stroke: var(--panel)"><title>{text}</title></circle>'
            )
    parts.append(f"</svg>\n<figcaption>{escape(caption)}; the dot is the step kept</figcaption>\n</figure>\n")
    return "\n".join(parts)


def _segments(curve: Sequence[dict[str, float]], name: str) -> list[list[tuple[float, float]]]:
    """Step and value of the evaluations, parted where a value is missing or not finite."""
    segments: list[list[tuple[float, float]]] = [[]]
    for point in curve:
        step, value = point.get("step", math.nan), point.get(name, math.nan)
        if math.isfinite(step) and math.isfinite(value):
            segments[-1].append((step, value))
        elif segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def _ticks(low: float, high: float, count: int, *, outside: bool) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten: within `low` to `high`, or just around them."""
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    down, up = (math.floor, math.ceil) if outside else (math.ceil, math.floor)
    # A tick's width of rounding is forgiven, lest 0.30000000000000004 want another tick.
    first, last = down(low / size + 1e-9 * (1 if outside else -1)), up(high / size - 1e-9 * (1 if outside else -1))
    return [multiple * size for multiple in range(first, last + 1)]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """With as many decimals as tell neighbours apart."""
    size = ticks[1] - ticks[0]
    if size >= 1e6:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = max(0, -math.floor(math.log10(size) + 1e-9))
    return [f"{tick + 0.0:,.{decimals}f}" for tick in ticks]
