"""Tasks on streams of one device: small ones run side by side, large ones share it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pararealize import Parareal
from pararealize.cost.side_by_side import side_by_side
from pararealize.cost.simulate import Timeline
from pararealize.ir.lanes import START
from pararealize.ir.schedule import Schedule
from pararealize.ir.sharing import Sharing
from pararealize.ir.task import Role, Task
from pararealize.schedule.lanes import lanes
from pararealize.schedule.parareal import parareal_schedule

FREE = Sharing(beside=1.0, wait=0.0, share=1.0)


def timeline(
    parts: Callable[[Task], tuple[float, float]],
    sharing: Sharing = FREE,
    n: int = 4,
    sweeps: int = 1,
) -> Timeline:
    schedule = parareal_schedule(n, Parareal(iterations=sweeps))
    return side_by_side(schedule, lanes(schedule), parts, sharing)


def fine_only(waiting: float, busy: float) -> Callable[[Task], tuple[float, float]]:
    return lambda task: (waiting, busy) if task.role is Role.FINE else (0.0, 0.0)


def test_launches_run_side_by_side() -> None:
    assert timeline(fine_only(2.0, 0.0)).makespan == pytest.approx(2.0)


@pytest.mark.parametrize(("share", "seconds"), [(1.0, 8.0), (0.5, 4.0), (0.25, 2.0), (0.1, 2.0)])
def test_what_computes_shares_the_device(share: float, seconds: float) -> None:
    found = timeline(fine_only(0.0, 2.0), Sharing(1.0, 0.0, share))
    assert found.makespan == pytest.approx(seconds)


def test_a_task_that_has_the_device_to_itself_takes_what_it_takes_alone() -> None:
    coarse = timeline(lambda task: (1.0, 2.0) if task.role is Role.COARSE else (0.0, 0.0))
    assert coarse.makespan == pytest.approx(3 * 3.0)  # one correction after another


def test_launches_take_longer_beside_others_and_events_take_time() -> None:
    every = timeline(fine_only(2.0, 0.0), Sharing(beside=1.5, wait=0.0))
    assert every.makespan == pytest.approx(3.0)
    assert timeline(fine_only(2.0, 0.0), Sharing(1.5, 0.0), n=1).makespan == pytest.approx(2.0)
    waits = timeline(fine_only(0.0, 0.0), Sharing(1.0, wait=0.25))
    assert waits.makespan >= 0.25


def test_tasks_are_drawn_on_their_lanes() -> None:
    found = timeline(fine_only(1.0, 0.0))
    program = lanes(parareal_schedule(4, Parareal()))
    assert [task.rank + 1 for task in found.schedule] == [x.lane for x in program.launches]
    assert found.schedule.ranks == program.lanes


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=9, max_size=9),
    st.sampled_from([FREE, Sharing(), Sharing(1.5, 0.1, 0.7)]),
)
@settings(max_examples=60, deadline=None)
def test_nothing_begins_too_soon_and_the_device_does_no_more_than_it_can(
    n: int, sweeps: int, seconds: list[tuple[float, float]], sharing: Sharing
) -> None:
    schedule: Schedule = parareal_schedule(n, Parareal(iterations=min(sweeps, n)))
    program = lanes(schedule)
    parts = {x.task.value: seconds[i % len(seconds)] for i, x in enumerate(program.launches)}
    found = side_by_side(schedule, program, lambda task: parts[task.value], sharing)
    last: dict[int, float] = {}
    for i, launch in enumerate(program.launches):
        begin, end, own = found.start[i], found.stop[i], parts[launch.task.value]
        assert end - begin >= sum(own) - 1e-9
        assert begin >= last.get(launch.lane, 0.0) - 1e-9
        waits = [found.stop[w] + sharing.wait for w in launch.waits if w != START]
        assert all(begin >= wait - 1e-9 for wait in waits)
        last[launch.lane] = end
    busy = sum(own for _, own in parts.values())
    alone = sum(map(sum, parts.values()))
    # The share is that of the time in which a task computes, on the average over the task.
    assert found.makespan >= sharing.share * busy - 1e-6
    assert found.makespan <= sharing.beside * alone + sharing.wait * program.events + 1e-6
