"""A recurrence that is solved in slices of time is the serial one, in states and in gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from networks import serial_states
from pararealize.errors import MethodError
from pararealize.layers import GRUStep, ImplicitGRUStep, TimeParallel

Kind = type[GRUStep] | type[ImplicitGRUStep]

KINDS = pytest.mark.parametrize("kind", [GRUStep, ImplicitGRUStep])

#: Length, slices, step size: slices that do and do not divide the length, more than it, and one.
SIZES = [(20, 4, 1.0), (17, 5, 0.7), (3, 8, 1.0), (1, 3, 1.0), (12, 1, 0.5), (9, 9, 1.3)]


def made(
    kind: Kind, length: int, dt: float = 1.0, width: int = 5
) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, length, 3, dtype=torch.float64, requires_grad=True)
    first = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    return kind(3, width, dt).double(), x, first


def gradients(step: nn.Module, x: Tensor, first: Tensor, states: Tensor) -> list[Tensor]:
    """Of a loss that looks at all states, by x, h_0 and all weights."""
    torch.manual_seed(1)
    loss = (states * torch.randn(states.shape, dtype=states.dtype)).sum() + states[
        :, -1
    ].square().sum()
    return list(torch.autograd.grad(loss, [x, first, *step.parameters()]))


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@KINDS
@pytest.mark.parametrize(("length", "slices", "dt"), SIZES)
def test_all_sweeps_give_the_serial_recurrence(
    kind: Kind, length: int, slices: int, dt: float
) -> None:
    step, x, first = made(kind, length, dt)
    solver = TimeParallel(step, slices, tolerance=0.0)
    wanted, found = serial_states(step, x, first), solver(x, first)
    assert error(found, wanted) < 1e-14
    pairs = zip(gradients(step, x, first, found), gradients(step, x, first, wanted), strict=True)
    for ours, theirs in pairs:
        assert error(ours, theirs) < 1e-13
    # Slices of equal length may be fewer than were asked for.
    assert 1 <= solver.solved_in.forward <= min(slices, length)


@KINDS
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_the_error_follows_the_tolerance(kind: Kind, tolerance: float) -> None:
    """Starts move by at most the tolerance; by forgetting it adds up to a few of it."""
    step, x, first = made(kind, 96)
    solver = TimeParallel(step, 8, tolerance)
    wanted, found = serial_states(step, x, first), solver(x, first)
    assert error(found, wanted) < 10 * tolerance
    pairs = zip(gradients(step, x, first, found), gradients(step, x, first, wanted), strict=True)
    assert all(error(ours, theirs) < 50 * tolerance for ours, theirs in pairs)


def test_fewer_sweeps_than_slices_are_enough() -> None:
    """Were corrections wrong, all would be needed: without them 3 sweeps leave far more."""
    step, x, first = made(ImplicitGRUStep, 256)
    solver = TimeParallel(step, 16, 1e-6)
    states = solver(x, first)
    states[:, -1].sum().backward()
    assert solver.solved_in.forward <= 5
    assert solver.solved_in.backward <= 5


def test_a_sweep_with_corrections_is_better_than_one_without() -> None:
    """The diagonal carries a change of a start through long memory (small dt) at once."""
    step, x, first = made(ImplicitGRUStep, 64, dt=0.02)
    sweeps = TimeParallel(step, 8, 1e-3)
    sweeps(x, first)
    assert sweeps.solved_in.forward <= 4  # with products of zero it is 8


@KINDS
def test_sweeps_are_no_more_than_asked_for(kind: Kind) -> None:
    """As many slices as sweeps are exact, later ones nearly; all sweeps are the serial way."""
    step, x, first = made(kind, 40, dt=0.05)
    wanted = serial_states(step, x, first)
    few, all_ = TimeParallel(step, 8, 0.0, sweeps=3), TimeParallel(step, 8, 0.0, sweeps=11)
    states = few(x, first)
    states[:, -1].sum().backward()
    assert (few.solved_in.forward, few.solved_in.backward) == (3, 3)
    assert error(states[:, :15], wanted[:, :15]) < 1e-14
    assert 1e-12 < error(states[:, 15:], wanted[:, 15:]) < 1e-2
    assert error(all_(x, first), wanted) < 1e-14


def test_training_goes_the_serial_way() -> None:
    """Five steps of Adam, on the solver and on a copy that is run step by step."""
    step, x, first = made(ImplicitGRUStep, 40)
    x, first, twin = x.detach(), first.detach(), copy.deepcopy(step)
    solver = TimeParallel(step, 4, 1e-10)
    for net, run in ((step, solver), (twin, lambda x, first: serial_states(twin, x, first))):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            run(x, first)[:, -1].square().sum().backward()
            optimizer.step()
    for ours, theirs in zip(step.parameters(), twin.parameters(), strict=True):
        assert error(ours.detach(), theirs.detach()) < 1e-7


def test_a_weight_that_is_changed_before_its_gradient_is_an_error() -> None:
    step, x, first = made(ImplicitGRUStep, 8)
    loss = TimeParallel(step, 2)(x, first).sum()
    with torch.no_grad():
        next(p for n, p in step.named_parameters() if n == "weight_hh").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_zeros_and_float32_without_gradients() -> None:
    step = ImplicitGRUStep(3, 5)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.zero_()
        states = TimeParallel(step, 4)(torch.zeros(2, 12, 3))
    assert states.dtype == torch.float32
    assert not states.any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TimeParallel(nn.GRUCell(3, 5)), "GRUCell"),
        (lambda: TimeParallel(GRUStep(3, 5), 0), "slices=0"),
        (lambda: TimeParallel(GRUStep(3, 5), True), "slices=True"),
        (lambda: TimeParallel(GRUStep(3, 5), tolerance=-1.0), "tolerance=-1.0"),
        (lambda: TimeParallel(GRUStep(3, 5), sweeps=1), "sweeps=1"),
        (lambda: TimeParallel(GRUStep(3, 5), sweeps=True), "sweeps=True"),
        (lambda: TimeParallel(GRUStep(3, 5))(torch.zeros(2, 4, 2)), r"\[2, 4, 2\]"),
        (lambda: TimeParallel(GRUStep(3, 5))(torch.zeros(2, 3)), r"\[2, 3\]"),
        (lambda: TimeParallel(GRUStep(3, 5))(torch.zeros(2, 0, 3)), r"\[2, 0, 3\]"),
    ],
)
def test_what_cannot_be_solved_is_refused(make: object, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        make()
