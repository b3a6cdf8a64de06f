"""Groups: neighbouring subnetworks that a level above the second corrects as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Group:
    """The subnetworks ``first`` … ``last``, step ``index`` of a level, and what corrects them.

    What it says of the coarse propagator H is as a subnetwork's piece says it; ``"none"`` where
    nothing applies one, as of the first group, and ``"fine"`` where it is the subnetworks
    themselves one after another, whose seconds are theirs.
    """

    level: int
    index: int
    first: int
    last: int
    coarse: str = "none"
    coarse_parameters: int = 0
    coarse_seconds: float = 0.0
    coarse_launches: int = 0
    coarse_kind: str = ""
    coarse_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def members(self) -> str:
        """Its subnetworks, in words."""
        return f"{self.first}" if self.first == self.last else f"{self.first} … {self.last}"
