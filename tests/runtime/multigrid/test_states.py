"""States: after some cycles they are those of the equations, and nothing known is made again."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pararealize.errors import DivergenceWarning
from pararealize.ir.target import Target
from scalars import Numbers, after_cycles

#: A dozen products and sums of numbers of the order of one.
ROUNDING = 1e-14

FINE, COARSE = 0.9, 0.6


@pytest.mark.parametrize("cycles", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 5])
def test_states_after_some_cycles(n: int, cycles: int) -> None:
    net = Numbers([FINE] * n, COARSE, forward_cycles=cycles)
    found = net.solve().state / net.x
    wanted = after_cycles(FINE, COARSE, n, cycles)
    assert found.tolist() == pytest.approx([wanted] * 2, rel=ROUNDING)
    exact = cycles >= n - 1
    assert (abs(wanted - FINE**n) < ROUNDING) == (cycles >= n)
    assert exact or abs(wanted - FINE**n) > 1e-3


@pytest.mark.parametrize("learns", [False, True])
def test_what_is_known_is_not_evaluated_again(learns: bool) -> None:
    """One cycle is not enough, nor are two: every further one goes on from what there is."""
    options = {"forward_cycles": 1, "max_cycles": 3, "tolerance": 1e-12}
    net = Numbers([FINE] * 5, COARSE, **options)
    with pytest.warns(DivergenceWarning):
        solved = net.solve(learns=learns)
    ran = net.solver.setting.iteration.forward
    assert [cycles.count for cycles in ran] == [1, 2, 3, 5]
    tasks = {task.value: task for cycles in ran for task in cycles.schedule}
    wanted = Counter(task.target for task in tasks.values() if task.op == "apply")
    if learns:  # and once more each where adjoints are linearised elsewhere
        wanted += Counter(net.counts.keys() if net.counts - wanted else ())
        assert net.counts <= wanted
    else:
        assert net.counts == wanted
    assert solved.state.tolist() == pytest.approx((FINE**5 * net.x).tolist(), rel=ROUNDING)


@pytest.mark.parametrize("tolerance", [None, 1e-12])
def test_statistics_move_once_a_step(tolerance: float | None) -> None:
    """Whether cycles were enough or more had to follow."""
    net = Numbers(
        [FINE] * 5, COARSE, forward_cycles=2, max_cycles=3, tolerance=tolerance, guard=1e9
    )
    for step in (1, 2):
        if tolerance and step == 1:
            with pytest.warns(DivergenceWarning):
                net.solve()
        else:
            net.solve()
        assert [part.moved.count.item() for part in net.fine] == [step] * 5
    assert net.solver.tally.serial_steps == (2 if tolerance else 0)


def test_all_evaluations_of_a_step_draw_one_mask() -> None:
    """u^{k+1}_j = g u^{k+1}_{j-1} + (a m_j - g) u^k_{j-1}, the m_j drawn in the layers' order."""
    n, cycles = 5, 3
    net = Numbers([FINE] * n, COARSE, drops=True, forward_cycles=cycles)
    torch.manual_seed(0)
    found = net.solve().state
    assert max(net.counts.values()) > 1
    torch.manual_seed(0)
    masks = [torch.rand_like(net.x) + 0.5 for _ in range(n)]
    states = [COARSE**j * net.x for j in range(n + 1)]
    for _ in range(cycles):
        new = [net.x]
        for mask, old in zip(masks, states, strict=False):
            new.append(COARSE * new[-1] + (FINE * mask - COARSE) * old)
        states = new
    assert found.tolist() == pytest.approx(states[-1].tolist(), rel=ROUNDING)
    assert net.solve().state.tolist() != found.tolist()  # and others in the next step


@pytest.mark.parametrize("cycles", [1, 2])
def test_where_adjoints_are_linearised(cycles: int) -> None:
    """Fine steps where they were applied last: at the states of one cycle less."""
    net = Numbers([FINE] * 4, COARSE, forward_cycles=cycles)
    solved = net.solve(learns=True)
    for j in range(1, 5):
        fine = Target.fine(j)
        place = fine, solved.solve.cycles.linearised[fine]
        recorded = solved.solve.tape.records[place]
        state = net.x if j == 1 else recorded.state
        factor = after_cycles(FINE, COARSE, j - 1, cycles - 1)
        assert state.tolist() == pytest.approx((factor * net.x).tolist(), rel=ROUNDING)
        assert recorded.result.requires_grad
    adjoint = net.solver.setting.iteration.adjoint[0].schedule
    applied = {task.target for task in adjoint if task.op == "apply"}
    assert applied <= {target for target, _ in solved.solve.tape.records}
    assert solved.solve.tape.records.keys() <= set(solved.solve.cycles.linearised.items())


def test_without_gradients_nothing_is_kept() -> None:
    assert not Numbers([FINE] * 4, COARSE).solve().solve.tape.records


def test_stored_points_keep_no_graph() -> None:
    solved = Numbers([FINE] * 4, COARSE, storage="points").solve(learns=True)
    assert not solved.solve.tape.records
    assert not any(t.requires_grad for t in solved.solve.values.values())


def test_states_of_the_call_before_are_the_next_guesses() -> None:
    """With the same input, a cycle a call makes what as many cycles in one call do."""
    net = Numbers([FINE] * 5, COARSE, forward_cycles=1, guess="previous")
    for calls in (1, 2, 3):
        found = net.solve().state / net.x
        wanted = after_cycles(FINE, COARSE, 5, calls)
        assert found.tolist() == pytest.approx([wanted] * 2, rel=ROUNDING)
