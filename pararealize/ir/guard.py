"""Guard: what the shapes of the inputs decided while a network was traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guard:
    """A size that decided which operations are part of the program.

    Attributes:
        value: the name of the operation whose value was asked for.
        ask: how it was: ``bool`` in a branch, ``len`` or ``operator.index`` in a loop.
        outcome: the answer, for which alone the program is right.
        place: the file and the line that asked.
        code: what stands there.

    """

    value: str
    ask: Callable[[Any], Any]
    outcome: Any
    place: str
    code: str

    def holds(self, value: Any) -> bool:
        """Whether the value gives the same answer."""
        return bool(self.ask(value) == self.outcome)
