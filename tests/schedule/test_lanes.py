"""Lanes: what is launched where, and a race detector that misses no event."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pararealize.errors import ScheduleError
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.lanes import START, LaneProgram, Launch
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.ir.task import Role, Task
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.lanes import lanes
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.parareal import certified_stages, parareal_schedule
from pararealize.schedule.place import place

THREE = """\
parareal, n = 3, residual correction, 1 sweeps
lane  after  launch
   1  start  u1.0 = guess.1(x)
   2  start  u2.0 = guess.2(x)
   3  start  v1.0 = fine.1(x)
   1         v2.0 = fine.2(u1.0)
   2         v3.0 = fine.3(u2.0)
   3  u1.0   r1.0 = v1.0 - u1.0
   3         c2.0 = coarse.2(r1.0)
   3  v2.0   u2.1 = v2.0 + c2.0
   3  u2.0   r2.0 = u2.1 - u2.0
   3         c3.0 = coarse.3(r2.0)
   3  v3.0   u3.1 = v3.0 + c3.0
   3         out = head(u3.1)
 now  out    join"""

#: G of the old state, g2.0, beside fine.2: both read u1.0.
BESIDE = """\
parareal, n = 2, difference correction, 1 sweeps
lane  after  launch
   1  start  u1.0 = guess.1(x)
   2  start  v1.0 = fine.1(x)
   1         v2.0 = fine.2(u1.0)
   3  u1.0   g2.0 = coarse.2(u1.0, quiet)    touches norms
   3  v1.0   g2.1 = coarse.2(v1.0)    touches norms
   3  v2.0   u2.1 = g2.1 + v2.0 - g2.0
   3         out = head(u2.1)
 now  out    join"""

PIECES = """\
parareal, n = 2, residual correction, 1 sweeps
lane  after  launch
   2  start  u1.0 = guess.1(x)
   1  start  v1.0 = fine.1(x)
   2         v2.0 = fine.2(u1.0)
   2  v1.0   r1.0 = v1.0 - u1.0
   2         c2.0 = coarse.2(r1.0)
   2         u2.1 = v2.0 + c2.0
   2         out = head(u2.1)
 now  out    join"""


def test_what_is_launched_where() -> None:
    assert str(lanes(parareal_schedule(3, Parareal()))) == THREE
    assert str(lanes(parareal_schedule(2, Parareal()), by="pieces")) == PIECES


def test_old_states_are_coarsened_beside_the_fine_work() -> None:
    schedule = parareal_schedule(2, Parareal(correction="difference"))
    assert str(lanes(schedule, {Target.coarse(2): {"norms"}})) == BESIDE


def depths(program: LaneProgram) -> dict[str, int]:
    """How many launches surely run before each."""
    before = program.before()
    return {
        launch.task.value: (before[i] >> 1).bit_count() for i, launch in enumerate(program.launches)
    }


@pytest.mark.parametrize("n", [2, 5, 12])
def test_fine_work_waits_for_nothing_but_its_guess(n: int) -> None:
    found = depths(lanes(parareal_schedule(n, Parareal())))
    assert [found[f"v{j}.0"] for j in range(1, n + 1)] == [0] + [1] * (n - 1)
    by_piece = depths(lanes(parareal_schedule(n, Parareal()), by="pieces"))
    assert all(found[value] <= by_piece[value] for value in found)
    # A jump waits for what it is the difference of, and on its subnetwork's lane for more.
    assert found["r1.0"] == 2
    assert by_piece["r1.0"] == 3


def schedules() -> list[Schedule]:
    found = [
        parareal_schedule(n, Parareal(coarse, correction, k, guess), reuse=reuse)
        for n in (1, 2, 5)
        for k in (0, 1, 3)
        for coarse, correction in (("network", "residual"), ("fine", "difference"))
        for guess in ("network", "coarse")
        for reuse in (True, False)
    ]
    found += certified_stages(4, Parareal(iterations=1, tolerance=math.inf))
    plain = parareal_schedule(4, Parareal(correction="difference"))
    found += [chunk(plain, 3, lambda _piece: 0), place(chunk(plain, 2, lambda p: p // 2), 4, 2)]
    for method in (MGRIT(), MGRIT(levels=3, coarsening=(2, 2), relaxation="FCF", cycle="F")):
        factors = (4,) if method.levels == 2 else (2, 2)
        solved = iteration(hierarchy([4] * 4, factors), method, head=True, with_features=(2, 3))
        every = (*solved.forward, *solved.warm, *solved.adjoint)
        found += [cycles.schedule for cycles in every]
    return found


@pytest.mark.parametrize("by", ["paths", "pieces"])
def test_every_schedule_runs_on_lanes_and_needs_every_event(by: str) -> None:
    for schedule in schedules():
        program = lanes(schedule, {Target.fine(j): {"m"} for j in (1, 3)}, by=by)  # type: ignore[arg-type]
        assert program.races() == ()
        assert [launch.task for launch in program.launches] == [
            task for task in schedule if task.op != "send"
        ]
        for broken in without_one_event(program):
            assert broken.races(), f"{broken}"


def without_one_event(program: LaneProgram) -> list[LaneProgram]:
    """The program without each of its waits, and without each of its marks."""
    found = []
    for i, launch in enumerate(program.launches):
        for wait in launch.waits:
            less = replace(launch, waits=tuple(w for w in launch.waits if w != wait))
            found.append(with_launch(program, i, less))
        if launch.marks:
            found.append(with_launch(program, i, replace(launch, marks=False)))
    joins = program.joins
    return found + [replace(program, joins=joins[:i] + joins[i + 1 :]) for i in range(len(joins))]


def with_launch(program: LaneProgram, i: int, launch: Launch) -> LaneProgram:
    launches = program.launches
    return replace(program, launches=(*launches[:i], launch, *launches[i + 1 :]))


@st.composite
def random_schedules(draw: st.DrawFn) -> tuple[Schedule, dict[Target, set[str]]]:
    tasks: list[Task] = []
    for i in range(draw(st.integers(1, 14))):
        names = ["x", *(task.value for task in tasks)]
        reads = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        piece = draw(st.integers(1, 4))
        target = Target.fine(draw(st.integers(1, 4)))
        tasks.append(Task(f"t{i}", "apply", Role.FINE, reads, target, piece=piece))
    names = st.sets(st.sampled_from("abc"), max_size=2)
    effects = {Target.fine(j): draw(names) for j in range(1, 5)}
    return Schedule(tuple(tasks), tasks[-1].value, inputs=("x",)).verify(), effects


@given(random_schedules(), st.sampled_from(["paths", "pieces"]))
def test_no_event_can_be_left_out(drawn: tuple[Schedule, dict[Target, set[str]]], by: str) -> None:
    schedule, effects = drawn
    program = lanes(schedule, effects, by=by)  # type: ignore[arg-type]
    assert program.races() == ()
    for broken in without_one_event(program):
        assert broken.races()


def test_a_race_is_named() -> None:
    program = lanes(parareal_schedule(3, Parareal()))
    broken = with_launch(program, 7, replace(program.launches[7], waits=()))
    with pytest.raises(ScheduleError, match=r"\[lane 3\] u2.1 = .* may read v2.0 before lane 1"):
        broken.verify()
    early = with_launch(program, 0, replace(program.launches[0], waits=()))
    with pytest.raises(ScheduleError, match="does not wait for the fork"):
        early.verify()
    late = with_launch(program, 7, replace(program.launches[7], waits=(9,)))
    assert "v2.0" in late.races()[0]  # an event that is not recorded yet orders nothing
    apart = lanes(parareal_schedule(3, Parareal()))
    shared = [
        replace(x, touches=frozenset({"norm"})) if x.task.value in {"v2.0", "v3.0"} else x
        for x in apart.launches
    ]
    with pytest.raises(ScheduleError, match="both touch norm in no order"):
        replace(apart, launches=tuple(shared)).verify()


def test_the_fork_is_no_event() -> None:
    program = lanes(parareal_schedule(3, Parareal()))
    assert program.launches[0].waits == (START,)
    assert (program.lanes, program.events) == (3, 4)
