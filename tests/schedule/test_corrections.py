"""Corrections in levels: the text of schedules, and the laws on numbers instead of networks."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import sin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.lanes import lanes
from pararealize.schedule.parareal import certified_stages, parareal_schedule
from pararealize.schedule.place import owner, place
from sampling import examples

#: Sums of a few dozen numbers of the order of one.
ROUNDING = 1e-13

RESIDUAL = """\
u1.0 = guess.1(x)
u2.0 = guess.2(x)
u3.0 = guess.3(x)
u4.0 = guess.4(x)
u5.0 = guess.5(x)
v1.0 = fine.1(x)
v2.0 = fine.2(u1.0)
v3.0 = fine.3(u2.0)
v4.0 = fine.4(u3.0)
v5.0 = fine.5(u4.0)
v6.0 = fine.6(u5.0)
r1.0 = v1.0 - u1.0
c2.0 = coarse.2(r1.0)
u2.1 = v2.0 + c2.0
tr3.0 = v3.0 - u3.0
tc4.0 = coarse.4(tr3.0)
tu4.0 = v4.0 + tc4.0
tr5.0 = v5.0 - u5.0
tc6.0 = coarse.6(tr5.0)
tu6.0 = v6.0 + tc6.0
r3.1.0 = u2.1 - u2.0
c3.2.0 = coarse3.2(r3.1.0)
u4.1 = tu4.0 + c3.2.0
r3.2.0 = u4.1 - u4.0
c3.3.0 = coarse3.3(r3.2.0)
u6.1 = tu6.0 + c3.3.0
out = head(u6.1)"""

DIFFERENCE = """\
u3.0 = coarse3.1(x)
u1.0 = coarse.1(x)
u2.0 = coarse.2(u1.0, quiet)
u4.0 = coarse.4(u3.0)
u5.0 = coarse.5(u4.0, quiet)
v1.0 = fine.1(x)
v2.0 = fine.2(u1.0)
v3.0 = fine.3(u2.0)
v4.0 = fine.4(u3.0)
v5.0 = fine.5(u4.0)
v6.0 = fine.6(u5.0)
g3.2.0 = coarse3.2(u3.0, quiet)
g2.1 = coarse.2(v1.0)
u2.1 = g2.1 + v2.0 - u2.0
g3.0 = coarse.3(u2.0, quiet)
g3.1 = coarse.3(u2.1)
u3.1 = g3.1 + v3.0 - g3.0
tg5.0 = coarse.5(v4.0)
tu5.0 = tg5.0 + v5.0 - u5.0
g6.0 = coarse.6(u5.0, quiet)
tg6.0 = coarse.6(tu5.0)
tu6.0 = tg6.0 + v6.0 - g6.0
g3.2.1 = coarse3.2(u3.1)
u6.1 = g3.2.1 + tu6.0 - g3.2.0
out = head(u6.1)"""


def text(schedule: Schedule) -> str:
    return "\n".join(map(str, schedule))


def test_groups_are_corrected_side_by_side_and_then_one_after_another() -> None:
    schedule = parareal_schedule(6, Parareal(levels=3, coarsening=2))
    assert text(schedule) == RESIDUAL
    assert schedule.title == "parareal, n = 6, residual correction, 1 sweeps, 3 levels"


def test_a_coarse_sweep_goes_from_group_to_group_as_well() -> None:
    method = Parareal("stepped", "difference", guess="coarse", levels=3, coarsening=3)
    assert text(parareal_schedule(6, method)) == DIFFERENCE
    pieces = {task.value: task.piece for task in parareal_schedule(6, method)}
    assert pieces["u3.0"] == 4  # beside the subnetwork that waits for it
    assert pieces["g3.2.0"] == pieces["g3.2.1"] == pieces["u6.1"] == 6


def test_of_several_sweeps_interfaces_inside_groups_are_corrected_as_well() -> None:
    made = [str(t) for t in parareal_schedule(6, Parareal(iterations=2, levels=3, coarsening=3))]
    inside = ["r3.0 = u3.1 - u3.0", "c4.0 = coarse.4(r3.0)", "u4.1 = v4.0 + c4.0"]
    assert [made.index(task) for task in inside] == sorted(made.index(task) for task in inside)
    assert made.index("u3.1 = v3.0 + c3.0") < made.index(inside[0])
    assert "u6.2 = tu6.1 + c3.2.1" in made
    assert "v6.1 = fine.6(u5.1)" in made


def test_four_levels_are_groups_of_groups() -> None:
    schedule = parareal_schedule(8, Parareal(levels=4, coarsening=2))
    chain = ["r4.1.0 = u4.1 - u4.0", "c4.2.0 = coarse4.2(r4.1.0)", "u8.1 = tu3.4.0 + c4.2.0"]
    made = list(map(str, schedule))
    assert [task for task in made if task in chain] == chain
    assert "tu3.4.0 = tu8.0 + tc3.4.0" in made
    assert not [task for task in made if task.startswith(("r4.0", "c3.1.", "c3.3."))]


def test_watches_are_the_best_that_is_known_of_every_interface() -> None:
    assert parareal_schedule(6, Parareal(levels=3, coarsening=3)).watches == (
        Watch(0, 1, "v1.0", "u1.0"),
        Watch(0, 2, "u2.1", "u2.0"),
        Watch(0, 3, "u3.1", "u3.0"),
        Watch(0, 4, "v4.0", "u4.0"),  # of step 1: one sweep needs no more
        Watch(0, 5, "tu5.0", "u5.0"),
    )
    twice = parareal_schedule(6, Parareal(iterations=2, levels=3, coarsening=3)).watches
    assert Watch(0, 4, "u4.1", "u4.0") in twice
    for k, ends in ((0, 5), (1, 6)):  # of two sweeps the first need not guess at interface 5
        assert [w.interface for w in twice if w.sweep == k] == list(range(k + 1, ends))


# the laws, on numbers


@st.composite
def methods(draw: st.DrawFn, *, coarse: tuple[str, ...] = ("network", "fine")) -> Parareal:
    levels = draw(st.integers(2, 5))
    one = st.integers(2, 4)
    several = st.tuples(*[one] * (levels - 2)) if levels > 2 else st.none()
    return Parareal(
        draw(st.sampled_from(coarse)),
        draw(st.sampled_from(["residual", "difference"])),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["network", "coarse"])),
        levels=levels,
        coarsening=draw(st.one_of(st.none(), several)),
    )


def fine(j: int, u: float) -> float:
    return sin(u) + 0.1 * j


def linear(j: int, u: float) -> float:
    return (0.5 + 0.1 * j) * u


def run(
    schedule: Schedule,
    method: Parareal,
    n: int,
    phi: Callable[[int, float], float] = fine,
    coarse: Callable[[Target, float], float] | None = None,
    start: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The values of a schedule; guesses are wrong, and coarse propagators as well."""
    points = method.points(n)

    def group(target: Target, u: float) -> float:
        ends = points[max(target.level, 2) - 2]
        for j in range(ends[target.number - 1] + 1, ends[target.number] + 1):
            u = 0.7 * phi(j, u)
        return u

    def apply(target: Target, u: float) -> float:
        if target == HEAD:
            return u
        if target.kind is Kind.FINE:
            return phi(target.number, u)
        if target.kind is Kind.GUESS and method.guess == "network":
            return 0.3 * target.number
        if target.kind is Kind.COARSE and method.correction == "residual":
            return (coarse or group)(target, u) - (coarse or group)(target, 0.0)
        return (coarse or group)(target, u)

    values = {"x": 1.0}
    for task in schedule:
        if task.op == "apply":
            values[task.value] = apply(task.applied, values[task.reads[0]])
        else:
            first, *rest = [values[name] for name in task.reads]
            signs = [1 if sign == "+" else -1 for sign in task.signs[1:]]
            values[task.value] = first + sum(s * v for s, v in zip(signs, rest, strict=True))
        values |= {k: v for k, v in (start or {}).items() if k == task.value}
    return values


