"""A parareal network over time is what its equations say, and the serial one where guesses are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import serial_states
from pararealize.errors import MethodError
from pararealize.layers import GRUStep, ImplicitGRUStep, TimeParareal
from pararealize.layers.time_parareal import EPSILON

Kind = type[GRUStep] | type[ImplicitGRUStep]
KINDS = pytest.mark.parametrize("kind", [GRUStep, ImplicitGRUStep])

#: Length, slices, block: those that do and do not divide, more slices than times, one block.
SIZES = [(20, 4, 2), (17, 5, 3), (3, 8, 1), (1, 3, 4), (12, 3, 99), (9, 9, 1)]


def made(kind: Kind, length: int, slices: int, block: int) -> tuple[TimeParareal, Tensor, Tensor]:
    torch.manual_seed(0)
    net = TimeParareal(kind(3, 5, 0.8).double(), slices, block=block)
    nn.init.normal_(net.memory)
    x = torch.randn(2, length, 3, dtype=torch.float64)
    return net, x, torch.randn(2, 5, dtype=torch.float64)


def by_its_equations(net: TimeParareal, x: Tensor, first: Tensor) -> Tensor:
    """The states, one slice and one sample after another."""
    steps = -(-x.shape[1] // min(net.slices, x.shape[1]))
    parts = list(x.split(steps, 1))
    blocks = -(-steps // net.block)
    coarse, found = first, []
    state, guess = first, first
    for number, part in enumerate(parts):
        if number:
            before = parts[number - 1].transpose(1, 2)
            mean = functional.adaptive_avg_pool1d(before, blocks)
            square = functional.adaptive_avg_pool1d(before.square(), blocks)
            told = torch.cat([mean, (square - mean.square() + EPSILON).sqrt()], 1)
            coarse = guess = serial_states(net.coarse.step, told.transpose(1, 2), coarse)[:, -1]
        ran, jump = serial_states(net.step, part, guess), state - guess
        times = torch.arange(1, part.shape[1] + 1, dtype=x.dtype)[:, None] / steps
        corrected = ran + jump[:, None] * torch.sigmoid(net.memory) ** times
        found.append(corrected)
        state = corrected[:, -1]
    return torch.cat(found, 1)


@KINDS
@pytest.mark.parametrize(("length", "slices", "block"), SIZES)
def test_it_is_what_its_equations_say(kind: Kind, length: int, slices: int, block: int) -> None:
    """Variances by two means of squares round by 1e-16 of 1, and roots of 1e-6 grow that."""
    net, x, first = made(kind, length, slices, block)
    torch.testing.assert_close(net(x, first), by_its_equations(net, x, first), atol=1e-12, rtol=0)
    zero = torch.zeros_like(first)
    torch.testing.assert_close(net(x), by_its_equations(net, x, zero), atol=1e-12, rtol=0)


@KINDS
def test_one_slice_is_the_serial_recurrence(kind: Kind) -> None:
    net, x, first = made(kind, 11, 1, 4)
    torch.testing.assert_close(net(x, first), serial_states(net.step, x, first), atol=1e-14, rtol=0)
    assert len(net.jumps) == 0


def test_exact_guesses_make_no_jump_and_the_serial_states(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, first = made(ImplicitGRUStep, 18, 3, 4)
    wanted = serial_states(net.step, x, first)
    exact = [wanted[:, 5], wanted[:, 11]]
    monkeypatch.setattr(TimeParareal, "_guesses", lambda *_: exact)
    torch.testing.assert_close(net(x, first), wanted, atol=1e-14, rtol=0)
    assert net.jumps.shape == (2,)
    assert net.jumps.max() < 1e-14


def test_jumps_are_relative_to_the_largest_guess() -> None:
    net, x, first = made(ImplicitGRUStep, 12, 3, 4)
    states = net(x, first)
    parts = x.unflatten(1, (3, 4)).transpose(0, 1)
    ones = [first, *net._guesses(x.unflatten(1, (3, 4)), first)]
    assert len(ones) == len(parts) == 3
    wanted = torch.stack([(states[:, 4 * s - 1] - ones[s]).abs().max() for s in (1, 2)])
    largest = torch.stack(ones).abs().max()
    torch.testing.assert_close(net.jumps, (wanted / largest).detach(), atol=1e-14, rtol=0)


@KINDS
def test_the_gradient_is_its_own(kind: Kind) -> None:
    net, x, first = made(kind, 7, 3, 2)
    names = [name for name, _ in net.named_parameters()]

    def states(x: Tensor, first: Tensor, *weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        found: Tensor = torch.func.functional_call(net, given, (x, first))
        return found

    assert torch.autograd.gradcheck(
        states,
        (x.requires_grad_(True), first.requires_grad_(True), *net.parameters()),
    )


def test_the_last_state_hears_of_every_sample() -> None:
    net, x, first = made(ImplicitGRUStep, 16, 4, 2)
    net(x.requires_grad_(True), first)[:, -1].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((0, 2)) > 0).all()


def test_it_learns_to_remember_across_slices() -> None:
    """Which of two signs came first, told by the last state of a series of noise behind it."""
    torch.manual_seed(0)
    net, head = TimeParareal(ImplicitGRUStep(1, 8), 4, block=4), nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.02)
    x = 0.3 * torch.randn(64, 32, 1)
    sign = torch.ones(64).copysign(torch.randn(64))
    x[:, 0, 0] = 3 * sign
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.soft_margin_loss(head(net(x)[:, -1])[:, 0], sign)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1  # log 2 where nothing of the first slice arrives


def test_it_is_copied_pickled_saved_and_converted() -> None:
    net, x, first = made(GRUStep, 10, 3, 2)
    wanted = net(x, first)
    fresh = TimeParareal(GRUStep(3, 5, 0.8).double(), 3, block=2)
    fresh.load_state_dict(net.state_dict())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh):
        assert torch.equal(other(x, first), wanted)
    single = net.float()(x.float(), first.float())
    torch.testing.assert_close(single.double(), wanted, atol=1e-5, rtol=0)  # 10 steps of float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slices": 0}, "slices=0"),
        ({"block": 0}, "block=0"),
        ({"slices": 2.5}, "slices=2.5"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        TimeParareal(ImplicitGRUStep(3, 5), **arguments)


def test_other_steps_and_shapes_are_refused() -> None:
    with pytest.raises(MethodError, match="Linear"):
        TimeParareal(nn.Linear(3, 3))  # type: ignore[arg-type]
    for shape in ((2, 7, 4), (0, 7, 3), (2, 0, 3), (7, 3)):
        with pytest.raises(MethodError, match=r"\[batch, length, 3\]"):
            TimeParareal(ImplicitGRUStep(3, 5))(torch.randn(shape))
