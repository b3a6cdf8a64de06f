"""Cycles as schedules: golden texts, exactness, placement, and parareal as their special case."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import Shape, levels_of, options, shapes
from pararealize.errors import RankError
from pararealize.ir.hierarchy import Cycles, Level, hierarchy
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.schedule.directions import Direction
from pararealize.schedule.mgrit import adjoint_schedule, iteration, mgrit_schedule
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import owner, place_iteration

THREE = hierarchy([4] * 3, (4,))
#: Level 2 has all of the four slices, level 3 joins two.
JOINED = hierarchy([2] * 4, (2, 2))


def lines(schedule: Schedule) -> list[str]:
    return [str(task) for task in schedule]


def watched(schedule: Schedule) -> list[str]:
    return [f"{w.sweep}:{w.interface}:{w.level} {w.new} - {w.old}" for w in schedule.watches]


def text(*lines: str) -> list[str]:
    """Lines, several of which may be written in one, with semicolons."""
    return [part.strip() for line in lines for part in line.split(";")]


# golden texts


def test_two_levels_one_cycle() -> None:
    found = mgrit_schedule(THREE, MGRIT(), 1)
    assert lines(found.schedule) == text(
        "g1.0 = coarse.1(x); g2.0 = coarse.2(g1.0, quiet); g3.0 = coarse.3(g2.0, quiet)",
        "v1.0 = fine.1(x); v2.0 = fine.2(g1.0); v3.0 = fine.3(g2.0)",
        "g2.1 = coarse.2(v1.0); u2.0 = g2.1 + v2.0 - g2.0",
        "g3.1 = coarse.3(u2.0); u3.0 = g3.1 + v3.0 - g3.0",
        "out = head(u3.0)",
    )
    assert watched(found.schedule) == [
        "0:1:1 v1.0 - g1.0",
        "0:2:1 v2.0 - g2.0",
        "0:3:1 v3.0 - g3.0",
    ]
    assert {str(target): value for target, value in found.linearised.items()} == {
        **{"fine.1": "x", "fine.2": "g1.0", "fine.3": "g2.0"},
        **{"coarse.1": "x", "coarse.2": "v1.0", "coarse.3": "u2.0"},
    }


def test_two_levels_two_cycles() -> None:
    found = mgrit_schedule(THREE, MGRIT(), 2)
    assert lines(found.schedule) == text(
        "g1.0 = coarse.1(x); g2.0 = coarse.2(g1.0, quiet)",
        "v1.0 = fine.1(x); v2.0 = fine.2(g1.0, quiet)",
        "g2.1 = coarse.2(v1.0); u2.0 = g2.1 + v2.0 - g2.0; g3.1 = coarse.3(u2.0, quiet)",
        "v2.1 = fine.2(v1.0); v3.1 = fine.3(u2.0)",
        "g3.2 = coarse.3(v2.1); u3.1 = g3.2 + v3.1 - g3.1",
        "out = head(u3.1)",
    )
    assert watched(found.schedule) == [
        "0:1:1 v1.0 - g1.0",
        "0:2:1 v2.0 - g2.0",
        "1:2:1 v2.1 - u2.0",
    ]
    assert found.linearised[Target.fine(2)] == "v1.0"
    points = mgrit_schedule(THREE, MGRIT(storage="points"), 1)
    assert points.linearised[Target.fine(3)] == "u2.0"  # evaluated again at the newest state


def test_two_levels_adjoints() -> None:
    assert lines(adjoint_schedule(THREE, MGRIT(), 1).schedule) == text(
        "γ2.0 = coarse.3ᵀ(λ3); γ1.0 = coarse.2ᵀ(γ2.0)",
        "μ2.0 = fine.3ᵀ(λ3, weights); μ1.0 = fine.2ᵀ(γ2.0, weights)",
        "μ0.0 = fine.1ᵀ(γ1.0, weights)",
    )
    twice = adjoint_schedule(THREE, MGRIT(), 2).schedule
    assert lines(twice) == text(
        "γ2.0 = coarse.3ᵀ(λ3); γ1.0 = coarse.2ᵀ(γ2.0)",
        "μ2.0 = fine.3ᵀ(λ3, weights); μ1.0 = fine.2ᵀ(γ2.0)",
        "γ1.1 = coarse.2ᵀ(μ2.0); λ1.0 = γ1.1 + μ1.0 - γ1.0",
        "μ1.1 = fine.2ᵀ(μ2.0, weights); μ0.1 = fine.1ᵀ(λ1.0, weights)",
    )
    assert watched(twice) == ["0:2:1 μ2.0 - γ2.0", "0:1:1 μ1.0 - γ1.0", "1:1:1 μ1.1 - λ1.0"]
    assert [task.piece for task in twice] == [3, 2, 3, 2, 2, 2, 2, 1]


def test_two_levels_relaxing_c_points() -> None:
    assert lines(mgrit_schedule(THREE, MGRIT(relaxation="FCF"), 1).schedule) == text(
        "g1.0 = coarse.1(x); v1.0 = fine.1(x); v2.0 = fine.2(g1.0, quiet)",
        "v2.1 = fine.2(v1.0); v3.1 = fine.3(v2.0)",
        "g3.1 = coarse.3(v2.0, quiet); g3.2 = coarse.3(v2.1); u3.0 = g3.2 + v3.1 - g3.1",
        "out = head(u3.0)",
    )


def test_two_levels_from_the_states_of_the_call_before() -> None:
    found = mgrit_schedule(THREE, MGRIT(guess="previous"), 1, warm=True).schedule
    assert found.inputs == ("x", "p1", "p2")
    assert lines(found) == text(
        "v1.0 = fine.1(x); v2.0 = fine.2(p1); v3.0 = fine.3(p2)",
        "g2.0 = coarse.2(p1, quiet); g3.0 = coarse.3(p2, quiet)",
        "g2.1 = coarse.2(v1.0); u2.0 = g2.1 + v2.0 - g2.0",
        "g3.1 = coarse.3(u2.0); u3.0 = g3.1 + v3.0 - g3.0",
        "out = head(u3.0)",
    )


GUESSED = (
    "g1.0 = coarse.1(x); g2.0 = coarse.2(g1.0, quiet); g3.0 = coarse.3(g2.0{quiet})",
    "g4.0 = coarse.4(g3.0, quiet)",
    "v1.0 = fine.1(x); v2.0 = fine.2(g1.0); v3.0 = fine.3(g2.0); v4.0 = fine.4(g3.0)",
    "g2.1 = coarse.2(v1.0); u2.0 = g2.1 + v2.0 - g2.0",
)


def guessed(quiet: str) -> tuple[str, ...]:
    return tuple(line.replace("{quiet}", quiet) for line in GUESSED)


def test_three_levels_v_cycle() -> None:
    found = mgrit_schedule(JOINED, MGRIT(levels=3, coarsening=2), 1).schedule
    assert lines(found) == text(
        *guessed(""),
        "g4.1 = coarse.4(v3.0); u4.0 = g4.1 + v4.0 - g4.0",
        "g3_4.0 = coarse3.2(g2.0, quiet); g3_4.1 = coarse3.2(u2.0)",
        "u4.1 = g3_4.1 + u4.0 - g3_4.0; out = head(u4.1)",
    )
    assert watched(found)[-2:] == ["0:2:2 u2.0 - g2.0", "0:4:2 u4.0 - g4.0"]


def test_three_levels_f_cycle() -> None:
    method = MGRIT(levels=3, coarsening=2, cycle="F")
    assert lines(mgrit_schedule(JOINED, method, 1).schedule) == text(
        *guessed(", quiet"),
        "g3.1 = coarse.3(u2.0); u3.0 = g3.1 + v3.0 - g3.0",
        "g4.2 = coarse.4(u3.0); u4.2 = g4.2 + v4.0 - g4.0; out = head(u4.2)",
    )


def test_three_levels_guessing_from_the_coarsest() -> None:
    method = MGRIT(levels=3, coarsening=2, guess="coarsest")
    found = lines(mgrit_schedule(JOINED, method, 1).schedule)
    assert found[:6] == text(
        "g3_2.0 = coarse3.1(x); g3_4.0 = coarse3.2(g3_2.0, quiet)",
        "g1.0 = coarse.1(x); g2.0 = coarse.2(g1.0, quiet)",
        "g3.0 = coarse.3(g3_2.0); g4.0 = coarse.4(g3.0, quiet)",
    )
    assert found[6:10] == text(
        "v1.0 = fine.1(x); v2.0 = fine.2(g1.0); v3.0 = fine.3(g3_2.0); v4.0 = fine.4(g3.0)"
    )


def test_three_levels_full_multigrid() -> None:
    method = MGRIT(levels=3, coarsening=2, guess="full")
    found = lines(mgrit_schedule(JOINED, method, 1).schedule)
    assert found[:5] == text(  # a cycle of level 2 on what level 3 guesses
        "g1.0 = coarse.1(x); g2.0 = coarse.2(g1.0, quiet); g3_4.1 = coarse3.2(g2.0, quiet)",
        "g3.1 = coarse.3(g2.0); g4.1 = coarse.4(g3.1, quiet)",
    )


# laws


def serial(n: int) -> list[str]:
    return [f"fine.{j}" for j in range(1, n + 1)]


def way(schedule: Schedule, value: str) -> list[Task]:
    """The tasks that lead to a value whose way does not branch, the first one last."""
    makers, found = {task.value: task for task in schedule}, []
    while value in makers:
        found.append(makers[value])
        (value,) = found[-1].reads
    return found


def configured(shape: Shape, method: MGRIT) -> tuple[tuple[Level, ...], MGRIT]:
    factors = shape[1]
    return levels_of(shape), replace(method, levels=len(factors) + 1, coarsening=factors)


@given(shapes(), options(), st.integers(0, 2))
def test_law_4_as_many_cycles_as_level_2_has_steps_are_serial(
    shape: Shape, method: MGRIT, more: int
) -> None:
    levels, method = configured(shape, method)
    n, exact = len(shape[0]), levels[1].steps + more
    schedule = mgrit_schedule(levels, method, exact, head=False).schedule
    assert [task.propagator for task in schedule] == serial(n)
    assert [t.propagator for t in way(schedule, schedule.output)] == serial(n)[::-1]
    assert all(task.commits for task in schedule)
    adjoint = adjoint_schedule(levels, method, exact).schedule
    assert [task.propagator for task in adjoint] == serial(n)[::-1]
    assert all(task.commits and task.transposed for task in adjoint)
    assert schedule.watches == adjoint.watches == ()


@given(shapes(), options("coarse", "coarsest", "full", "previous"), st.integers(1, 6))
def test_law_4_after_k_cycles_the_first_k_points_do_not_move(
    shape: Shape, method: MGRIT, k: int
) -> None:
    """Law 4: of level 1's C-points; every C-relaxation makes one more exact."""
    levels, method = configured(shape, method)
    n, bounds = len(shape[0]), levels[1].bounds
    back = [n - bound for bound in reversed(bounds)]
    for found, order in (
        (mgrit_schedule(levels, method, k), bounds),
        (adjoint_schedule(levels, method, k), back),
    ):
        for watch in found.schedule.watches:
            if watch.level == 1:
                point = watch.interface if order is bounds else n - watch.interface
                assert list(order).index(point) > watch.sweep + method.sweeps


