"""Shows how a long build goes: a bar on a terminal, a plain line every ten seconds into a file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10


class BuildProgress:
    """Counts source bytes, text bytes and tokens, and shows their rates and the time left; a context manager.

    total: bytes of all sources, 0 if unknown. Then items are what the bar counts.
    """

    def __init__(self, what: str, total: int, items: int):
        self.total, self.items = total, items
        self.done_bytes = self.done_items = self.text_bytes = self.tokens = 0
        self._what = what
        self._start = self._last_line = time.monotonic()
        self._bytes_before = self._items_before = 0
        console = Console(file=sys.stderr)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console) if console.is_terminal else None

    def __enter__(self) -> "BuildProgress":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self.total or self.items, rate="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._show(last=True)
        if self._bar:
            self._bar.stop()

    def skip(self, done_bytes: int, items: int) -> None:
        """Counts what an earlier run did: it is done, but says nothing about the rate."""
        self._bytes_before, self._items_before = done_bytes, items
        self.done_bytes += done_bytes
        self.done_items += items

    def add(self, *, done_bytes: int = 0, text_bytes: int = 0, tokens: int = 0, items: int = 0) -> None:
        self.done_bytes += done_bytes
        self.text_bytes += text_bytes
        self.tokens += tokens
        self.done_items += items
        self._show()

    def _show(self, last: bool = False) -> None:
        now = time.monotonic()
        seconds = max(now - self._start, 1e-6)
        rate = f"{self.text_bytes / seconds / 1e6:.1f} MB/s, {self.tokens / seconds / 1e6:.2f} M tokens/s"
        if self._bar:
            completed = self.done_bytes if self.total else self.done_items
            self._bar.update(self._task, completed=completed, rate=rate)
        elif last or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            left = "" if last else f", {self._time_left(seconds)} left"
            print(
                f"{self._what}: {self._fraction():.1%}, item {self.done_items}/{self.items}, "
                f"{self.tokens:,} tokens, {rate}{left}",
                file=sys.stderr,
                flush=True,
            )

    def _fraction(self) -> float:
        return self.done_bytes / self.total if self.total else self.done_items / max(1, self.items)

    def _time_left(self, seconds: float) -> str:
        before = self._bytes_before / self.total if self.total else self._items_before / max(1, self.items)
        done = self._fraction() - before
        if done <= 0:
            return "unknown time"
        left = int(seconds * (1 - self._fraction()) / done)
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