def serial(n: int, phi: Callable[[int, float], float] = fine) -> list[float]:
    states = [1.0]
    for j in range(1, n + 1):
        states.append(phi(j, states[-1]))
    return states


def exact(target: Target, u: float, method: Parareal, n: int, phi: Callable[..., float]) -> float:
    ends = method.points(n)[max(target.level, 2) - 2]
    for j in range(ends[target.number - 1] + 1, ends[target.number] + 1):
        u = phi(j, u)
    return u


@given(st.integers(1, 14), methods(coarse=("network",)), st.booleans())
@settings(max_examples=examples(24))
def test_law_2_linear_propagators_correct_any_guess(n: int, method: Parareal, reuse: bool) -> None:
    method = replace(method, iterations=1)
    values = run(
        parareal_schedule(n, method, reuse=reuse),
        *(method, n, linear),
        lambda target, u: exact(target, u, method, n, linear),
    )
    assert values["out"] == pytest.approx(serial(n, linear)[n], rel=ROUNDING)


@given(st.integers(1, 14), methods(), st.booleans())
@settings(max_examples=examples(24))
def test_law_3_the_network_itself_corrects_by_difference(
    n: int, method: Parareal, reuse: bool
) -> None:
    method = replace(method, correction="difference")
    schedule = parareal_schedule(n, method, reuse=reuse)
    values = run(schedule, method, n, fine, lambda t, u: exact(t, u, method, n, fine))
    assert values["out"] == pytest.approx(serial(n)[n], rel=ROUNDING)


