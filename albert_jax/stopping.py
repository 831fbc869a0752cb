"""Being asked to stop: a signal becomes a flag that the training loop looks at, so that it can save first. All
processes of a run stop at the same step, whichever of them was asked."""

import os
import signal
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a flag that the loop looks at between steps; a second one ends at once.

    Where there are several processes, JAX passes on the notice (`multihost_utils.reached_preemption_sync_point`), about
    a second after it came to one of them.
    """

    def __init__(self) -> None:
        self.requested, self.name = False, ""
        self._looks = 0
        self._together = jax.process_count() > 1
        # JAX has its own handler of SIGTERM then.
        numbers = (signal.SIGINT,) if self._together else (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._request) for number in numbers}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def look(self) -> bool:
        """Whether to stop now. All processes look at the same places of the loop."""
        if self._together and not self.requested:
            self._looks += 1
            if multihost_utils.reached_preemption_sync_point(self._looks):
                self.requested, self.name = True, self.name or signal.SIGTERM.name
        return self.requested

    def _request(self, number: int, frame: Any) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.requested = True
