"""Lanes: give every task of a schedule a stream, and the events that its reads need."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from pararealize.ir.lanes import START, LaneProgram, Launch, launched
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import Key
from pararealize.ir.target import Target
from pararealize.ir.task import Task

#: How tasks are put on lanes.
Way = Literal["paths", "pieces"]


def lanes(
    schedule: Schedule,
    effects: Mapping[Target, Set[str]] = MappingProxyType({}),
    *,
    by: Way = "paths",
) -> LaneProgram:
    """The schedule on lanes, with no event that is not needed.

    With ``"paths"`` a task follows on the lane of what it reads, or begins on one of its own:
    nothing waits but for what it reads, so that a correction starts as soon as its jump is there,
    and G of an old state runs beside the fine propagators. With ``"pieces"`` every subnetwork has
    one lane. What an earlier stage made is there at the fork.

    Args:
        schedule: of parareal or MGRIT, for states or adjoints, placed on ranks or not.
        effects: what propagators move besides their values, by any names: tasks that touch the
            same keep the order of the schedule.
        by: how lanes are chosen.

    """
    planner = _Planner(effects, by)
    for task in launched(schedule):
        planner.add(task)
    return LaneProgram(planner.marked(), planner.tails(), schedule.title).verify()


@dataclass
class _Planner:
    """Launches so far; ``before[i]`` are those that have ended when launch i begins, as bits."""

    effects: Mapping[Target, Set[str]]
    by: Way
    launches: list[Launch] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    made: dict[Key, int] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)

    def add(self, task: Task) -> None:
        touches = frozenset(self.effects.get(task.target, ())) if task.target else frozenset[str]()
        launch = Launch(task, 0, touches=touches)
        needed = self._needed(launch)
        lane = task.piece if self.by == "pieces" else self._lane(needed)
        known = self._until(self.last[lane]) if lane in self.last else 0
        waits = []
        for each in needed:  # newest first: it has waited for others
            if not known >> each & 1:
                waits.append(each)
                known |= self._until(each)
        if not waits and lane not in self.last:
            waits = [START]
        number = len(self.launches)
        self.launches.append(replace(launch, lane=lane, waits=tuple(sorted(waits))))
        self.before.append(known)
        self.made[launch.makes] = self.last[lane] = number
        self.touched |= dict.fromkeys(touches, number)

    def _needed(self, launch: Launch) -> list[int]:
        """What has to have ended, the newest first."""
        reads = {self.made[key] for key in launch.reads if key in self.made}
        return sorted(reads | {self.touched[e] for e in launch.touches & self.touched.keys()})[::-1]

    def _until(self, number: int) -> int:
        return self.before[number] | 1 << number

    def _lane(self, needed: list[int]) -> int:
        """One that ends with what is needed, newest first; or has ended before it; or a new one."""
        ends = {number: lane for lane, number in self.last.items()}
        for number in needed:
            if number in ends:
                return ends[number]
        ended = 0
        for number in needed:
            ended |= self._until(number)
        idle = (lane for lane, number in self.last.items() if ended >> number & 1)
        return next(idle, len(self.last) + 1)

    def marked(self) -> tuple[Launch, ...]:
        """The launches, with events after those that another lane waits for."""
        waited = {wait for launch in self.launches for wait in launch.waits}
        return tuple(replace(each, marks=i in waited) for i, each in enumerate(self.launches))

    def tails(self) -> tuple[int, ...]:
        """The last launches of lanes for which no other lane has waited."""
        ended, ends = 0, sorted(self.last.values())
        for number in ends:
            ended |= self.before[number]
        return tuple(number for number in ends if not ended >> number & 1)
