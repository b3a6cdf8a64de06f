"""GRU steps: torch's own cell, the equations they solve, their stability and their order."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.layers import GRUStep, ImplicitGRUStep
from pararealize.propagators.step import Step

INPUTS, WIDTH, BATCH = 3, 5, 4

Kind = type[GRUStep] | type[ImplicitGRUStep]


@pytest.fixture(params=[GRUStep, ImplicitGRUStep])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def cell() -> nn.GRUCell:
    return nn.GRUCell(INPUTS, WIDTH).double()


def like(cell: nn.GRUCell, kind: Kind, dt: float = 1.0) -> Step:
    """A step of one kind with the weights of torch's cell."""
    step = kind(INPUTS, WIDTH, dt).double()
    step.load_state_dict(cell.state_dict())
    return step


def example() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, WIDTH).double(), torch.randn(BATCH, INPUTS).double()


def gates(cell: nn.GRUCell, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """z and n, row by row of the weights."""
    w_r, w_z, w_n = cell.weight_ih.split(WIDTH)
    u_r, u_z, u_n = cell.weight_hh.split(WIDTH)
    b_r, b_z, b_n = cell.bias_ih.split(WIDTH)
    c_r, c_z, c_n = cell.bias_hh.split(WIDTH)
    r = torch.sigmoid(x @ w_r.T + b_r + h @ u_r.T + c_r)
    z = torch.sigmoid(x @ w_z.T + b_z + h @ u_z.T + c_z)
    return z, torch.tanh(x @ w_n.T + b_n + r * (h @ u_n.T + c_n))


def runge_kutta(slope: Callable[[Tensor], Tensor], h: Tensor, time: float, steps: int) -> Tensor:
    """The classical method of order four."""
    dt = time / steps
    for _ in range(steps):
        a = slope(h)
        b = slope(h + dt / 2 * a)
        c = slope(h + dt / 2 * b)
        h = h + dt / 6 * (a + 2 * b + 2 * c + slope(h + dt * c))
    return h


def test_a_classic_step_is_torchs_cell(cell: nn.GRUCell) -> None:
    step = like(cell, GRUStep)
    h, x = example()
    torch.testing.assert_close(step(h, x), cell(x, h), rtol=0, atol=1e-14)
    theirs = torch.autograd.grad(cell(x, h).square().sum(), list(cell.parameters()))
    ours = torch.autograd.grad(step(h, x).square().sum(), list(step.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_classic_step_is_forward_euler(cell: nn.GRUCell) -> None:
    h, x = example()
    z, n = gates(cell, h, x)
    after = like(cell, GRUStep, dt=0.25)(h, x, span=2.0)
    torch.testing.assert_close(after, h + 0.5 * (1 - z) * (n - h))


def test_an_implicit_step_solves_its_equation(cell: nn.GRUCell) -> None:
    h, x = example()
    z, n = gates(cell, h, x)
    after = like(cell, ImplicitGRUStep, dt=0.25)(h, x, span=2.0)
    torch.testing.assert_close((1 + 0.5 * (1 - z)) * after, h + 0.5 * (1 - z) * n)


def test_a_span_is_a_step_size(kind: Kind, cell: nn.GRUCell) -> None:
    h, x = example()
    coarse, long = like(cell, kind, dt=0.5)(h, x, span=4.0), like(cell, kind, dt=2.0)(h, x)
    torch.testing.assert_close(coarse, long, rtol=0, atol=0)
    assert not torch.allclose(coarse, like(cell, kind, dt=0.5)(h, x))


def test_only_implicit_steps_are_stable_at_any_size(cell: nn.GRUCell) -> None:
    h, x = example()
    classic, implicit = like(cell, GRUStep, dt=1e3), like(cell, ImplicitGRUStep, dt=1e3)
    bound = h.abs().max().clamp(min=1.0)
    assert classic(h, x).abs().max() > 100 * bound
    for _ in range(20):
        h = implicit(h, x)
        assert h.abs().max() <= bound


def test_steps_converge_to_one_solution_with_order_one(kind: Kind, cell: nn.GRUCell) -> None:
    h, x = example()
    exact = runge_kutta(lambda state: cell(x, state) - state, h, 2.0, 64)
    errors = []
    for steps in (32, 64, 128):
        step, state = like(cell, kind, dt=2.0 / steps), h
        for _ in range(steps):
            state = step(state, x)
        errors.append((state - exact).abs().max().item())
    assert errors[-1] < 0.02
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
    assert ratios == pytest.approx([2.0, 2.0], rel=0.1)


def test_gradients_are_those_of_differences(kind: Kind, cell: nn.GRUCell) -> None:
    step = like(cell, kind, dt=0.5)
    names, weights = zip(*step.named_parameters(), strict=True)

    def run(h: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(step, parameters, (h, x), {"span": 3.0})

    h, x = (value.requires_grad_() for value in example())
    assert torch.autograd.gradcheck(run, (h, x, *weights))


def test_state_dicts_go_there_and_back(kind: Kind, cell: nn.GRUCell) -> None:
    step, other = like(cell, kind), nn.GRUCell(INPUTS, WIDTH).double()
    assert list(step.state_dict()) == list(cell.state_dict())
    other.load_state_dict(step.state_dict())
    h, x = example()
    torch.testing.assert_close(other(x, h), cell(x, h), rtol=0, atol=0)


def test_a_seed_draws_the_weights_of_torchs_cell(kind: Kind) -> None:
    torch.manual_seed(5)
    step = kind(INPUTS, WIDTH)
    torch.manual_seed(5)
    torch.testing.assert_close(step.state_dict(), nn.GRUCell(INPUTS, WIDTH).state_dict())


@pytest.mark.parametrize(
    "arguments", [(0, 5, 1.0), (3, 0, 1.0), (3, 5, 0.0), (3, 5, -1.0), (3, 5, float("nan"))]
)
def test_impossible_sizes_are_refused(kind: Kind, arguments: tuple[int, int, float]) -> None:
    with pytest.raises(MethodError, match=f"inputs={arguments[0]}, width={arguments[1]}"):
        kind(*arguments)


def test_a_step_has_to_say_what_it_does() -> None:
    with pytest.raises(TypeError, match="forward"):
        Step()  # type: ignore[abstract]
