"""What a network's first layers fix of its inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expectation:
    """How many axes an input has (0: any number), and the size of one of them."""

    rank: int
    axis: int
    size: int
    layer: str

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why a tensor of this shape does not fit, or ``None``."""
        if self.rank and len(shape) not in {self.rank, self.rank - 1}:
            return f"{self.layer} takes {self.rank} axes"
        axis = self.axis if self.axis < 0 else self.axis + len(shape) - (self.rank or len(shape))
        if shape and shape[axis] != self.size:
            return f"{self.layer} takes {self.size} channels or features on axis {self.axis}"
        return None