@given(st.integers(1, 14), methods(coarse=("network",)), st.booleans())
@settings(max_examples=examples(24))
def test_law_4_after_k_sweeps_the_first_interfaces_are_exact(
    n: int, method: Parareal, reuse: bool
) -> None:
    """And inside schedules that leave out what is exact, nothing else is taken for it."""
    states, k = serial(n), method.iterations
    schedule = parareal_schedule(n, method, reuse=reuse)
    values = run(schedule, method, n)
    for watch in schedule.watches:
        if watch.sweep + 1 >= watch.interface:
            assert values[watch.new] == pytest.approx(states[watch.interface], rel=ROUNDING)
    every = run(parareal_schedule(n, method, reuse=False), method, n)
    assert values["out"] == pytest.approx(every["out"], rel=ROUNDING)
    if k >= n:
        assert values["out"] == pytest.approx(states[n], rel=ROUNDING)


@given(st.integers(1, 14), methods(coarse=("network",)))
@settings(max_examples=examples(24))
def test_law_6_the_serial_trajectory_is_a_fixed_point(n: int, method: Parareal) -> None:
    """Of every level: nothing changes if guesses are exact (law 5: no jump, no correction)."""
    states, method = serial(n), replace(method, guess="network")
    schedule = parareal_schedule(n, method, reuse=False)
    guesses = {f"u{j}.0": states[j] for j in range(1, n)}
    values = run(schedule, method, n, start=guesses)
    for watch in schedule.watches:
        assert values[watch.new] == pytest.approx(states[watch.interface], rel=ROUNDING)
    assert values["out"] == pytest.approx(states[n], rel=ROUNDING)


@given(st.integers(2, 14), methods(), st.data())
@settings(max_examples=examples(24))
def test_stages_are_the_schedule_of_as_many_sweeps(
    n: int, method: Parareal, data: st.DataObject
) -> None:
    """Nothing is made twice, and on ranks nothing waits for ever (schedules verify themselves)."""
    stages = certified_stages(n, method)
    made = [task.value for stage in stages for task in stage]
    assert len(set(made)) == len(made)
    values = run(replace(stages[-1], tasks=tuple(t for s in stages for t in s)), method, n)
    for stage in stages:
        once = parareal_schedule(n, replace(method, iterations=stage.sweeps))
        assert values[stage.output] == run(once, method, n)[once.output]
    ranks = data.draw(st.integers(1, n))
    place(stages[0], n, ranks, deliver=True)
    lanes(stages[0])
    parts = data.draw(st.integers(1, 3))
    cut = chunk(parareal_schedule(n, method), parts, lambda piece: owner(piece, n, ranks))
    place(cut, n, ranks, deliver=True)


@pytest.mark.parametrize("n", [9, 16, 25, 64])
@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_the_path_is_that_of_a_group_and_of_all_groups(n: int, correction: str) -> None:
    """Coarse propagators one after another, with two levels, three and four."""
    found = []
    for levels in (2, 3, 4):
        method = Parareal(correction=correction, levels=levels)
        depth = {"x": 0}
        for task in parareal_schedule(n, method):
            coarse = task.target is not None and task.target.kind is Kind.COARSE
            depth[task.value] = max(depth[name] for name in task.reads) + coarse
        found.append(depth["out"])
    assert found[0] == n - 1
    assert found[1] == min(c - 1 + -(-n // c) - 1 for c in range(2, n))
    assert found[2] <= found[1]


def test_two_levels_are_left_where_one_group_would_hold_all() -> None:
    for n, options in [(2, {}), (3, {"coarsening": 3}), (1, {}), (4, {"coarsening": (4, 2)})]:
        levels = 4 if isinstance(options.get("coarsening"), tuple) else 3
        method = Parareal(levels=levels, **options)  # type: ignore[arg-type]
        assert parareal_schedule(n, method) == parareal_schedule(n, Parareal())


def test_of_the_network_itself_a_group_is_its_subnetworks_one_after_another() -> None:
    method = Parareal("fine", levels=3, coarsening=2)
    schedule = parareal_schedule(4, method)
    made = {task.value: task for task in schedule}
    assert str(made["c3.2.0.3"]) == "c3.2.0.3 = coarse.3(r3.1.0)"
    assert str(made["c3.2.0"]) == "c3.2.0 = coarse.4(c3.2.0.3)"
    assert [made[name].piece for name in ("r3.1.0", "c3.2.0.3", "c3.2.0")] == [3, 3, 4]
    by_difference = parareal_schedule(4, replace(method, correction="difference"))
    values = [task.value for task in by_difference]
    assert "tu4.0" not in values  # Φ_4(v_3) is that state already, and H of the old one as well
    ends = method.points(4)[1]
    assert [b - a for a, b in pairwise(ends)] == [2, 2]
