"""Sweep writer: collects the tasks of parareal's sweeps, none of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pararealize.ir.coarsening import Points
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, Watch, commit_last, needed
from pararealize.ir.target import Kind, Target
from pararealize.ir.task import INPUT, Role, Task


@dataclass
class SweepWriter:
    """Collects tasks; the same operation on the same values is written once.

    What a stage was made of, and the jumps since, are remembered from one to the next. With
    ``corrections``, what a sweep corrected of v_n is watched as well. A watch has alternatives: of
    an interface whose new state nothing needs, what is known of it before.
    """

    method: Parareal
    n: int
    reuse: bool = True
    corrections: bool = False
    tasks: list[Task] = field(default_factory=list)
    known: dict[tuple[Target, str], str] = field(default_factory=dict)
    watches: list[Sequence[Watch]] = field(default_factory=list)
    done: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.points: tuple[Points, ...] = self.method.points(self.n)
        self.numbers = [{end: i for i, end in enumerate(points)} for points in self.points]

    @property
    def swept(self) -> tuple[Points, ...]:
        """The points of the levels that a coarse sweep goes through; networks guess by themselves.

        Where the subnetworks themselves correct, groups would take as long as all in a row.
        """
        if self.method.guess == "network":
            return ()
        return self.points[:1] if self.method.coarse == "fine" else self.points

    def apply(self, value: str, role: Role, target: Target, read: str, piece: int) -> str:
        """What a propagator makes of a value, under the name that this has."""
        if (target, read) not in self.known:
            self.tasks.append(Task(value, "apply", role, (read,), target, piece=piece))
            self.known[target, read] = value
        return self.known[target, read]

    def combine(
        self, value: str, role: Role, signs: str, reads: tuple[str, ...], piece: int
    ) -> str:
        """The sum of values, some of them subtracted."""
        self.tasks.append(Task(value, "combine", role, reads, signs=signs, piece=piece))
        return value

    def coarse(self, value: str, target: Target, read: str, span: tuple[int, int]) -> str:
        """What a coarse propagator makes of a value, from interface to interface.

        Of a group, the subnetworks themselves are applied one after another.
        """
        start, end = span
        if target.level == 2 or self.method.coarse != "fine":
            return self.apply(value, Role.COARSE, target, read, end)
        for j in range(start + 1, end + 1):
            name = value if j == end else f"{value}.{j}"
            read = self.apply(name, Role.COARSE, self.corrector(j, 2), read, j)
        return read

    def corrector(self, number: int, level: int) -> Target:
        """F of a level's step, or G, whichever the correction takes."""
        if self.method.correction == "difference":
            return self.sweeper(number, level)
        return Target.coarse(number, level)

    def sweeper(self, number: int, level: int) -> Target:
        """What a coarse sweep applies: corrections of residual form have lost the constant part."""
        if self.method.coarse == "fine" and level == 2:
            return Target.fine(number)
        if self.method.correction == "difference":
            return Target.coarse(number, level)
        return Target.guess(number, level if level > 2 else 1)

    def network(self, target: Target) -> Target:
        """A coarse sweep guesses with the networks that correct."""
        sweeps = target.kind is Kind.GUESS and self.method.guess == "coarse"
        return Target.coarse(target.number, max(2, target.level)) if sweeps else target

    def stage(self, output: str, sweeps: int, title: str) -> Schedule:
        """What the output needs and no stage before has made."""
        wanted = [task for task in needed(self.tasks, [output]) if task.value not in self.done]
        tasks = commit_last(wanted, self.network)
        earlier = dict(self.done)
        self.done |= dict.fromkeys(task.value for task in tasks)
        watches = self._watched({*self.done, INPUT})
        reads = {name for task in tasks for name in task.reads}
        reads |= {name for watch in watches for name in (watch.new, watch.old)}
        inputs = (INPUT, *(name for name in earlier if name in reads))
        return Schedule(tasks, output, watches, inputs, title=title, sweeps=sweeps).verify()

    def _watched(self, made: set[str]) -> tuple[Watch, ...]:
        """Of every watch since the last stage the first alternative that is made."""
        found = []
        for watch in self.watches:
            found += [each for each in watch if {each.new, each.old} <= made][:1]
        self.watches = []
        return tuple(found)
