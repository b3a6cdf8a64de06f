"""Backward end: how a backward pass is seen to end, well or by an error in any node."""

from __future__ import annotations

from collections.abc import Callable
from typing import final


@final
class BackwardEnd:
    """What autograd calls at the end of a backward pass, or lets go of where one raises."""

    def __init__(self, closed: Callable[[], None], stopped: Callable[[], None]) -> None:
        self._closed, self._stopped, self._reached = closed, stopped, False

    def __call__(self) -> None:
        """All of it has run."""
        self._reached = True
        self._closed()

    def __del__(self) -> None:
        """Autograd has no other sign of an error in somebody else's node."""
        if not self._reached:
            self._stopped()
