"""Evaluators: each has a name and its own fixed data, and yields (name, value) for the parameters it is given."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Sums = dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Sums over fixed sets of batches, turned into metrics once at the end."""

    name: str
    sets: Mapping[str, Callable[[], Iterator[Any]]]
    """Placed batches by the name of what they are from, the same ones at every call."""
    sums: Callable[[Any, Any], Sums]
    """(params, batch) -> sums, compiled."""
    summarize: Callable[[dict[str, float]], dict[str, float]]

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields (`name/metric`, value) over all sets, and (`name/set/metric`, value) where there are several."""
        total: dict[str, float] = {}
        totals = {name: self._total(params, batches()) for name, batches in self.sets.items()}
        for sums in totals.values():
            _add(total, sums)
        for metric, value in self.summarize(total).items():
            yield f"{self.name}/{metric}", value
        for name, sums in totals.items() if len(totals) > 1 else ():
            for metric, value in self.summarize(sums).items():
                yield f"{self.name}/{name}/{metric}", value

    def _total(self, params: Any, batches: Iterator[Any]) -> dict[str, float]:
        total: dict[str, float] = {}
        for batch in batches:
            _add(total, jax.device_get(self.sums(params, batch)))
        return total


def _add(total: dict[str, float], sums: Sums) -> None:
    # In double precision on the host: a device's float32 would lose small batches in large totals.
    for name, value in sums.items():
        total[name] = total.get(name, 0.0) + float(np.float64(value))
