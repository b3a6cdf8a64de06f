"""Rank stages: what one rank runs of each schedule, where some run one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import answered, kept, reported
from pararealize.ir.task import Task
from pararealize.runtime.communication.message import Message

#: A message by its value, source and target.
Route = tuple[str, int, int]


@dataclass(frozen=True)
class RankStage:
    """One rank's part of a stage.

    Attributes:
        tasks: its tasks.
        done_with: for each task, values that nothing after it reads.
        watches: the stage's, of all ranks.
        reported: those that this rank reports, by their place among all.
        incoming: messages to this rank.
        answered: messages from this rank whose adjoints come back where no stage follows.
        all_answered: the same where those of the jumps of all stages come back as well.

    """

    schedule: Schedule
    tasks: tuple[Task, ...]
    done_with: tuple[tuple[str, ...], ...]
    watches: tuple[Watch, ...]
    reported: Mapping[int, Watch]
    incoming: tuple[Message, ...]
    answered: frozenset[Message]
    all_answered: frozenset[Message]


def rank_stages(stages: Sequence[Schedule], rank: int) -> tuple[RankStage, ...]:
    """What a rank runs of schedules that run one after another."""
    routes = messages_of(*stages)
    return tuple(_rank_stage(stages, i, rank, routes) for i in range(1, len(stages) + 1))


def _rank_stage(
    stages: Sequence[Schedule], count: int, rank: int, routes: Mapping[Route, Message]
) -> RankStage:
    """The last of the first ``count`` stages."""
    ran, schedule = stages[:count], stages[count - 1]
    tasks = tuple(task for task in schedule if task.rank == rank)
    mine = {i: watch for i, (watch, by) in enumerate(reported(ran)) if by == rank}
    later = {name for r, name in kept(stages, count) if r == rank}
    watched = {name for w in mine.values() for name in (w.new, w.old)}
    arriving = {task.value for task in tasks if task.op == "recv"}
    ours = [
        frozenset(routes[route] for route in answered(ran, jumps=jumps) if route[1] == rank)
        for jumps in (False, True)
    ]
    incoming = (m for m in routes.values() if m.target == rank and m.value in arriving)
    done_with = _last_reads(tasks, {schedule.output, *watched, *later})
    return RankStage(schedule, tasks, done_with, schedule.watches, mine, tuple(incoming), *ours)


def _last_reads(tasks: Sequence[Task], wanted: set[str]) -> tuple[tuple[str, ...], ...]:
    """Values that no task after the i-th reads, so that they need not be kept."""
    last = {name: i for i, task in enumerate(tasks) for name in task.reads}
    rows: list[tuple[str, ...]] = [() for _ in tasks]
    for name, i in last.items():
        rows[i] += () if name in wanted else (name,)
    return tuple(rows)


def messages_of(*schedules: Schedule) -> dict[Route, Message]:
    """The messages of placed schedules, by value, source and target."""
    counts: Counter[tuple[int, int]] = Counter()
    found: dict[Route, Message] = {}
    outputs = {schedule.output for schedule in schedules}
    for task in (task for schedule in schedules for task in schedule):
        key = (task.reads[0], task.rank, task.peer) if task.op == "send" else None
        if key is not None and key not in found:
            found[key] = Message(*key, counts[key[1:]], key[0] not in outputs)
            counts[key[1:]] += 1
    return found
