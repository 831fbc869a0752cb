"""Being asked to stop: a signal becomes a flag that the training loop looks at, so that it can save first."""

import signal
from typing import Any


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a flag that the loop looks at between steps; a second one ends at once."""

    def __init__(self) -> None:
        self.requested, self.name = False, ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.name = True, signal.Signals(number).name
