"""Being asked to stop: a signal becomes a flag that the training loop looks at, so that it can save first."""

import signal
from typing import Any, Self


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a flag that the loop looks at between steps; a second one ends at once."""

    def __init__(self) -> None:
        self.requested, self.name = False, ""
        numbers = signal.SIGTERM, signal.SIGINT
        self._before = {number: signal.signal(number, self._request) for number in numbers}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.name = True, signal.Signals(number).name
