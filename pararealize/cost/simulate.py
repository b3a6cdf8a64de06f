"""Simulate: run a placed schedule against a clock instead of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pararealize.cost.shared_cores import on_shared_cores
from pararealize.ir.schedule import Schedule
from pararealize.ir.task import Task


@dataclass(frozen=True)
class Timeline:
    """When every task of a schedule runs: ``start[i]`` and ``stop[i]`` are seconds of task i."""

    schedule: Schedule
    start: tuple[float, ...]
    stop: tuple[float, ...]
    critical: tuple[int, ...]

    @property
    def makespan(self) -> float:
        """Seconds from the first start to the last stop."""
        return max(self.stop, default=0.0)

    @property
    def critical_coarse_seconds(self) -> float:
        """Seconds of guesses, coarse propagators and combinations on the critical path."""
        coarse = (i for i in self.critical if not self.schedule.tasks[i].role.is_network)
        return sum(self.stop[i] - self.start[i] for i in coarse)


def simulate(
    schedule: Schedule,
    clock: Callable[[Task], float],
    message: Callable[[Task], float],
    cores: int | None = None,
    hindrance: float = 1.0,
) -> Timeline:
    """The timeline of a placed schedule, every rank running its tasks in order.

    Where ranks are more than the ``cores`` that they share, or hinder each other there, see
    :func:`on_shared_cores`.

    ``clock`` gives the seconds that a task takes, ``message`` those that a message travels.
    A receive ends ``message(recv)`` seconds after its send began, or when the rank gets to it;
    sends cost the sender nothing (they overlap with what it computes next).
    """
    if cores is not None and (cores < schedule.ranks or hindrance != 1):
        shared = on_shared_cores(schedule, clock, message, cores, hindrance)
        return Timeline(schedule, *shared, ())
    graph = schedule.dag()
    start: list[float] = []
    stop: list[float] = []
    cause: list[int | None] = []
    last: dict[int, int] = {}
    for i, task in enumerate(schedule.tasks):
        waits = {p: stop[p] for p in graph.predecessors(i)}
        if task.op == "recv":
            waits = {p: start[p] + message(task) for p in waits}
        if task.rank in last:
            waits[last[task.rank]] = max(waits.get(last[task.rank], 0.0), stop[last[task.rank]])
        cause.append(max(waits, key=lambda p: waits[p]) if waits else None)
        start.append(max(waits.values(), default=0.0))
        busy = 0.0 if task.op in {"send", "recv"} else clock(task)
        stop.append(start[-1] + busy)
        last[task.rank] = i
    return Timeline(schedule, tuple(start), tuple(stop), critical(stop, cause))


def critical(stop: Sequence[float], cause: Sequence[int | None]) -> tuple[int, ...]:
    """Tasks on the chain of waits that ends last, from its start."""
    path: list[int] = []
    at: int | None = max(range(len(stop)), key=lambda i: stop[i]) if stop else None
    while at is not None:
        path.append(at)
        at = cause[at]
    return tuple(reversed(path))
