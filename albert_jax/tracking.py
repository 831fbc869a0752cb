"""What a run says of itself: `metrics.jsonl` is the record, TensorBoard stands beside it, and people get a progress
bar on a terminal or plain lines anywhere else, which `log.txt` keeps in either case."""

import json
import math
import os
import resource
import statistics
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from albert_jax.errors import DiskError

T = TypeVar("T")
METRICS_FILE, LOG_FILE = "metrics.jsonl", "log.txt"


class Tracker:
    """Writes the metrics of one run into its directory and shows them."""

    def __init__(self, directory: Path, *, step: int, total_steps: int, title: str, writes: bool = True):
        """`step` is where the run stands: records beyond it, of a run that was killed before it saved, are dropped,
        since the same steps are about to be repeated. Of several processes one `writes`; the others only remember."""
        path = directory / METRICS_FILE
        if writes:
            _drop_records_after(path, step)
        self._latest: tuple[int, dict[str, float]] = (step, {})
        for record in read_metrics(directory, until=step):
            if record["step"] == step:
                self._latest[1].update(record)
        self._writes = writes
        self._progress: Progress | None = None
        if not writes:
            return
        self._files = [_Lines(path), _Lines(directory / LOG_FILE)]
        self._board = _Board(directory / "tensorboard", step + 1)
        self._warned = False
        self._console = Console()
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
        if not self._writes:
            return
        self._files[1].add(line + "\n")
        self._write()
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
        self._latest = (step, (self._latest[1] if self._latest[0] == step else {}) | dict(values))
        if not self._writes:
            return
        plain = {name: _plain(value) for name, value in values.items()}
        self._files[0].add(json.dumps({"step": step, **plain}) + "\n")
        self._board.add(step, {name: value for name, value in values.items() if math.isfinite(value)})
        if self._progress:
            loss = values.get("train/loss")
            summary = f"loss {loss:.3f}" if loss is not None else ""
            if summary:
                self._progress.update(self._task, summary=summary)
        self.say(line)

    def value_at(self, step: int, name: str) -> float | None:
        """What was recorded under `name` at `step`, the latest step that has records; None if nothing was."""
        return self._latest[1].get(name) if self._latest[0] == step else None

    def flush(self) -> None:
        """Raises `DiskError` unless all records have reached their files."""
        if self._writes and (problem := self._write()):
            raise DiskError(f"{problem.filename}: cannot be written ({problem.strerror})")

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
        if self._writes:
            self._board.close()
            for file in self._files:
                file.close()

    def _write(self) -> OSError | None:
        """Writes what waits. What a disk does not take now is kept, and said once."""
        problem = next(filter(None, [sink.write() for sink in (*self._files, self._board)]), None)
        if problem and not self._warned:
            warn(f"{problem.filename}: cannot be written ({problem.strerror}); its lines are kept until it can be")
        self._warned = problem is not None
        return problem


class _Lines:
    """A file that text is appended to. What cannot be written waits, to the byte."""

    def __init__(self, path: Path):
        self._path, self._waiting = path, b""
        self._file: int | None = None

    def add(self, text: str) -> None:
        self._waiting += text.encode()

    def write(self) -> OSError | None:
        try:
            if self._file is not None and not self._path.exists():
                self.close()  # the folder was taken away, or its file system: it may come back
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            self.close()
            return OSError(error.errno, error.strerror, str(self._path))
        return None

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None


class _Board:
    """TensorBoard's events, written by the thread that has them: tensorboardX's own thread would die of a full disk
    unseen, and the loop wait for it for ever."""

    def __init__(self, folder: Path, first_step: int):
        """What an earlier start wrote from `first_step` on is no longer shown."""
        self._folder, self._first_step = folder, first_step
        self._waiting: list[Event] = []
        self._writer: EventsWriter | None = None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        summaries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._waiting.append(Event(wall_time=time.time(), step=step, summary=Summary(value=summaries)))

    def write(self) -> OSError | None:
        if not self._waiting:
            return None
        try:
            if self._writer is None:
                self._folder.mkdir(exist_ok=True)
                self._writer = EventsWriter(str(self._folder / "events"))
                first_step = min(self._first_step, self._waiting[0].step)
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))
            for event in self._waiting:
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            # Half an event may have been written, and nothing behind it would be read: the next one begins a new file.
            self.close()
            return OSError(error.errno, error.strerror, str(self._folder))
        self._first_step, self._waiting = self._waiting[-1].step + 1, []
        return None

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._writer = None


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


def _is_record_until(line: str, step: float) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False  # such as the last line of a process that was killed while it wrote


def read_metrics(directory: Path, until: float = math.inf) -> list[dict[str, Any]]:
    """The records of a run up to a step, in the order of writing."""
    path = Path(directory) / METRICS_FILE
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if _is_record_until(line, until)]


class Interval(NamedTuple):
    """What a `Watch` saw of the steps between two log lines."""

    waited: float
    """seconds without a batch"""
    slowest: float
    """seconds of the slowest step, 0 if none was timed"""
    host_memory: int
    """bytes of this process in memory now"""


class Watch:
    """Notices what slows a run down or ends it in the long run: steps that take long, input that is late, memory that
    grows. Steps are timed on the host, one behind the device; the first after `start` is not."""

    def __init__(self) -> None:
        self._seconds, self._waited = array("f"), 0.0
        self._slowest, self._slowest_step = 0.0, 0
        self._interval = Interval(0.0, 0.0, 0)
        self._last: float | None = None
        self.most_memory = self.usual_memory = 0
        """bytes: the most seen, and what was seen after the second interval"""
        self._intervals = 0

    def start(self) -> None:
        """The next step is not like the others: it compiles, or follows an evaluation."""
        self._last = None

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, while the time is taken that each lets us wait."""
        while True:
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._last is not None:
                waited = time.perf_counter() - begun
                self._waited += waited
                self._interval = self._interval._replace(waited=self._interval.waited + waited)
            yield batch

    def step(self, step: int) -> None:
        now = time.perf_counter()
        if self._last is not None:
            seconds = now - self._last
            if seconds > self._slowest:
                self._slowest, self._slowest_step = seconds, step
            self._seconds.append(seconds)
            self._interval = self._interval._replace(slowest=max(self._interval.slowest, seconds))
        self._last = now

    def interval(self) -> Interval:
        """Of the steps since the last call."""
        memory = host_memory()
        self._intervals += 1
        if self._intervals == 2:
            self.usual_memory = memory
        self.most_memory = max(self.most_memory, memory)
        interval, self._interval = self._interval._replace(host_memory=memory), Interval(0.0, 0.0, 0)
        return interval

    def grown(self, memory: int) -> int | None:
        """What memory was after the second interval, if it is twice that now; said once for each doubling."""
        before = self.usual_memory
        if not before or memory < 2 * before:
            return None
        self.usual_memory = memory
        return before

    def summary(self, skipped: int, rollbacks: int) -> str:
        """A line for the end of a run."""
        if not self._seconds:
            return "summary    no step was timed"
        total, median = sum(self._seconds), statistics.median(self._seconds)
        return (
            f"summary    median step {median:.3g}s, slowest {self._slowest:.3g}s (step {self._slowest_step:,}); "
            f"{self._waited / total:.1%} of the time without a batch; host memory {self.most_memory / 1e6:,.0f} MB at "
            f"most; {skipped:,} updates skipped, {rollbacks} times gone back"
        )


def host_memory() -> int:
    """Bytes of this process in memory; its peak where the system does not tell (elsewhere than on Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


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
