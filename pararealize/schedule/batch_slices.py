"""Chunk: cut the chain of corrections into slices of the batch that flow through the ranks.

A correction waits for the one before it, so that on P ranks the chain takes P corrections one after
another. Slices of the batch follow each other through the ranks instead, and it takes about one::

    rank 1   c c c c                    rank 1   c0 c1 c2 c3
    rank 2          c c c c      →      rank 2      c0 c1 c2 c3
    rank 3                 c c c c      rank 3         c0 c1 c2 c3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.target import Kind
from pararealize.ir.task import Role, Task


def chunk(schedule: Schedule, parts: int, owner: Callable[[int], int]) -> Schedule:
    """The schedule with every correction done in ``parts`` slices of the batch.

    Jumps, corrections and corrected states become one task a slice, called ``u2.1[0]`` …; what
    they read of a whole state is a ``slice`` of it, and what reads a whole state again a ``join``.
    Fine propagators, guesses and the head run on whole batches.

    Args:
        schedule: a schedule that is not placed yet.
        parts: number of slices.
        owner: the rank of a subnetwork: there a whole state need not be joined again.

    """
    if parts == 1:
        return schedule
    cutter = _Cutter(parts, owner, {task.value: task for task in schedule})
    for task in schedule:
        cutter.take(task)
    cutter.flush()
    output = cutter.whole(schedule.output, cutter.made[schedule.output].piece)
    watches = tuple(w for watch in schedule.watches for w in cutter.watch(watch))
    return replace(schedule, tasks=tuple(cutter.tasks), output=output, watches=watches).verify()


@dataclass
class _Cutter:
    """Writes the new tasks; ``run`` collects those to slice up to the next fine sweep.

    Coarse propagators of old states, which a difference correction applies whole, go before it.
    """

    parts: int
    owner: Callable[[int], int]
    made: dict[str, Task]
    tasks: list[Task] = field(default_factory=list)
    run: list[Task] = field(default_factory=list)
    sliced: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)

    def take(self, task: Task) -> None:
        reads_slices = not self.sliced.isdisjoint(task.reads)
        if task.op == "combine" or (_is_coarse(task) and reads_slices):
            self.sliced.add(task.value)
            self.run.append(task)
            return
        pending = {t.value for t in self.run}
        if not _is_coarse(task) or pending & set(task.reads):
            self.flush()
        reads = tuple(self.whole(name, task.piece) for name in task.reads)
        self.tasks.append(replace(task, reads=reads))

    def flush(self) -> None:
        """Write what was collected, slice after slice."""
        run, self.run = self.run, []
        for i in range(self.parts):
            for task in run:
                reads = tuple(self.slice(name, i) for name in task.reads)
                here = replace(task, value=f"{task.value}[{i}]", reads=reads, parts=self.parts)
                self.tasks.append(replace(here, commits=task.commits and i == self.parts - 1))

    def slice(self, name: str, i: int) -> str:
        """The i-th slice of a value."""
        part = f"{name}[{i}]"
        if name in self.sliced or name not in self.made or part in self.known:
            return part if name in self.made else name
        piece = self.made[name].piece
        self.known.add(part)
        task = Task(part, "slice", Role.BATCH, (name,), piece=piece, part=i, parts=self.parts)
        self.tasks.append(task)
        return part

    def whole(self, name: str, piece: int) -> str:
        """The whole value, where the subnetwork ``piece`` can read it."""
        if name not in self.made:
            return name
        here = self.owner(self.made[name].piece) == self.owner(piece)
        if name not in self.sliced and (here or f"{name}[0]" not in self.known):
            return name
        joined = f"{name}+{piece}"
        if joined not in self.known:
            self.known.add(joined)
            reads = tuple(self.slice(name, i) for i in range(self.parts))
            task = Task(joined, "join", Role.BATCH, reads, piece=piece, parts=self.parts)
            self.tasks.append(task)
        return joined

    def watch(self, watch: Watch) -> list[Watch]:
        """A jump, slice by slice."""
        pairs = [(self.slice(watch.new, i), self.slice(watch.old, i)) for i in range(self.parts)]
        return [replace(watch, new=new, old=old) for new, old in pairs]


def _is_coarse(task: Task) -> bool:
    """Whether it applies a coarse propagator, and not the network's own layers in its place."""
    return task.target is not None and task.target.kind is Kind.COARSE
