"""Roles: what every task of every kind of schedule is for the network."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import Shape, levels_of, options, shapes
from pararealize.calibration.observe import serial_schedule
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Kind
from pararealize.ir.task import Role, Task
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.mgrit import adjoint_schedule, iteration, mgrit_schedule
from pararealize.schedule.parareal import certified_stages, parareal_schedule
from pararealize.schedule.place import owner, place

#: What a task of each kind of operation can be for the network.
OF_KIND = {
    Kind.FINE: {Role.FINE},
    Kind.COARSE: {Role.COARSE, Role.GUESS},
    Kind.GUESS: {Role.GUESS},
    Kind.HEAD: {Role.HEAD},
    Kind.INPUTS: {Role.FEATURES},
}
OF_OP = {
    "combine": {Role.JUMP, Role.CORRECTION},
    **{op: {Role.MESSAGE} for op in ("send", "recv")},
    **{op: {Role.BATCH} for op in ("slice", "join")},
}


def roles(tasks: Iterable[Task]) -> dict[str, list[str]]:
    """The values of each role, in order."""
    found: dict[str, list[str]] = {}
    for task in tasks:
        found.setdefault(task.role.name, []).append(task.value)
    return found


def assert_fit(schedule: Schedule) -> None:
    """Roles are such as what the task does can have; jumps are what the signs say."""
    for task in schedule:
        fit = OF_OP[task.op] if task.target is None else OF_KIND[task.target.kind]
        assert task.role in fit, task
        assert (task.op == "apply") == (task.target is not None)
        assert (task.role is Role.JUMP) == (task.signs == "+-")
        network = task.target is not None and task.target.is_network
        assert task.role.is_network == network


def test_parareal_by_jumps() -> None:
    assert roles(parareal_schedule(3, Parareal())) == {
        "GUESS": ["u1.0", "u2.0"],
        "FINE": ["v1.0", "v2.0", "v3.0"],
        "JUMP": ["r1.0", "r2.0"],
        "COARSE": ["c2.0", "c3.0"],
        "CORRECTION": ["u2.1", "u3.1"],
        "HEAD": ["out"],
    }


def test_parareal_by_differences_from_a_coarse_sweep() -> None:
    method = Parareal("network", "difference", 1, "coarse")
    assert roles(parareal_schedule(3, method)) == {
        "GUESS": ["u1.0", "u2.0"],
        "FINE": ["v1.0", "v2.0", "v3.0"],
        "COARSE": ["g2.1", "g3.0", "g3.1"],  # u2.0 is the old G of the second
        "CORRECTION": ["u2.1", "u3.1"],
        "HEAD": ["out"],
    }


def test_the_network_itself_may_guess_and_correct() -> None:
    """Where G = Φ, what is applied does not say what for."""
    method = Parareal("fine", "difference", 1, "network")
    found = roles(parareal_schedule(3, method))
    assert found["COARSE"] == ["g2.1", "g3.1"]
    assert found["FINE"] == ["v1.0", "v2.0", "v3.0"]
    swept = replace(method, guess="coarse", correction="residual")
    assert roles(parareal_schedule(3, swept))["GUESS"] == ["u1.0", "u2.0"]


def test_cycles_of_multigrid_forward_and_back() -> None:
    levels = hierarchy([4] * 3, (4,))
    assert roles(mgrit_schedule(levels, MGRIT(), 1).schedule) == {
        "GUESS": ["g1.0", "g2.0", "g3.0"],
        "FINE": ["v1.0", "v2.0", "v3.0"],
        "COARSE": ["g2.1", "g3.1"],
        "CORRECTION": ["u2.0", "u3.0"],
        "HEAD": ["out"],
    }
    assert roles(adjoint_schedule(levels, MGRIT(), 2).schedule) == {
        "GUESS": ["γ2.0", "γ1.0"],
        "FINE": ["μ2.0", "μ1.0", "μ1.1", "μ0.1"],
        "COARSE": ["γ1.1"],
        "CORRECTION": ["λ1.0"],
    }


def test_what_slices_see_is_the_networks_own() -> None:
    solved = iteration(hierarchy([4] * 3, (4,)), MGRIT(), head=True, with_features=(2, 3))
    (task, other) = (t for t in solved.forward[0].schedule if t.role is Role.FEATURES)
    assert (str(task), str(other)) == ("f2.0 = inputs.2(x)", "f3.0 = inputs.3(x)")
    assert task.role.is_network
    assert solved.features[task.applied._replace(kind=Kind.FINE)] == ((task.target, "f2.0"),)


def test_the_serial_network_with_its_first_state_under_two_names() -> None:
    assert roles(serial_schedule(2, head=True)) == {
        "FINE": ["u1", "u2"],
        "COPY": ["own"],
        "HEAD": ["out"],
    }


def methods() -> st.SearchStrategy[Parareal]:
    return st.builds(
        Parareal,
        iterations=st.integers(0, 3),
        correction=st.sampled_from(["residual", "difference"]),
        guess=st.sampled_from(["network", "coarse"]),
    )


@given(st.data(), methods(), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_roles_fit_and_stay_where_schedules_are_sliced_and_placed(
    data: st.DataObject, method: Parareal, n: int, parts: int, head: bool
) -> None:
    ranks = data.draw(st.integers(1, n))
    for stage in certified_stages(n, method, head=head):
        assert_fit(stage)
    schedule = parareal_schedule(n, method, head=head)
    sliced = chunk(schedule, parts, lambda piece: owner(piece, n, ranks))
    placed = place(sliced, n, ranks, deliver=True)
    assert_fit(placed)
    wanted = {task.value: task.role for task in schedule}
    whole = {Role.MESSAGE, Role.BATCH}
    for task in placed:
        if task.role not in whole:
            assert task.role is wanted[task.value.partition("[")[0]]


@given(shapes(), options("coarse", "coarsest", "full", "previous"), st.integers(1, 3))
def test_roles_fit_in_cycles(shape: Shape, method: MGRIT, k: int) -> None:
    """Coarse steps guess up to the first fine one, and correct from there on."""
    levels = levels_of(shape)
    method = replace(method, levels=len(shape[1]) + 1, coarsening=shape[1])
    for cycles in (mgrit_schedule(levels, method, k), adjoint_schedule(levels, method, k)):
        assert_fit(cycles.schedule)
        started = False
        for task in cycles.schedule:
            started = started or task.role is Role.FINE
            if task.role in {Role.GUESS, Role.COARSE}:
                assert (task.role is Role.COARSE) == started


@pytest.mark.parametrize("role", Role)
def test_the_network_without_pararealize_does_three_of_them(role: Role) -> None:
    assert role.is_network == (role in {Role.FINE, Role.HEAD, Role.FEATURES})
