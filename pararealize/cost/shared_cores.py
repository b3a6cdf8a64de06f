"""Shared cores: when tasks of more ranks than cores run, a core serving several in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from pararealize.ir.schedule import Schedule
from pararealize.ir.task import Task

#: Seconds of work left that count as none.
DONE = 1e-12


@dataclass
class _Rank:
    """What a rank has to do, in order, and what is left of the task that it is at."""

    tasks: list[int]
    at: int = 0
    left: float = 0.0
    begun: bool = False

    @property
    def next(self) -> int | None:
        """Its task, if there is one left."""
        return self.tasks[self.at] if self.at < len(self.tasks) else None


@dataclass
class _Clock:
    """The state of all ranks at a time."""

    schedule: Schedule
    seconds: Callable[[Task], float]
    message: Callable[[Task], float]
    graph: object
    start: dict[int, float] = field(default_factory=dict)
    stop: dict[int, float] = field(default_factory=dict)
    now: float = 0.0

    def ready(self, i: int) -> float:
        """When a task could begin, by what it waits for; infinite where that is not known yet."""
        task = self.schedule.tasks[i]
        before = list(self.graph.predecessors(i))  # type: ignore[attr-defined]
        if task.op == "recv":
            return max((self.start.get(p, inf) + self.message(task) for p in before), default=0.0)
        return max((self.stop.get(p, inf) for p in before), default=0.0)


def on_shared_cores(
    schedule: Schedule,
    seconds: Callable[[Task], float],
    message: Callable[[Task], float],
    cores: int,
    hindrance: float = 1.0,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Start and stop of every task of a placed schedule whose ranks share so many cores.

    Where a > cores ranks compute, each advances at cores / a of a core's speed; who waits for a
    message takes nothing. Several that compute take ``hindrance`` times as long beyond that, as
    they share caches and memory and are moved between cores.
    """
    ranks = [_Rank([]) for _ in range(schedule.ranks)]
    for i, task in enumerate(schedule.tasks):
        ranks[task.rank].tasks.append(i)
    clock = _Clock(schedule, seconds, message, schedule.dag())
    while any(rank.next is not None for rank in ranks):
        _begin(clock, ranks)
        _advance(clock, ranks, cores, hindrance)
    each = range(len(schedule.tasks))
    return tuple(clock.start[i] for i in each), tuple(clock.stop[i] for i in each)


def _begin(clock: _Clock, ranks: list[_Rank]) -> None:
    """Begin what can begin now, and end what takes no time."""
    moved = True
    while moved:
        moved = False
        for rank in ranks:
            i = rank.next
            if i is not None and not rank.begun and clock.ready(i) <= clock.now + DONE:
                task = clock.schedule.tasks[i]
                clock.start[i] = clock.now
                rank.left = 0.0 if task.op in {"send", "recv"} else clock.seconds(task)
                rank.begun = True
            if i is not None and rank.begun and rank.left <= DONE:
                clock.stop[i] = clock.now
                rank.at, rank.begun, moved = rank.at + 1, False, True


def _advance(clock: _Clock, ranks: list[_Rank], cores: int, hindrance: float) -> None:
    """Go to the next time at which a task ends or a message arrives."""
    busy = [rank for rank in ranks if rank.begun]
    speed = min(1.0, cores / len(busy)) if busy else 1.0
    speed /= hindrance if len(busy) > 1 else 1.0
    waits = [clock.ready(i) for rank in ranks if not rank.begun and (i := rank.next) is not None]
    ends = [clock.now + rank.left / speed for rank in busy]
    later = min((time for time in (*ends, *waits) if time > clock.now), default=inf)
    if later == inf:
        return
    for rank in busy:
        rank.left -= (later - clock.now) * speed
    clock.now = later
