"""Local tasks: what some ranks run of a schedule, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import reported
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Role, Task
from pararealize.propagators.stacked import Stacked
from pararealize.runtime.multigrid.messages import Messages
from pararealize.runtime.values.combine import combine


@dataclass(frozen=True)
class LocalTasks:
    """What some ranks run of a schedule: its tasks without the head and what delivers the output.

    ``watches`` come with the rank that reports them.
    """

    tasks: tuple[Task, ...]
    watches: tuple[tuple[Watch, int], ...]


def local_tasks(schedule: Schedule, ranks: frozenset[int]) -> LocalTasks:
    """What some ranks run of a schedule."""
    mine = (task for task in schedule if task.rank in ranks)
    tasks = tuple(task for task in mine if not is_end(schedule, task))
    return LocalTasks(tasks, reported((schedule,)))


def is_end(schedule: Schedule, task: Task) -> bool:
    """Whether a task is the head, or delivers the output."""
    delivers = task.op == "send" and task.reads[0] == schedule.output
    arrives = task.op == "recv" and task.value == schedule.output
    return task.role is Role.HEAD or delivers or arrives


def carry_out(
    task: Task,
    values: dict[tuple[int, str], Any],
    post: Messages,
    apply: Callable[[Task], Any],
) -> None:
    """Run one task; its value is known from then on."""
    key = (task.rank, task.value)
    match task.op:
        case "apply":
            values[key] = apply(task)
        case "combine":
            values[key] = combine(task.signs, *(values[task.rank, name] for name in task.reads))
        case "send":
            post.send(task, values[task.rank, task.reads[0]])
            values[key] = None
        case "recv":
            values[key] = post.receive(task)


def batched_tasks(
    tasks: Sequence[Task],
    first: int,
    values: Mapping[tuple[int, str], Any],
    stacks: Mapping[Target, Stacked],
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
    return sorted(found.values(), key=lambda task: stack.places[task.applied])
