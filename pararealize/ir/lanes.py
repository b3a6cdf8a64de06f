"""Lanes: what is launched where, on streams of one device that run side by side.

A lane is a stream: it runs its launches in their order, and nothing of another lane waits for it
but by an event. All lanes begin at the fork, ``start``, and end at the join.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from pararealize.errors import ScheduleError
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import Key
from pararealize.ir.task import Task

#: The fork, among what a launch waits for.
START = -1


@dataclass(frozen=True)
class Launch:
    """A task on a lane.

    Attributes:
        task: what runs.
        lane: where, counted from 1.
        waits: events that it waits for, by the number of the launch that they are recorded after.
        marks: whether an event is recorded after it.
        touches: what it moves besides its value: statistics, by any names.

    """

    task: Task
    lane: int
    waits: tuple[int, ...] = ()
    marks: bool = False
    touches: frozenset[str] = frozenset()

    @property
    def makes(self) -> Key:
        """The rank and the name of its value."""
        return self.task.rank, self.task.value

    @property
    def reads(self) -> tuple[Key, ...]:
        """Ranks and names of what it reads; a ``recv`` moves the value of its peer."""
        if self.task.op == "recv":
            return ((self.task.peer, self.task.value),)
        return tuple((self.task.rank, name) for name in self.task.reads)


@dataclass(frozen=True)
class LaneProgram:
    """Launches in the order in which the host makes them, and those that the join waits for."""

    launches: tuple[Launch, ...]
    joins: tuple[int, ...]
    title: str = ""

    @property
    def lanes(self) -> int:
        """How many there are."""
        return len({launch.lane for launch in self.launches})

    @property
    def events(self) -> int:
        """How many waits order the lanes, besides those for the fork and the join."""
        return sum(wait != START for launch in self.launches for wait in launch.waits)

    def by_value(self) -> dict[Key, tuple[int, Launch]]:
        """Every launch with its number, by what it makes."""
        return {launch.makes: (i, launch) for i, launch in enumerate(self.launches)}

    def before(self) -> list[int]:
        """For every launch the set of those that have surely ended before it begins.

        Bit i + 1 is launch i, bit 0 the fork; the last set is that of the join.
        """
        found: list[int] = []
        last: dict[int, int] = {}
        for i, launch in enumerate(self.launches):
            known = 0
            if launch.lane in last:
                known = found[last[launch.lane]] | 1 << (last[launch.lane] + 1)
            for wait in launch.waits:
                known |= self._passed(wait, i, found)
            last[launch.lane] = i
            found.append(known)
        end = 0
        for wait in self.joins:
            end |= self._passed(wait, len(self.launches), found)
        return [*found, end]

    def _passed(self, wait: int, at: int, found: list[int]) -> int:
        """What has ended once the event has passed; an event of later work is none yet."""
        if wait == START:
            return 1
        recorded = wait < at and (self.launches[wait].marks or at == len(self.launches))
        return found[wait] | 1 << (wait + 1) if recorded else 0

    def races(self) -> tuple[str, ...]:
        """Reads that nothing orders after their writes, and effects that nothing orders."""
        return tuple(self._races(self.before()))

    def _races(self, before: list[int]) -> Iterator[str]:
        made = {launch.makes: i for i, launch in enumerate(self.launches)}
        for i, launch in enumerate(self.launches):
            if not before[i] & 1:
                yield f"[lane {launch.lane}] {launch.task} does not wait for the fork"
            for key in launch.reads:
                maker = made.get(key)
                if maker is not None and not before[i] >> (maker + 1) & 1:
                    yield (
                        f"[lane {launch.lane}] {launch.task} may read {key[1]} before lane "
                        f"{self.launches[maker].lane} has made it"
                    )
        touching = [(i, launch) for i, launch in enumerate(self.launches) if launch.touches]
        for (_, one), (j, other) in combinations(touching, 2):
            shared = one.touches & other.touches
            if shared and not before[j] >> (made[one.makes] + 1) & 1:
                yield f"{one.task} and {other.task} both touch {min(shared)} in no order"
        for i, launch in enumerate(self.launches):
            if not before[-1] >> (i + 1) & 1:
                yield f"the join does not wait for [lane {launch.lane}] {launch.task}"

    def verify(self) -> LaneProgram:
        """Itself, once nothing is seen to race.

        Raises:
            ScheduleError: names the launches that nothing orders.

        """
        for race in self._races(self.before()):
            raise ScheduleError(f"{race}.")
        return self

    def text(self) -> str:
        """For people: the host's launches one a line, each with its lane and what it waits for."""
        return "\n".join([*([self.title] if self.title else []), *self._table()])

    __str__ = text

    def _table(self) -> Iterator[str]:
        rows = [(str(launch.lane), self._waited(launch), _told(launch)) for launch in self.launches]
        rows.append(("now", ", ".join(map(self._name, self.joins)), "join"))
        width = max(len("after"), *(len(waits) for _, waits, _ in rows))
        for lane, waits, told in [("lane", "after", "launch"), *rows]:
            yield f"{lane:>4}  {waits:<{width}}  {told}".rstrip()

    def _waited(self, launch: Launch) -> str:
        return ", ".join(map(self._name, launch.waits))

    def _name(self, wait: int) -> str:
        if wait == START:
            return "start"
        task = self.launches[wait].task
        return f"{task.value}@{task.rank}" if self._is_placed else task.value

    @property
    def _is_placed(self) -> bool:
        return any(launch.task.rank for launch in self.launches)


def _told(launch: Launch) -> str:
    touched = f"    touches {', '.join(sorted(launch.touches))}" if launch.touches else ""
    return f"{launch.task}{touched}"


def launched(schedule: Schedule) -> tuple[Task, ...]:
    """The tasks that a device runs: a ``send`` in one process is none."""
    return tuple(task for task in schedule if task.op != "send")
