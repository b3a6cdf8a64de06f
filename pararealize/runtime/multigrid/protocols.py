"""Protocols: what a multigrid solver needs of propagators and of other ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from pararealize.ir.schedule import Task
from pararealize.runtime.effects.masks import Masks


class Applied(Protocol):
    """What a task applies."""

    masks: Masks | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that it reads besides the state."""

    def stateful(self) -> Iterable[Any]:
        """Modules in which an evaluation may move something, in the network's mode."""

    def weights(self) -> Iterable[Tensor]:
        """Tensors of the network that it reads."""

    def __call__(self, *values: Any, commits: bool = True) -> Any:
        """The next state."""


class AppliedStack(Protocol):
    """Propagators of equal structure, which can be applied at once."""

    @property
    def places(self) -> Mapping[str, int]:
        """Their names, numbered."""

    @property
    def leads(self) -> Mapping[str, Applied]:
        """What comes before those that take their place in the batch later."""

    def is_ready(self) -> bool:
        """Whether they still can be."""

    def weights(self, names: Sequence[str]) -> Sequence[tuple[Tensor, ...]]:
        """For every weight, those of some of them."""

    def __call__(
        self, weights: Sequence[Tensor], states: Tensor, features: Sequence[Tensor] = ()
    ) -> Tensor:
        """The next states."""


class Messages(Protocol):
    """How one rank's tasks reach the others."""

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""

    def receive(self, task: Task) -> Any:
        """The state that the rank ``task.peer`` sends."""

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """Numbers, each of which one rank knows and the others hold to be zero, on all ranks."""

    def enter(self, value: str) -> None:
        """A propagator begins for the first time in a step, and may draw random numbers."""

    def leave(self, value: str) -> None:
        """It has ended."""

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded."""