@given(shapes(), options("coarse", "coarsest", "full", "previous"), st.booleans())
def test_law_11_every_schedule_verifies_on_any_number_of_ranks(
    shape: Shape, method: MGRIT, deliver: bool
) -> None:
    levels, method = configured(shape, replace(method, max_cycles=3))
    n = len(shape[0])
    solved = iteration(levels, method, head=deliver)
    assert bool(solved.warm) == (method.guess == "previous" and levels[1].steps > 1)
    for ranks in range(1, n + 1):
        owners = [owner(piece, n, ranks) for piece in range(1, n + 1)]
        splits = any(
            len(set(owners[a:b])) > 1
            for level in levels
            for a, b in zip(level.bounds, level.bounds[1:], strict=False)
        )
        if splits:
            with pytest.raises(RankError, match=r"slices \d+ … \d+ are one step"):
                place_iteration(solved, n, ranks, deliver=deliver)
            continue
        placed = place_iteration(solved, n, ranks, deliver=deliver)  # verifies
        for kind in ("forward", "warm", "adjoint"):
            for cycles in getattr(placed, kind):
                assert cycles.schedule.ranks == ranks
                assert all(t.rank == owners[t.piece - 1] for t in cycles.schedule if t.propagator)


@given(shapes(), options("coarse", "coarsest", "full", "previous"))
def test_schedules_of_more_cycles_go_on_where_those_of_fewer_ended(
    shape: Shape, method: MGRIT
) -> None:
    """A value has one meaning in all of them, so that what is known need not be computed again."""
    levels, method = configured(shape, replace(method, max_cycles=4))
    solved = iteration(levels, method, head=True)
    for kind in (solved.forward, solved.warm, solved.adjoint):
        meaning: dict[str, Task] = {}
        for cycles in kind:
            counts = [c.count for c in kind]
            assert counts == sorted(set(counts))
            for task in cycles.schedule:
                if task.value != "out":
                    plain = replace(task, commits=True)
                    assert meaning.setdefault(task.value, plain) == plain
        if kind:
            assert kind[-1].count == levels[1].steps


