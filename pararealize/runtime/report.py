"""Report: how far the interfaces moved in the last call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.nest import leaves_of


@dataclass(frozen=True)
class Jump:
    """The jump at one interface in one sweep: its 2-norm, and relative to the new state's."""

    sweep: int
    interface: int
    norm: float
    relative: float


@dataclass(frozen=True)
class Report:
    """Jump norms of the last call, by sweep and interface."""

    jumps: tuple[Jump, ...]

    @property
    def largest(self) -> float:
        """The largest relative jump of the last sweep; zero where nothing was corrected."""
        last = max((jump.sweep for jump in self.jumps), default=0)
        return max((jump.relative for jump in self.jumps if jump.sweep == last), default=0.0)

    def __str__(self) -> str:
        if not self.jumps:
            return "no jumps: the last call corrected nothing (exact, or not called yet)"
        rows = [
            f"{jump.sweep:>5}  {jump.interface:>9}  {jump.norm:>10.3e}  {jump.relative:>10.3e}"
            for jump in self.jumps
        ]
        return "\n".join([f"sweep  interface  {'jump':>10}  {'relative':>10}", *rows])


def norm(value: Any) -> float:
    """2-norm over all floating-point leaves of a state."""
    leaves = [v for v in leaves_of(value) if isinstance(v, Tensor) and v.is_floating_point()]
    squares = [torch.linalg.vector_norm(v.detach().to(torch.float64)) ** 2 for v in leaves]
    return float(sum(s.item() for s in squares) ** 0.5)
