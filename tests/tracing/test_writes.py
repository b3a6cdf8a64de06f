"""Functions and modules that are called whole and write on what they are given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.tracing.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def shifted(x: Tensor) -> Tensor:
    x += 1.0
    return x


def zero(x: Tensor) -> None:
    x[:, 0] = 0


def second(_factor: float, *, target: Tensor) -> None:
    target[:, 1:].mul_(_factor)


def both(pair: list[Tensor]) -> None:
    pair[1].copy_(pair[0])


def by_numbers(x: Tensor) -> None:
    if float(x.sum()) > 0:
        x.neg_()


def watched(x: Tensor) -> None:
    assert x.dim() == 2


for _name in ("shifted", "zero", "second", "both", "by_numbers", "watched"):
    torch.fx.wrap(_name)


class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def dirty(x: Tensor) -> Tensor:
    Dirty.apply(x)
    return x


class Writer(nn.Module):
    """Called whole, as it branches on numbers, and writes on its argument."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > -torch.inf:
            x[:, 1] = 0
        return x[:, :1]


def unused(x: Tensor) -> Tensor:
    zero(x)
    return x


def named(x: Tensor) -> Tensor:
    second(0.5, target=x)
    return x


def listed(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    both([y, x])
    return x + y


def viewed(x: Tensor) -> Tensor:
    y = x.view(-1, 2)
    zero(y)
    return x


def branching(x: Tensor) -> Tensor:
    by_numbers(x)
    return x


def looked_at(x: Tensor) -> Tensor:
    watched(x)
    return x


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "returned": shifted,
    "unused": unused,
    "by name": named,
    "in a list": listed,
    "on a view": viewed,
    "by numbers": branching,
    "autograd function": dirty,
    "nothing": looked_at,
}


class Network(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.writer, self.call = Writer(), call

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = torch.sin(layer(x))  # which keeps no result for its adjoint
            z = y + self.writer(y) if self.call is None else self.call(y)
            x = x + y * z
        return x


@pytest.mark.parametrize("name", [*CALLS, "module"])
def test_what_is_written_by_calls_is_seen_by_what_follows(name: str) -> None:
    torch.manual_seed(0)
    model, x = Network(CALLS.get(name)).double(), torch.randn(3, 4, dtype=torch.float64)
    inside = ["%layers_1", "%layers_3", "%layers_5"]
    for how in ({"n": 1}, {"n": 3}, {"n": 4, "interfaces": inside}):
        net = pararealize(model, method=EXACT, example_inputs=(x,), **how)  # type: ignore[arg-type]
        for rows in (3, 5):
            given = torch.randn(rows, 4, dtype=torch.float64)
            assert torch.equal(net(given), model(given))
        net(given).sum().backward()
        own = dict(net.named_parameters())
        wanted = torch.autograd.grad(model(given).sum(), list(model.parameters()))
        for (path, _), gradient in zip(model.named_parameters(), wanted, strict=True):
            torch.testing.assert_close(own[path].grad, gradient, rtol=1e-10, atol=1e-12)


class Written(Network):
    """The state at a cut is written on behind it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.sin(layer(x))
            assert self.call is not None
            x = self.call(x)
        return x


@pytest.mark.parametrize("name", CALLS)
def test_a_state_is_written_on_in_a_copy(name: str) -> None:
    torch.manual_seed(0)
    model, x = Written(CALLS[name]).double(), torch.randn(3, 4, dtype=torch.float64)
    adds = [o for o in trace(model, {"x": x}).train if o.call == "add" and not o.kwargs]
    ends = [o for o in adds if str(o.args[1]).startswith("%sin")]  # where the state is whole
    cuts = [f"%{ends[0].name}", f"%{ends[-2].name}"]
    method = Parareal(coarse="identity", correction="difference", iterations=3)
    net = pararealize(model, 3, method=method, example_inputs=(x,), interfaces=cuts)
    # As many sweeps as there are pieces are exact, but for rounding.
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-14)


def test_unused_calls_that_write_on_nothing_are_left_out() -> None:
    x = torch.randn(3, 4)
    for call, count in ((looked_at, 0), (unused, 6)):
        program = trace(Network(call), {"x": x}).train
        assert sum(o.call in {"zero", "watched"} for o in program) == count


def test_writes_are_found_without_given_inputs() -> None:
    torch.manual_seed(0)
    model = Network(unused)
    net = pararealize(model, 3, method=EXACT)
    x = torch.randn(5, 4)
    assert torch.equal(net(x), model(x))


def test_what_reads_alone_is_not_taken_for_a_writer() -> None:
    program = trace(Network(None), {"x": torch.randn(3, 4)}).train
    assert all(o.writes for o in program if o.target == "writer")  # it asks for numbers
    program = trace(
        nn.Sequential(nn.Linear(4, 4), Plain()), {"input": torch.randn(3, 4)}, ["1"]
    ).train
    assert not any(o.writes for o in program)


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone().neg_()