@given(shapes(), options("coarse", "coarsest", "full", "previous"), st.integers(1, 4))
def test_what_is_done_once(shape: Shape, method: MGRIT, k: int) -> None:
    """No task twice, none in vain; networks commit once; masks are drawn in the serial order."""
    levels, method = configured(shape, method)
    n = len(shape[0])
    for found in (mgrit_schedule(levels, method, k), adjoint_schedule(levels, method, k)):
        tasks = found.schedule.tasks
        assert max(Counter((t.op, t.propagator, t.signs, t.reads) for t in tasks).values()) == 1
        commits = Counter(t.propagator for t in tasks if t.op == "apply" and t.commits)
        assert {name for name in commits if name.startswith("fine")} == set(serial(n))
        assert max(commits.values()) == 1
    forward = mgrit_schedule(levels, method, k).schedule
    read = {name for task in forward for name in task.reads}
    assert all(task.value in read for task in forward.tasks[:-1])
    first = dict.fromkeys(t.propagator for t in forward if t.propagator.startswith("fine"))
    assert list(first) == serial(n)


@given(shapes(), options("coarse", "coarsest", "full", "previous"))
def test_an_iteration_is_of_schedules_that_are_written_alone(shape: Shape, method: MGRIT) -> None:
    """The last one is that of as many cycles as there are steps, but for the names of values."""
    levels, method = configured(shape, replace(method, max_cycles=3))
    solved = iteration(levels, method, head=True)
    for found in solved.forward[:-1]:
        assert found == mgrit_schedule(levels, method, found.count)
    for found in solved.warm[:-1]:
        assert found == mgrit_schedule(levels, method, found.count, warm=True)
    for found in solved.adjoint[:-1]:
        assert found == adjoint_schedule(levels, method, found.count)
    exact = levels[1].steps
    assert places(solved.forward[-1]) == places(mgrit_schedule(levels, method, exact))
    assert places(solved.adjoint[-1]) == places(adjoint_schedule(levels, method, exact))
    for found in solved.warm[-1:]:
        assert places(found) == places(mgrit_schedule(levels, method, exact, warm=True))


