"""Ranks that share the slices of a recurrence find what one process finds; threads for ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from local_ranks import all_of, on_ranks
from local_transport import LocalTransport
from pararealize.errors import DisagreementError, MethodError, PeerError, RankError
from pararealize.layers import GRUStep, ImplicitGRUStep, TimeParallel

Kind = type[GRUStep] | type[ImplicitGRUStep]

#: Ranks, length, slices, sweeps: ranks that do and do not divide slices, a slice that is not full,
#: fewer slices than ranks, sweeps that end early.
CASES = [
    (2, 24, 4, None),
    (2, 21, 5, 2),
    (3, 33, 8, 3),
    (3, 2, 3, None),
    (2, 1, 2, None),
    (4, 26, 4, 2),
]


def made(kind: Kind, length: int) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    step = kind(3, 5, 0.5).double()
    x, first = (torch.randn(*s, dtype=torch.float64) for s in ((4, length, 3), (4, 5)))
    return step, x, first


def found(solver: TimeParallel, x: Tensor, first: Tensor) -> dict[str, Tensor]:
    """States, and the gradients of a loss that looks at all of them."""
    x, first = (tensor.clone().requires_grad_() for tensor in (x, first))
    states = solver(x, first)
    weights = torch.cos(torch.arange(states.numel(), dtype=states.dtype)).view_as(states)
    ((states * weights).sum() + states[:, -1].square().sum()).backward()
    named = {name: p.grad for name, p in solver.step.named_parameters() if p.grad is not None}
    assert x.grad is not None
    assert first.grad is not None
    return {"states": states.detach(), "x": x.grad, "first": first.grad, **named}


@pytest.mark.parametrize("kind", [GRUStep, ImplicitGRUStep])
@pytest.mark.parametrize(("ranks", "length", "slices", "sweeps"), CASES)
def test_ranks_find_what_one_process_finds(
    kind: Kind, ranks: int, length: int, slices: int, sweeps: int | None
) -> None:
    step, x, first = made(kind, length)
    options = {"slices": slices, "tolerance": 1e-6, "sweeps": sweeps}

    def work(transport: LocalTransport) -> Any:
        solver = TimeParallel(copy.deepcopy(step), **options, comm=transport)
        return found(solver, x, first), solver.solved_in

    alone = TimeParallel(copy.deepcopy(step), **options)
    wanted = found(alone, x, first)
    for ours, solved_in in all_of(ranks, work):
        assert solved_in == alone.solved_in
        assert ours.keys() == wanted.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-12)


def test_training_on_ranks_goes_the_way_of_one_process() -> None:
    """With a weight that is frozen, inputs without gradients, and answers without any between."""
    step, x, _ = made(ImplicitGRUStep, 24)
    step.bias_ih.requires_grad_(False)

    def trained(comm: Any) -> Tensor:
        solver = TimeParallel(copy.deepcopy(step), 4, 1e-8, comm=comm)
        optimizer = torch.optim.SGD(solver.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            solver(x)[:, -1].square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                solver(x)
        return torch.cat([p.detach().reshape(-1) for p in solver.parameters()])

    wanted = trained(None)
    for ours in all_of(2, trained):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


def other_x(solver: TimeParallel, x: Tensor, rank: int) -> None:
    solver(x + rank)


def other_length(solver: TimeParallel, x: Tensor, rank: int) -> None:
    solver(x[:, rank:])


def other_weights(solver: TimeParallel, x: Tensor, rank: int) -> None:
    with torch.no_grad():
        solver.step.weight_ih.add_(rank)
    solver(x)


def other_gradients(solver: TimeParallel, x: Tensor, rank: int) -> None:
    solver(x.requires_grad_(rank == 1))


def other_sweeps(solver: TimeParallel, x: Tensor, rank: int) -> None:
    solver.sweeps = 2 + rank
    solver(x)


def other_loss(solver: TimeParallel, x: Tensor, rank: int) -> None:
    (solver(x)[:, -1].square().sum() * (1 + rank)).backward()


def called_twice(solver: TimeParallel, x: Tensor, rank: int) -> None:
    states = solver(x)
    if rank:
        solver(x)
    else:
        states.sum().backward()


@pytest.mark.parametrize(
    ("mistake", "kind", "said"),
    [
        (other_x, DisagreementError, "rank 1 was called with other inputs"),
        (other_length, DisagreementError, r"\[4, 23, 3\]"),
        (other_weights, RankError, "other weights on rank 1"),
        (other_gradients, DisagreementError, "gradients of"),
        (other_sweeps, DisagreementError, "sweeps=3"),
        (other_loss, DisagreementError, "gradient of the states on rank 1"),
        (called_twice, DisagreementError, "goes back through call 1"),
    ],
)
def test_mistakes_are_told_on_all_ranks(
    mistake: Callable[[TimeParallel, Tensor, int], None], kind: type[Exception], said: str
) -> None:
    """And the next call is as if nothing had been."""
    step, x, first = made(ImplicitGRUStep, 24)
    wanted = found(TimeParallel(copy.deepcopy(step), 4, 1e-8), x, first)

    def work(transport: LocalTransport) -> dict[str, Tensor]:
        solver = TimeParallel(copy.deepcopy(step), 4, 1e-8, comm=transport)
        with pytest.raises(kind, match=said):
            mistake(solver, x.clone(), transport.rank)
        again = TimeParallel(copy.deepcopy(step), 4, 1e-8, comm=transport)
        return found(again, x, first)

    for ours in all_of(2, work):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


def test_an_error_of_one_rank_is_heard_by_the_others() -> None:
    """A weight that is changed before its gradient, on rank 1 alone."""
    step, x, _ = made(ImplicitGRUStep, 24)

    def work(transport: LocalTransport) -> None:
        solver = TimeParallel(copy.deepcopy(step), 4, 1e-8, comm=transport)
        loss = solver(x).sum()
        if transport.rank == 1:
            with torch.no_grad():
                solver.step.weight_hh.mul_(1.0)
        loss.backward()

    first, second = on_ranks(2, work, patience=20.0)
    assert isinstance(second, RuntimeError)
    assert "modified by an inplace operation" in str(second)
    assert isinstance(first, PeerError)
    assert "modified by an inplace operation" in str(first)


def test_every_rank_has_a_slice() -> None:
    def work(transport: LocalTransport) -> None:
        TimeParallel(GRUStep(3, 5), 2, comm=transport)

    errors = on_ranks(3, work)
    assert all(isinstance(e, MethodError) and "slices=2 on 3 ranks" in str(e) for e in errors)
    with pytest.raises(RankError, match="comm=3"):
        TimeParallel(GRUStep(3, 5), comm=3)
