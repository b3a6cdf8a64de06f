"""Local tasks: what some ranks run of a schedule, and how they reach the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import Key, reported
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Role, Task
from pararealize.propagators.stacked import Stacked
from pararealize.runtime.values.combine import combine


@dataclass(frozen=True)
class LocalTasks:
    """What some ranks run of a schedule: its tasks without the head and what delivers the output.

    ``watches`` come with the rank that reports them.
    """

    tasks: tuple[Task, ...]
    watches: tuple[tuple[Watch, int], ...]


class Messages(Protocol):
    """How one rank's tasks reach the others."""

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""

    def receive(self, task: Task) -> Any:
        """The state that the rank ``task.peer`` sends."""

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """Numbers, each of which one rank knows and the others hold to be zero, on all ranks."""

    def drawing(self, target: Target) -> AbstractContextManager[None]:
        """A block in which a propagator, for the first time in a step, may draw random numbers."""

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded."""


def local_tasks(schedule: Schedule, ranks: frozenset[int]) -> LocalTasks:
    """What some ranks run of a schedule."""
    tasks = (task for task in schedule if task.rank in ranks and not is_end(schedule, task))
    return LocalTasks(tuple(tasks), reported((schedule,)))


def is_end(schedule: Schedule, task: Task) -> bool:
    """Whether a task is the head, or delivers the output."""
    delivers = task.op == "send" and task.reads[0] == schedule.output
    arrives = task.op == "recv" and task.value == schedule.output
    return task.role is Role.HEAD or delivers or arrives


def carry_out(
    task: Task, values: dict[Key, Any], messages: Messages, apply: Callable[[Task], Any]
) -> None:
    """Run one task; its value is known from then on."""
    key = (task.rank, task.value)
    match task.op:
        case "apply":
            values[key] = apply(task)
        case "combine":
            terms = (values[task.rank, name] for name in task.reads)
            values[key] = combine(task.signs, *terms, guarded=True)
        case "send":
            messages.send(task, values[task.rank, task.reads[0]])
            values[key] = None
        case "recv":
            values[key] = messages.receive(task)


def batched_tasks(
    tasks: Sequence[Task], first: int, values: Mapping[Key, Any], stacks: Mapping[Target, Stacked]
) -> list[Task]:
    """The applications of a stack's propagators that can begin with the first one."""
    stack, rank = stacks[tasks[first].applied], tasks[first].rank
    found: dict[Target, Task] = {}
    for task in tasks[first:]:
        target = task.target
        if target is None or target in found or stacks.get(target) is not stack:
            continue
        known = all(name == INPUT or (rank, name) in values for name in task.reads)
        if known and task.rank == rank and (rank, task.value) not in values:
            found[target] = task
    return sorted(found.values(), key=lambda task: stack.positions[task.applied])
