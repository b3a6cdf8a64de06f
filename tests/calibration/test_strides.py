"""Strides: which coarse networks there are to fit, on every level, and where from they are read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pararealize import Parareal
from pararealize.calibration.strides import Stride, piece, strides
from pararealize.ir.schedule import targets
from pararealize.ir.target import Kind, Target
from pararealize.schedule.parareal import certified_stages
from sampling import examples


def test_subnetworks_and_then_groups_of_them() -> None:
    found = strides(6, Parareal(levels=3, coarsening=3))
    assert found[:6] == tuple(Stride(2, j, *piece(j)) for j in range(1, 7))
    assert found[6:] == (Stride(3, 1, 0, 3), Stride(3, 2, 3, 6))
    assert found[7].target == Target.coarse(2, 3)
    assert found[7].guess == Target.guess(2, 3)
    assert found[7].interval == (3, 6)
    assert found[1].guess == Target.guess(2)
    assert len({stride.seed for stride in found}) == 8


def test_a_group_of_one_has_one_network() -> None:
    """That of the highest level, which is all that a sweep applies."""
    found = strides(7, Parareal(levels=3, coarsening=3))
    assert [s for s in found if s.interval == (6, 7)] == [Stride(3, 3, 6, 7)]


def test_subnetworks_that_correct_themselves_make_groups_of_themselves() -> None:
    found = strides(6, Parareal("fine", "difference", levels=3, coarsening=3))
    assert {stride.level for stride in found} == {2}


@settings(max_examples=examples(100), deadline=None)
@given(
    n=st.integers(2, 12),
    levels=st.integers(2, 4),
    coarsening=st.integers(2, 4),
    correction=st.sampled_from(["residual", "difference"]),
    guess=st.sampled_from(["network", "coarse"]),
)
def test_they_are_what_sweeps_apply(
    n: int, levels: int, coarsening: int, correction: str, guess: str
) -> None:
    """Every one of them and no other, in one sweep or the next ones."""
    groups = coarsening if levels > 2 else None
    method = Parareal("network", correction, guess=guess, levels=levels, coarsening=groups)
    stages = certified_stages(n, method)
    applied = set(targets(task for stage in stages for task in stage))
    sweeps = guess == "coarse"
    found = strides(n, method)
    own = {t for t in applied if t.kind is Kind.COARSE or (sweeps and t.kind is Kind.GUESS)}
    known = {s.target for s in found if s.start > 0 or sweeps} | {s.guess for s in found}
    assert own <= known
    for stride in found:
        if stride.start > 0:
            assert stride.target in applied
        elif sweeps:
            assert {stride.target, stride.guess} & applied


@pytest.mark.parametrize("j", [1, 4])
def test_a_subnetwork_lies_between_two_interfaces(j: int) -> None:
    assert piece(j) == (j - 1, j)
