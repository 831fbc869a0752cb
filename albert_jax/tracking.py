"""What a run says of itself: `metrics.jsonl` is the record, TensorBoard stands beside it, and people get a progress
bar on a terminal or plain lines anywhere else, which `log.txt` keeps in either case."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.jsonl"


class Tracker:
    """Writes the metrics of one run into its directory and shows them."""

    def __init__(self, directory: Path, *, step: int, total_steps: int, title: str):
        """`step` is where the run stands: records beyond it, of a run that was killed before it saved, are dropped,
        since the same steps are about to be repeated."""
        self._path = directory / METRICS_FILE
        _drop_records_after(self._path, step)
        self._latest: tuple[int, dict[str, float]] = (step, {})
        for record in read_metrics(directory):
            if record["step"] == step:
                self._latest[1].update(record)
        self._file = self._path.open("a")
        self._text = (directory / "log.txt").open("a")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        self._console = Console()
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(title, total=total_steps, completed=step, summary="")
            self._progress.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def say(self, line: str) -> None:
        """A line for people."""
        self._text.write(line + "\n")
        self._text.flush()
        if self._progress:
            self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # Whoever read our output (`| head`) has gone. Training goes on; log.txt has the lines.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def record(self, step: int, values: Mapping[str, float], line: str) -> None:
        """Appends `{"step": step, **values}` to the record and TensorBoard, and says `line`."""
        self._file.write(json.dumps({"step": step, **{name: _plain(value) for name, value in values.items()}}) + "\n")
        self._file.flush()
        self._latest = (step, (self._latest[1] if self._latest[0] == step else {}) | dict(values))
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if self._progress:
            loss = values.get("train/loss")
            summary = f"loss {loss:.3f}" if loss is not None else ""
            if summary:
                self._progress.update(self._task, summary=summary)
        self.say(line)

    def value_at(self, step: int, name: str) -> float | None:
        """What was recorded under `name` at `step`, the latest step that has records; None if nothing was."""
        return self._latest[1].get(name) if self._latest[0] == step else None

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
        self._board.close()
        self._file.close()
        self._text.close()


def _plain(value: float) -> float | None:
    # JSON has no NaN or infinity.
    return float(value) if math.isfinite(value) else None


def _drop_records_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    text = path.read_text(errors="replace")
    kept = [line for line in text.splitlines(keepends=True) if _is_record_until(line, step)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _is_record_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # such as the last line of a process that was killed while it wrote


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The records of a run, in the order of writing."""
    path = Path(directory) / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Clock:
    """Seconds since it was last read."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        self._last, elapsed = now, now - self._last
        return elapsed


def duration(seconds: float) -> str:
    """`42s`, `12m 07s`, `3h 05m`, `2d 04h`."""
    seconds = max(0, round(seconds))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d {hours % 24:02d}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {seconds % 60:02d}s" if minutes else f"{seconds}s"


def warn(message: str, stream: TextIO | None = None) -> None:
    """A warning for people, which ends nothing."""
    print(f"warning: {message}", file=stream or sys.stderr, flush=True)
