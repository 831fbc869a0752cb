"""Evaluators: each has a name and its own fixed data, and yields (name, value) for the parameters it is given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Sums = dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Sums over a fixed set of batches, turned into metrics once at the end."""

    name: str
    batches: Callable[[], Iterator[Any]]
    """Placed batches, the same ones at every call."""
    sums: Callable[[Any, Any], Sums]
    """(params, batch) -> sums, compiled."""
    summarize: Callable[[dict[str, float]], dict[str, float]]

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields (`name/metric`, value)."""
        total: dict[str, float] = {}
        for batch in self.batches():
            # Added up in double precision on the host: a device's float32 would lose small batches in large totals.
            for name, value in jax.device_get(self.sums(params, batch)).items():
                total[name] = total.get(name, 0.0) + float(np.float64(value))
        for metric, value in self.summarize(total).items():
            yield f"{self.name}/{metric}", value
