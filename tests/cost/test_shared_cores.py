"""Ranks that share cores: timelines by hand, and the limits in which nothing is shared."""

import pytest

from pararealize.cost.simulate import simulate
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Role, Task
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import place


def independent(count: int, seconds: tuple[float, ...]) -> tuple[Schedule, dict[str, float]]:
    """One task a rank, none of which waits for another, and how long each takes alone."""
    tasks = tuple(
        Task(f"v{j}", "apply", Role.FINE, (INPUT,), Target.fine(j + 1), piece=j + 1, rank=j)
        for j in range(count)
    )
    schedule = Schedule(tasks, f"v{count - 1}", (), (INPUT,), ranks=count).verify()
    return schedule, {task.value: s for task, s in zip(tasks, seconds, strict=True)}


@pytest.mark.parametrize(
    ("cores", "seconds", "stops"),
    [
        (1, (1.0, 1.0), (2.0, 2.0)),
        (1, (1.0, 3.0), (2.0, 4.0)),  # both at half speed until one is done
        (2, (1.0, 1.0, 1.0), (1.5, 1.5, 1.5)),
        (2, (2.0, 1.0, 1.0, 0.0), (2.5, 1.5, 1.5, 0.0)),
    ],
)
def test_ranks_advance_at_their_share(
    cores: int, seconds: tuple[float, ...], stops: tuple[float, ...]
) -> None:
    schedule, each = independent(len(seconds), seconds)
    timeline = simulate(schedule, lambda task: each[task.value], lambda _: 0.0, cores)
    assert timeline.stop == pytest.approx(stops)


@pytest.mark.parametrize(
    ("cores", "seconds", "stops"),
    [
        (2, (1.0, 3.0), (2.0, 4.0)),  # half as fast until one is done
        (1, (1.0, 1.0), (4.0, 4.0)),
        (1, (1.0, 0.0), (1.0, 0.0)),  # alone as fast as ever
    ],
)
def test_those_that_compute_at_once_hinder_each_other(
    cores: int, seconds: tuple[float, ...], stops: tuple[float, ...]
) -> None:
    schedule, each = independent(len(seconds), seconds)
    timeline = simulate(schedule, lambda task: each[task.value], lambda _: 0.0, cores, 2.0)
    assert timeline.stop == pytest.approx(stops)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_limits(n: int, sweeps: int) -> None:
    schedule = place(parareal_schedule(n, Parareal(iterations=sweeps)), n, n)

    def clock(task: Task) -> float:
        return 0.25 if task.target is None else 1.0 + 0.1 * task.piece

    def message(_: Task) -> float:
        return 0.5

    alone = simulate(schedule, clock, message)
    assert simulate(schedule, clock, message, n).stop == alone.stop
    times = [simulate(schedule, clock, message, cores).makespan for cores in range(1, n + 1)]
    assert times == sorted(times, reverse=True)
    computed = sum(clock(task) for task in schedule if task.op in {"apply", "combine"})
    free = simulate(schedule, clock, lambda _: 0.0, 1)
    assert free.makespan == pytest.approx(computed)  # one core is never idle
    nearly = simulate(schedule, clock, message, n - 1).makespan
    assert alone.makespan <= nearly <= alone.makespan * n / (n - 1) + 1e-9


def test_who_waits_for_a_message_takes_no_core() -> None:
    # rank 0 computes 1 s and sends; rank 1 waits for it, 2 s on the way; rank 2 has the core.
    tasks = (
        Task("a", "apply", Role.FINE, (INPUT,), Target.fine(1), piece=1, rank=0),
        Task("a→1", "send", Role.MESSAGE, ("a",), rank=0, peer=1, piece=1),
        Task("a", "recv", Role.MESSAGE, rank=1, peer=0, piece=2),
        Task("b", "apply", Role.FINE, ("a",), Target.fine(2), piece=2, rank=1),
        Task("c", "apply", Role.FINE, (INPUT,), Target.fine(3), piece=3, rank=2),
    )
    schedule = Schedule(tasks, "b", (), (INPUT,), ranks=3).verify()
    timeline = simulate(schedule, lambda _: 1.0, lambda _: 2.0, 1)
    # a and c share the core until 2; the message arrives at 4, and b ends at 5.
    assert timeline.stop == pytest.approx((2.0, 2.0, 4.0, 5.0, 2.0))
