"""Rules: whether the sweeps so far are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from pararealize.runtime.measures import Measure


class Rule(Protocol):
    """Asked after every stage but the one that makes the network exact."""

    def is_enough(self, measures: Sequence[Measure], output: Any) -> bool:
        """Whether to stop, by the jumps of all sweeps of this call and its output so far.

        All ranks ask, with the same numbers, and have to get the same answer.
        """


@final
@dataclass(frozen=True)
class BelowTolerance:
    """No sample's relative jump at any interface in the last sweep is above the tolerance."""

    tolerance: float

    def is_enough(self, measures: Sequence[Measure], _output: Any) -> bool:
        """Whether that is so; where no jump is known, it may be of any size."""
        last = max((measure.sweep for measure in measures), default=0)
        found = [measure.relative for measure in measures if measure.sweep == last]
        worst = max((float(relative.max()) for relative in found if len(relative)), default=0.0)
        return worst <= self.tolerance if found else False
