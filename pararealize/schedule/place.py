"""Place: put the tasks of a schedule on ranks and add the messages between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from pararealize.errors import RankError, ScheduleError
from pararealize.ir.hierarchy import Cycles, Iteration
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import in_a_row, made_in
from pararealize.ir.task import Role, Task


def owner(piece: int, pieces: int, ranks: int) -> int:
    """The rank of a subnetwork: neighbours share ranks, in runs as equal as can be."""
    return (piece - 1) * ranks // pieces


def place(
    schedule: Schedule,
    pieces: int,
    ranks: int,
    *,
    deliver: bool = False,
    earlier: Sequence[Schedule] = (),
) -> Schedule:
    """The schedule on ``ranks`` ranks, every subnetwork with its corrections on one of them.

    A value that another rank reads is sent once, right after it is made, and received right
    before its first use; the network's inputs are known everywhere, and its output where it is
    made, or on every rank with ``deliver``. What ``earlier`` stages made is where they left it, and
    is sent at the start where it is read elsewhere.

    Raises:
        ScheduleError: more ranks than subnetworks, or none.

    """
    if not 1 <= ranks <= pieces:
        raise ScheduleError(f"{pieces} subnetworks run on 1 to {pieces} ranks, not on {ranks}.")
    made = {t.value: t for t in schedule}
    before = {t.value: t for stage in earlier for t in stage if t.op not in {"send", "recv"}}
    home = {name: task.rank for name, task in before.items()}
    home |= {t.value: owner(t.piece, pieces, ranks) for t in schedule}
    here = set(made_in(earlier))
    readers: dict[str, dict[int, None]] = {}
    for task in schedule:
        for name in task.reads:
            to = home[task.value]
            if name in home and home[name] != to and (to, name) not in here:
                readers.setdefault(name, {})[to] = None
    if deliver:
        others = (rank for rank in range(ranks) if rank != home[schedule.output])
        readers.setdefault(schedule.output, {}).update(dict.fromkeys(others))
    tasks = [_send(task, to) for name, task in before.items() for to in readers.get(name, ())]
    for task in schedule:
        rank = home[task.value]
        for name in task.reads:
            if name in home and home[name] != rank and (rank, name) not in here:
                parts = made[name].parts if name in made else 1
                tasks.append(_receive(name, home[name], rank, task.piece, parts))
                here.add((rank, name))
        tasks.append(replace(task, rank=rank))
        tasks += [_send(tasks[-1], to) for to in readers.get(task.value, ())]
    output = schedule.output
    for rank in readers.get(output, ()):
        if (rank, output) not in here:
            tasks.append(_receive(output, home[output], rank, pieces))
    return replace(schedule, tasks=tuple(tasks), ranks=ranks).verify()


def _send(task: Task, to: int) -> Task:
    """What takes the value of a placed task to a rank."""
    name = f"{task.value}→{to}"
    reads, rank, piece = (task.value,), task.rank, task.piece
    return Task(name, "send", Role.MESSAGE, reads, rank=rank, peer=to, piece=piece)


def _receive(value: str, source: int, to: int, piece: int, parts: int = 1) -> Task:
    """What brings a value, or a part of it, to a rank."""
    return Task(value, "recv", Role.MESSAGE, rank=to, peer=source, piece=piece, parts=parts)


def place_stages(
    stages: Sequence[Schedule], pieces: int, ranks: int, *, deliver: bool
) -> tuple[Schedule, ...]:
    """Schedules that run one after another, the first of them placed already, on ranks."""
    placed = list(stages[:1])
    for stage in stages[1:]:
        placed.append(place(stage, pieces, ranks, deliver=deliver, earlier=placed))
    in_a_row(placed)
    return tuple(placed)


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