def places(cycles: Cycles) -> object:
    """A schedule without branches, its values by their place in it."""
    order = {task.value: i for i, task in enumerate(cycles.schedule)}
    tasks = [replace(task, value="", reads=()) for task in cycles.schedule]
    reads = [[order.get(name, name) for name in task.reads] for task in cycles.schedule]
    at = {target: order.get(name, name) for target, name in cycles.linearised.items()}
    return cycles.count, tasks, reads, at, cycles.schedule.inputs, cycles.schedule.title


def test_what_is_written_of_many_slices_grows_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cycles go on from those of the schedule before; none is written of the serial network."""
    steps: list[str] = []
    apply = Direction.apply

    def counted(self: Direction, level: int, step: int, read: str) -> str:
        steps.append(read)
        return apply(self, level, step, read)

    monkeypatch.setattr(Direction, "apply", counted)
    counts = []
    for n in (40, 80):
        steps.clear()
        iteration(hierarchy([4] * n, (4,)), MGRIT(), head=True)
        counts.append(len(steps))
    assert counts[1] < 2.2 * counts[0]


def test_ranks_that_send_nothing_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of schedules with messages the graph is looked at."""
    built: list[Schedule] = []
    dag = Schedule.dag
    monkeypatch.setattr(Schedule, "dag", lambda self: (built.append(self), dag(self))[1])
    solved = iteration(hierarchy([4] * 4, (4,)), MGRIT(), head=True)
    assert not built
    place_iteration(solved, 4, 2, deliver=True)
    assert len(built) == len(solved.forward) + len(solved.adjoint)


# law 7


def anonymous(schedule: Schedule) -> set[tuple[str, ...]]:
    """Every application and combination, its values named by how they are made."""
    meaning: dict[str, str] = {}
    for task in schedule:
        reads = [meaning.get(name, name) for name in task.reads]
        quiet = "" if task.commits or task.propagator.startswith("coarse") else "quiet "
        terms = sorted(f"{s}{r}" for s, r in zip(task.signs, reads, strict=False)) or reads
        meaning[task.value] = f"{quiet}{task.propagator}({', '.join(terms)})"
    return {(task.op, task.propagator, meaning[task.value]) for task in schedule}


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_law_7_two_levels_with_f_relaxation_are_parareal(n: int, k: int) -> None:
    """Task by task up to names, but that a cycle begins with the first step's coarse guess."""
    levels = hierarchy([4] * n, (4,))
    multigrid = mgrit_schedule(levels, MGRIT(), k).schedule
    method = Parareal("rediscretized", "difference", k, "coarse")
    parareal = parareal_schedule(n, method)
    assert anonymous(multigrid) == anonymous(parareal)
    assert len(multigrid.tasks) == len(parareal.tasks)
    assert {(w.sweep, w.interface) for w in multigrid.watches if w.interface < n} == {
        (w.sweep, w.interface) for w in parareal.watches
    }
