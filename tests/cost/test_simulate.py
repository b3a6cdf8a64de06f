"""Simulated timelines: makespan and critical path, by hand."""

from itertools import pairwise

import pytest

from pararealize.cost.predict import predict
from pararealize.cost.simulate import Timeline, simulate
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.plan import Machine, Piece, Plan
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Kind
from pararealize.ir.task import Role, Task
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import place

SECONDS = {Kind.GUESS: 1.0, Kind.FINE: 10.0, Kind.COARSE: 2.0, Kind.HEAD: 3.0, Kind.INPUTS: 5.0}


def clock(task: Task) -> float:
    return 0.5 if task.target is None else SECONDS[task.target.kind]


def run(n: int, ranks: int, message: float = 4.0, method: Parareal | None = None) -> Timeline:
    schedule = place(parareal_schedule(n, method or Parareal()), n, ranks)
    return simulate(schedule, clock, lambda _: message)


def times(timeline: Timeline) -> dict[str, tuple[float, float]]:
    rows = zip(timeline.schedule, timeline.start, timeline.stop, strict=True)
    return {t.value: (a, b) for t, a, b in rows if t.op in {"apply", "combine"}}


def critical(timeline: Timeline) -> list[str]:
    tasks = [timeline.schedule.tasks[i] for i in timeline.critical]
    return [t.value for t in tasks if t.op in {"apply", "combine"}]


def test_two_ranks_by_hand() -> None:
    # rank 0: v1 0-10, sends at 10; rank 1: u1 0-1, v2 1-11, receives at 14, then
    # r1 14-14.5, c2 14.5-16.5, u2 16.5-17, head 17-20.
    timeline = run(2, 2)
    assert times(timeline) == {
        "v1.0": (0.0, 10.0),
        "u1.0": (0.0, 1.0),
        "v2.0": (1.0, 11.0),
        "r1.0": (14.0, 14.5),
        "c2.0": (14.5, 16.5),
        "u2.1": (16.5, 17.0),
        "out": (17.0, 20.0),
    }
    assert timeline.makespan == 20.0
    assert critical(timeline) == ["v1.0", "r1.0", "c2.0", "u2.1", "out"]
    assert timeline.critical_coarse_seconds == 0.5 + 2.0 + 0.5


def test_a_rank_that_is_busy_receives_late() -> None:
    timeline = run(2, 2, message=0.0)
    assert times(timeline)["r1.0"] == (11.0, 11.5)
    assert critical(timeline)[:3] == ["u1.0", "v2.0", "r1.0"]
    assert timeline.critical_coarse_seconds == 1.0 + 0.5 + 2.0 + 0.5


def test_one_rank_takes_the_sum() -> None:
    timeline = run(3, 1)
    assert timeline.makespan == sum(clock(task) for task in timeline.schedule)
    assert len(timeline.critical) == len(timeline.schedule.tasks)


def test_more_ranks_are_never_slower_without_messages() -> None:
    spans = [run(6, ranks, message=0.0).makespan for ranks in range(1, 7)]
    assert spans == sorted(spans, reverse=True)
    assert spans[-1] < spans[0] / 2


def test_ranks_run_one_task_at_a_time() -> None:
    timeline = run(5, 3, method=Parareal(iterations=2, correction="difference"))
    for rank in range(3):
        rows = zip(timeline.schedule, timeline.start, timeline.stop, strict=True)
        own = [(a, b) for task, a, b in rows if task.rank == rank]
        assert all(first[1] <= second[0] for first, second in pairwise(own))


def test_nothing_takes_no_time() -> None:
    empty = simulate(Schedule((), "out"), clock, lambda _: 0.0)
    assert empty.makespan == 0.0
    assert empty.critical == ()


def test_what_the_network_computes_of_its_inputs_alone_is_not_coarse() -> None:
    """Of two steps seen by slices of their own: only a coarse step is not the network's."""
    levels = hierarchy([4] * 2, (4,))
    solved = iteration(levels, MGRIT(), head=True, with_features=(2,))
    schedule = place(solved.forward[0].schedule, 2, 1)
    seen = [task.value for task in schedule if task.role is Role.FEATURES]
    timeline = simulate(schedule, clock, lambda _: 0.0)
    assert seen == ["f2.0"]
    assert timeline.makespan == timeline.critical_coarse_seconds + 2 * 10.0 + 3.0 + 5.0


def piece(index: int, **seconds: float) -> Piece:
    return Piece(
        index=index,
        layers=("a", "a"),
        depth=1,
        after="a" if index == 1 else "",
        module="a" if index == 1 else "",
        state=("[8] float32",) if index == 1 else (),
        interface_bytes=32 if index == 1 else 0,
        parameters=0,
        memory=0,
        flops=0.0,
        coarse="generic" if index == 2 else "none",
        guess="patches" if index == 2 else "none",
        **seconds,
    )


def test_prediction_uses_the_plans_costs_and_machine() -> None:
    machine = Machine(
        bytes_per_second=32.0, launch_seconds=0.25, link_latency=1.0, link_bandwidth=16.0
    )
    plan = Plan(
        model="Net",
        pieces=(
            piece(1, seconds=10.0),
            piece(2, seconds=8.0, coarse_seconds=2.0, guess_seconds=1.0),
        ),
        head="fc",
        inputs={},
        method={},
        machine=machine,
        serial_seconds=18.0,
        parallel_seconds=0.0,
        critical_coarse_seconds=0.0,
        head_seconds=3.0,
    )
    timeline = predict(plan, place(parareal_schedule(2, Parareal()), 2, 2))
    # A message of 32 bytes takes 1 + 2 seconds; a difference of two states moves 96 bytes with
    # one launch, 3 + 0.25 seconds.
    arrives, combine = 10.0 + 3.0, 3.25
    assert times(timeline)["r1.0"] == pytest.approx((arrives, arrives + combine))
    assert timeline.makespan == pytest.approx(arrives + combine + 2.0 + combine + 3.0)
