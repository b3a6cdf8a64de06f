"""Adjoints: those of the transposed equations, at the states where they were linearised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pararealize.ir.target import Target
from scalars import Numbers, Solved, after_cycles

#: A dozen products and sums of numbers of the order of one.
ROUNDING = 1e-14

FINE, COARSE = 0.9, 0.6
DISTINCT = [0.9, -1.2, 0.7, 1.1, 0.8]


def assert_close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=ROUNDING, atol=ROUNDING)


def test_converged_gradients_are_those_of_the_transposed_system() -> None:
    """Lᵀ λ = e_n with the bidiagonal L of the states; the gradient of a_j is Σ λ_j u_{j-1}."""
    n = len(DISTINCT)
    net = Numbers(DISTINCT, COARSE, forward_cycles=n, backward_cycles=n)
    system = torch.eye(n + 1, dtype=torch.float64)
    system -= torch.diag(torch.tensor(DISTINCT, dtype=torch.float64), -1)
    unit = torch.eye(n + 1, dtype=torch.float64)
    states = torch.linalg.solve(system, unit[:, :1]) * net.x.detach()
    adjoints = torch.linalg.solve(system.T, unit[:, -1:])
    wanted = [(adjoints[j] * states[j - 1]).sum() for j in range(1, n + 1)]
    found = net.transpose(net.solve(learns=True))
    assert_close(found, [*wanted, adjoints[0].expand(2)])


@pytest.mark.parametrize("storage", ["all", "points"])
@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_gradients_after_some_cycles(forward: int, backward: int, storage: str) -> None:
    """The last relaxation takes them: at the adjoints, and states, of one cycle less.

    Of stored points, fine steps are linearised at the newest state that there is.
    """
    n = 5
    options = {"forward_cycles": forward, "backward_cycles": backward, "storage": storage}
    net = Numbers([FINE] * n, COARSE, **options)
    found = net.transpose(net.solve(learns=True))
    newest = forward if storage == "points" else forward - 1
    wanted = [
        after_cycles(FINE, COARSE, n - j, backward - 1)
        * after_cycles(FINE, COARSE, j - 1, newest)
        * net.x.detach().sum()
        for j in range(1, n + 1)
    ]
    start = FINE * after_cycles(FINE, COARSE, n - 1, backward - 1)
    assert_close(found, [*wanted, torch.full((2,), start, dtype=torch.float64)])


def passes(monkeypatch: pytest.MonkeyPatch, net: Numbers, solved: Solved) -> list[int]:
    """Of how many states each pass through a graph takes the adjoints."""
    counts, grad = [], torch.autograd.grad

    def counted(outputs: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return grad(outputs, inputs, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        net.transpose(solved)
    return counts


def test_coarse_steps_one_after_another_are_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ_3 = G_4' λ_4, γ_2 = G_3' γ_3, γ_1 = G_2' γ_2 go through one graph; then four fine steps."""
    net = Numbers([FINE] * 4, COARSE)
    assert passes(monkeypatch, net, net.solve(learns=True)) == [3, 2, 2, 2, 2]


def test_stored_points_are_evaluated_again_once_each() -> None:
    options = {"forward_cycles": 2, "backward_cycles": 3}
    kept = Numbers([FINE] * 4, COARSE, **options)
    kept.transpose(kept.solve(learns=True))
    assert not kept.counts
    again = Numbers([FINE] * 4, COARSE, **options, storage="points")
    again.transpose(again.solve(learns=True))
    assert {Target.fine(j) for j in range(1, 5)} <= again.counts.keys()
    assert set(again.counts.values()) == {1}
    assert [part.moved.count.item() for part in again.fine] == [1] * 4


def test_stored_points_see_the_masks_of_their_step() -> None:
    """Though another step has drawn others since, which keep theirs.

    The converged adjoints of an affine chain do not depend on where it is linearised: of both
    ways to store, those of the input are the same.
    """
    found = []
    for storage in ("all", "points"):
        options = {"forward_cycles": 2, "backward_cycles": 5, "storage": storage}
        net = Numbers(DISTINCT, COARSE, drops=True, **options)
        torch.manual_seed(0)
        first, second = (net.solve(learns=True) for _ in range(2))
        drawn = [part.masks.states for part in net.fine]
        found.append([net.transpose(second), net.transpose(first)])
        assert all(
            part.masks.states is states for part, states in zip(net.fine, drawn, strict=True)
        )
    (two, one), (two_again, one_again) = found
    assert_close(one_again[-1:], one[-1:])
    assert_close(two_again[-1:], two[-1:])
    assert not torch.equal(one[-1], two[-1])


def test_graphs_that_are_kept_are_gone_through_again() -> None:
    net = Numbers([FINE] * 5, COARSE, backward_cycles=2)
    solved = net.solve(learns=True)
    first, second = (net.transpose(solved, retain=retain) for retain in (True, False))
    assert all(map(torch.equal, first, second))
    assert not any(target.is_slice for target, _ in solved.solve.tape.records)


def test_frozen_weights_have_no_gradient() -> None:
    net = Numbers(DISTINCT, COARSE)
    net.fine[1].factor.requires_grad_(False)
    solved = net.solve(learns=True)
    wanted = [part.factor for part in net.fine if part.factor.requires_grad]
    depends = net.solver.depends_on(solved.solve)
    assert {id(t) for t in depends} == {id(t) for t in (*wanted, net.x)}
