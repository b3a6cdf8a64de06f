"""Stages: schedules that run one after another, as many of them as it takes.

A later stage reads what earlier ones made, and nothing is made twice; after every stage the output
so far is known. Keys are (rank, value).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.task import INPUT

Key = tuple[int, str]


def in_a_row(stages: Sequence[Schedule]) -> Schedule:
    """The schedule that runs all stages, verified as a whole.

    Raises:
        ScheduleError: a stage reads what no earlier one left on that rank.

    """
    tasks = tuple(task for stage in stages for task in stage)
    return replace(stages[-1], tasks=tasks, inputs=(INPUT,)).verify()


def made_in(stages: Sequence[Schedule]) -> dict[Key, None]:
    """What the ranks know once the stages have run, besides the network's inputs."""
    tasks = (task for stage in stages for task in stage if task.op != "send")
    return {(task.rank, task.value): None for task in tasks}


def reported(stages: Sequence[Schedule]) -> tuple[tuple[Watch, int], ...]:
    """The last stage's watches, each with the rank that reports it: the last that knows both.

    What the first stage takes is known everywhere.
    """
    ranks = range(stages[-1].ranks)
    known = {*made_in(stages), *((rank, name) for rank in ranks for name in stages[0].inputs)}

    def reporter(watch: Watch) -> int:
        return max((r for r in ranks if {(r, watch.new), (r, watch.old)} <= known), default=-1)

    return tuple((watch, reporter(watch)) for watch in stages[-1].watches)


def watched_on(stages: Sequence[Schedule], rank: int) -> tuple[Watch, ...]:
    """The last stage's watches that a rank reports."""
    return tuple(watch for watch, reporter in reported(stages) if reporter == rank)


def watches_in_order(stages: Sequence[Schedule]) -> tuple[Watch, ...]:
    """The last stage's watches in one process, those of each rank together."""
    ranks = range(stages[-1].ranks)
    return tuple(watch for rank in ranks for watch in watched_on(stages, rank))


def taken(stages: Sequence[Schedule]) -> tuple[Key, ...]:
    """What the last of the stages reads, or watches, that earlier ones made."""
    tasks = (task for task in stages[-1] if task.op != "recv")
    reads = dict.fromkeys((task.rank, name) for task in tasks for name in task.reads)
    for watch, rank in reported(stages):
        reads |= {(rank, watch.new): None, (rank, watch.old): None}
    earlier = made_in(stages[:-1])
    return tuple(key for key in reads if key in earlier)


def kept(stages: Sequence[Schedule], done: int) -> tuple[Key, ...]:
    """What later stages read of that which the first ``done`` made."""
    made = made_in(stages[:done])
    later = (taken(stages[: i + 1]) for i in range(done, len(stages)))
    return tuple(dict.fromkeys(key for keys in later for key in keys if key in made))


def answered(stages: Sequence[Schedule], *, jumps: bool = False) -> frozenset[tuple[str, int, int]]:
    """Messages that the last stage's output depends on, by value, source and target.

    The adjoints of these travel back. What an earlier stage sent for an output that was not the
    last has none, unless gradients of all ``jumps`` are wanted as well.
    """
    tasks = [task for stage in stages for task in stage]
    output = stages[-1].output
    wanted = {(t.rank, t.value) for t in tasks if t.value == output and t.op != "recv"}
    for i in range(1, len(stages) + 1) if jumps else ():
        for watch, rank in reported(stages[:i]):
            wanted |= {(rank, watch.new), (rank, watch.old)}
    awaited: set[tuple[str, int, int]] = set()
    for task in reversed(tasks):
        if task.op == "send" and (task.reads[0], task.rank, task.peer) in awaited:
            wanted.add((task.rank, task.reads[0]))
        elif task.op == "recv" and (task.rank, task.value) in wanted:
            awaited.add((task.value, task.peer, task.rank))
        elif task.op != "send" and (task.rank, task.value) in wanted:
            wanted |= {(task.rank, name) for name in task.reads}
    return frozenset(awaited)
