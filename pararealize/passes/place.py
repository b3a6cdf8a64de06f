"""Place: put the tasks of a schedule on ranks and add the messages between them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

from pararealize.errors import RankError, ScheduleError
from pararealize.ir.levels import Cycles, Iteration
from pararealize.ir.schedule import Schedule, Task


def owner(piece: int, pieces: int, ranks: int) -> int:
    """The rank of a subnetwork: neighbours share ranks, in runs as equal as can be."""
    return (piece - 1) * ranks // pieces


def place(schedule: Schedule, pieces: int, ranks: int, *, deliver: bool = False) -> Schedule:
    """The schedule on ``ranks`` ranks, every subnetwork with its corrections on one of them.

    A value that another rank reads is sent once, right after it is made, and received right
    before its first use; the network's inputs are known everywhere, and its output where it is
    made, or on every rank with ``deliver``.

    Raises:
        ScheduleError: more ranks than subnetworks, or none.

    """
    if not 1 <= ranks <= pieces:
        raise ScheduleError(f"{pieces} subnetworks run on 1 to {pieces} ranks, not on {ranks}.")
    made = {t.value: t for t in schedule}
    home = {t.value: owner(t.piece, pieces, ranks) for t in schedule}
    readers: dict[str, dict[int, None]] = {}
    for task in schedule:
        for name in task.reads:
            if name in home and home[name] != home[task.value]:
                readers.setdefault(name, {})[home[task.value]] = None
    if deliver:
        others = (rank for rank in range(ranks) if rank != home[schedule.output])
        readers.setdefault(schedule.output, {}).update(dict.fromkeys(others))
    tasks: list[Task] = []
    here: set[tuple[int, str]] = set()
    for task in schedule:
        rank = home[task.value]
        for name in task.reads:
            if name in home and home[name] != rank and (rank, name) not in here:
                parts = made[name].parts
                tasks.append(
                    Task(name, "recv", rank=rank, peer=home[name], piece=task.piece, parts=parts)
                )
                here.add((rank, name))
        tasks.append(replace(task, rank=rank))
        tasks += [
            Task(f"{task.value}→{to}", "send", (task.value,), rank=rank, peer=to, piece=task.piece)
            for to in readers.get(task.value, ())
        ]
    output = schedule.output
    for rank in readers.get(output, ()):
        if (rank, output) not in here:
            tasks.append(Task(output, "recv", rank=rank, peer=home[output], piece=pieces))
    return replace(schedule, tasks=tuple(tasks), ranks=ranks).verify()


def place_iteration(solved: Iteration, pieces: int, ranks: int, *, deliver: bool) -> Iteration:
    """The schedules of a multigrid solver on ranks.

    Raises:
        RankError: a coarse step would need the weights of several ranks.

    """
    _check_steps(solved, pieces, ranks)

    def placed(cycles: Cycles, *, deliver: bool) -> Cycles:
        return replace(cycles, schedule=place(cycles.schedule, pieces, ranks, deliver=deliver))

    states = partial(placed, deliver=deliver)
    return replace(
        solved,
        forward=tuple(map(states, solved.forward)),
        warm=tuple(map(states, solved.warm)),
        adjoint=tuple(placed(cycles, deliver=False) for cycles in solved.adjoint),
    )


def _check_steps(solved: Iteration, pieces: int, ranks: int) -> None:
    for number, level in enumerate(solved.levels, start=1):
        for first, last in pairwise(level.bounds):
            owners = {owner(piece, pieces, ranks) for piece in range(first + 1, last + 1)}
            if len(owners) > 1:
                raise RankError(
                    f"on level {number} the slices {first + 1} … {last} are one step, and lie on "
                    f"{len(owners)} ranks: write n={ranks}, fewer levels, or a smaller coarsening."
                )
