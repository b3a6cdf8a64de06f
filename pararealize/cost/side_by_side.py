"""Side by side: when tasks on streams of one device run, which they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

from pararealize.cost.simulate import Timeline, critical
from pararealize.ir.lanes import START, LaneProgram
from pararealize.ir.schedule import Schedule
from pararealize.ir.sharing import Sharing
from pararealize.ir.task import Task

#: Seconds of work left that count as none.
DONE = 1e-15


@dataclass
class _Running:
    """A launch that runs: how much of it is left, as a share, and what it takes by itself."""

    number: int
    waiting: float
    busy: float
    left: float = 1.0

    @property
    def demand(self) -> float:
        """The share of its time in which it computes."""
        alone = self.waiting + self.busy
        return self.busy / alone if alone else 0.0

    def seconds(self, crowd: float) -> float:
        """What is left where computing takes ``crowd`` times as long as alone."""
        return self.left * (self.waiting + self.busy * crowd)


@final
@dataclass
class _Clock:
    """What has begun and ended, and what each lane is at."""

    program: LaneProgram
    parts: Callable[[Task], tuple[float, float]]
    sharing: Sharing
    start: dict[int, float] = field(default_factory=dict)
    stop: dict[int, float] = field(default_factory=dict)
    cause: dict[int, int | None] = field(default_factory=dict)
    running: list[_Running] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.queues: dict[int, list[int]] = {}
        for i, launch in enumerate(self.program.launches):
            self.queues.setdefault(launch.lane, []).append(i)
        self.queues = {lane: queue[::-1] for lane, queue in self.queues.items()}
        self.last: dict[int, int] = {}
        self.many = self.program.lanes > 1

    def ready(self, lane: int) -> tuple[float, int | None]:
        """When the next launch of a lane may begin, and what it has waited for last."""
        launch = self.program.launches[self.queues[lane][-1]]
        times: dict[int | None, float] = {None: 0.0}
        if (before := self.last.get(lane)) is not None:
            times[before] = self.stop.get(before, inf)
        for each in launch.waits:
            if each != START:
                times[each] = self.stop.get(each, inf) + self.sharing.wait
        cause = max(times, key=lambda key: times[key])
        return times[cause], cause

    def begin(self) -> float:
        """Begin what can; when the next of the others can, as far as that is known."""
        later = inf
        for lane, queue in self.queues.items():
            if not queue:
                continue
            time, cause = self.ready(lane)
            if time > self.now:
                later = min(later, time)
                continue
            number = queue.pop()
            waiting, busy = self.parts(self.program.launches[number].task)
            self.start[number], self.cause[number] = self.now, cause
            self.last[lane] = number
            factor = self.sharing.beside if self.many else 1.0
            self.running.append(_Running(number, factor * waiting, busy))
        return later

    def advance(self, later: float) -> None:
        """Go to the next time at which a launch ends or may begin."""
        crowd = max(1.0, self.sharing.share * sum(each.demand for each in self.running))
        ends = [each.seconds(crowd) for each in self.running]
        step = min([*ends, later - self.now])
        self.now += step
        still = []
        for each, end in zip(self.running, ends, strict=True):
            each.left *= 1 - step / end if end else 0.0
            if end - step <= DONE:
                self.stop[each.number] = self.now
            else:
                still.append(each)
        self.running = still


def side_by_side(
    schedule: Schedule,
    program: LaneProgram,
    parts: Callable[[Task], tuple[float, float]],
    sharing: Sharing,
) -> Timeline:
    """The timeline of a schedule whose tasks are on lanes of one device, lane i as rank i - 1.

    ``parts`` gives the seconds that a task takes by itself: those of its launches, in which most of
    the device is idle, and those in which it computes or moves memory. Where all that run would
    take more than the whole device, computing takes as many times longer.
    """
    clock = _Clock(program, parts, sharing)
    while clock.running or any(clock.queues.values()):
        clock.advance(clock.begin())
    each = range(len(program.launches))
    tasks = tuple(replace(launch.task, rank=launch.lane - 1) for launch in program.launches)
    on_lanes = replace(schedule, tasks=tasks, ranks=max(task.rank for task in tasks) + 1)
    start, stop = (tuple(times[i] for i in each) for times in (clock.start, clock.stop))
    return Timeline(on_lanes, start, stop, critical(stop, [clock.cause[i] for i in each]))
