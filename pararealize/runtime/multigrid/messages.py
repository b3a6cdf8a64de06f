"""Messages: what a multigrid solver needs of other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pararealize.ir.target import Target
from pararealize.ir.task import Task


class Messages(Protocol):
    """How one rank's tasks reach the others."""

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""

    def receive(self, task: Task) -> Any:
        """The state that the rank ``task.peer`` sends."""

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """Numbers, each of which one rank knows and the others hold to be zero, on all ranks."""

    def begin_draw(self, target: Target) -> None:
        """A propagator begins for the first time in a step, and may draw random numbers."""

    def end_draw(self, target: Target) -> None:
        """It has ended."""

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded."""
