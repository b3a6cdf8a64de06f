"""What a forward asks of its values is answered as for tensors, or its module stays whole."""

import copy
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import TraceError
from pararealize.tracing.mutation import differing
from pararealize.tracing.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
DTYPES = {torch.float64: 3.0}
SIZES = {6: 3.0}


@singledispatch
def tripled(value: Any) -> Any:
    return value


@tripled.register
def _(value: Tensor) -> Tensor:
    return value * 3


def by_float(x: Tensor) -> Tensor:
    try:
        float(x.sum())
    except TypeError:
        return x
    return x * 3


def by_len(x: Tensor) -> Tensor:
    try:
        return x * len(x)
    except RuntimeError:
        return x


def by_match(x: Tensor) -> Tensor:
    match x:
        case Tensor():
            return x * 3
        case _:
            return x


def by_shape_match(x: Tensor) -> Tensor:
    match x.shape:
        case (_, _):
            return x * 3
        case _:
            return x


def in_place(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    y += x
    y *= 2
    y -= 1
    y /= 2
    return y


def unpacked(x: Tensor) -> Tensor:
    a, b = x.reshape(2, -1)
    return torch.cat([a, b]).reshape(x.shape)


#: Questions that a trace's values answer as tensors do: the module is looked into.
ANSWERED: dict[str, Callable[[Tensor], Tensor]] = {
    "len": by_len,
    "isinstance": lambda x: x * 3 if isinstance(x, Tensor) else x,
    "is_tensor": lambda x: x * 3 if torch.is_tensor(x) else x,
    "hasattr": lambda x: x if hasattr(x, "anything") else x * 3,
    "getattr": lambda x: getattr(x, "anything", 3) * x,
    "size": lambda x: x * 3 if isinstance(x.shape[-1] * 2, int) else x,
    "shape": lambda x: x * 3 if isinstance(x.shape, torch.Size) else x,
    "chunks": lambda x: x * 3 if isinstance(x.chunk(2), tuple) else x,
    "parts": lambda x: x * 3 if isinstance(x.chunk(2)[0], Tensor) else x,
}
#: Questions to which no stand-in can give a tensor's answer: the module is called whole.
ASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "type": lambda x: x * 3 if type(x) is Tensor else x,
    "callable": lambda x: x if callable(x) else x * 3,
    "dtype key": lambda x: x * DTYPES.get(x.dtype, 1.0),
    "dtype is": lambda x: x * 3 if x.dtype is torch.float64 else x,
    "size key": lambda x: x * SIZES.get(x.shape[-1], 1.0),
    "device key": lambda x: x * {"cpu": 3.0}.get(x.device.type, 1.0),
    "text": lambda x: x * (3.0 if "float64" in str(x.dtype) else 1.0),
    "history": lambda x: x * 3 if x.grad_fn is None else x,
    "float": by_float,
    "shape match": by_shape_match,
    "match": by_match,
    "dispatch": tripled,
    "class": lambda x: x * 3 if x.__class__ is Tensor else x,
}
#: How the same is called differently in a trace and in a run.
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "reflected": lambda x: (1 + x) * (2 - x) + 2 / (x * x + 1) + 2**x + 3 // (x * x + 1),
    "division": lambda x: x / 2 + x // 2 + x % 2 + 7 % (x * x + 1),
    "signs": lambda x: -x + +x + abs(x),
    "logic": lambda x: (~(x > 0) & (x < 1) | (x > 0) ^ (x >= 2)) * x,
    "equality": lambda x: (x == 1) + x * (x != 2),
    "product": lambda x: x @ x.T @ x,
    "sizes": lambda x: x.reshape(x.shape[0], -1).view(x.size(0), 6) * x.shape[1] + x.dim(),
    "factory": lambda x: x + torch.arange(x.shape[1], device=x.device).to(x.dtype),
    "to": lambda x: x.to(torch.float32).to(x.device).double() + x.new_zeros(x.shape),
    "in place": in_place,
    "unpacked": unpacked,
    "named": lambda x: x.max(1, keepdim=True).values + x.sort(1)[0],
}


class Asking(nn.Module):
    def __init__(self, question: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.question = nn.Linear(6, 6), question

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(self.question(x)))


def chain(question: Callable[[Tensor], Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6), nn.Tanh(), Asking(question), nn.Linear(6, 6), nn.Linear(6, 6)]
    return nn.Sequential(*layers).double()


def inputs(rows: int = 4) -> Tensor:
    return torch.randn(rows, 6, dtype=torch.float64)


@pytest.mark.parametrize("name", [*ANSWERED, *ASKED])
def test_questions_are_answered_as_for_tensors(name: str) -> None:
    model = chain((ANSWERED | ASKED)[name])
    net = pararealize(model, 2, method=EXACT, example_inputs=(inputs(),))
    assert (list(net.plan.tracing.found) == ["2"]) == (name in ASKED)
    for rows in (4, 4 if "shape" in name else 7):
        x = inputs(rows)
        assert torch.equal(net(x), model(x))


def test_the_reason_says_what_differs() -> None:
    net = pararealize(chain(ASKED["type"]), 2, method=EXACT, example_inputs=(inputs(),))
    reason = net.plan.tracing.found["2"]
    assert (
        "Asking cannot be traced: it calls mul, and while it was traced it called 2.linear"
        in reason
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_forward_that_asks_nothing_is_looked_into(name: str) -> None:
    model, x = chain(CALLS[name]), inputs()
    traced = trace(model, {"input": x})
    assert not traced.whole
    assert not differing(model, traced, {"input": x})[0]
    changed = chain(lambda value: CALLS[name](value) * 1.0)  # what has one call more is noticed
    assert "2" in differing(changed, traced, {"input": x})[0]


def test_constants_and_what_they_are_applied_to_are_compared() -> None:
    x = inputs()
    traced = trace(chain(lambda value: value * 2 + value), {"input": x})
    for other in (lambda v: v * 3 + v, lambda v: v * 2 + v * 2, lambda v: v * 2 + torch.tanh(v)):
        assert "2" in differing(chain(other), traced, {"input": x})[0]


class Both(nn.Module):
    """Asks in its own forward, around blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 3 if type(x) is Tensor else x)


def test_a_network_whose_own_forward_asks_is_an_error() -> None:
    with pytest.raises(TraceError, match=r"Both cannot be traced: it calls mul.*sub-module"):
        pararealize(Both(), 2, example_inputs=(torch.randn(2, 6),))


def test_nothing_is_computed_and_nothing_moves() -> None:
    layers = [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), Asking(ASKED["type"])]
    model = nn.Sequential(*layers, nn.Linear(6, 6)).double()
    before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    traced = trace(model, {"input": inputs()})
    numbers = torch.get_rng_state()
    assert "3" in differing(model, traced, {"input": torch.empty(10**5, 6, dtype=torch.float64)})[0]
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Scaled(torch.autograd.Function):
    """Twice a value, with a gradient of its own, and what it saved for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x * factor, x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _other: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * x * 5, None


class Reversed(torch.autograd.Function):
    """The identity, with the gradient's sign reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


OWN_BACKWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "straight": lambda x: Straight.apply(x * 2),
    "scaled": lambda x: Scaled.apply(x, 2.0)[0],
    "reversed": lambda x: Reversed.apply(x * 2),
    "given another name": Reversed.apply,
}


@pytest.mark.parametrize("name", OWN_BACKWARD)
def test_functions_with_a_backward_of_their_own_keep_it(name: str) -> None:
    model, x = chain(OWN_BACKWARD[name]), inputs()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert ("2" in net.plan.tracing.found) == (name == "given another name")
    gradients = []
    for each in (model, net):
        each(x).square().sum().backward()
        gradients.append(dict(each.named_parameters())["0.weight"].grad)
    assert torch.equal(*gradients)


class Hoarding(nn.Module):
    """Keeps a tensor where nobody looks for it."""

    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.append = held.append

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        self.append(y.T)
        return y


def test_tensors_without_numbers_that_somebody_keeps_can_be_read() -> None:
    held: list[Tensor] = []
    model = nn.Sequential(nn.Linear(6, 6), Hoarding(held), nn.Linear(6, 6)).double()
    traced = trace(model, {"input": inputs()})
    held.clear()
    assert not differing(model, traced, {"input": inputs()})[0]
    assert len(held) == 1  # one program serves both modes
    assert all(value.isnan().all() and value.shape == (6, 4) for value in held)


class Measuring(nn.Module):
    """Calls a method of tensors that Python code of torch's own carries out."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.calls = [call]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * self.calls[0](x)
        return x


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.norm(dim=-1, keepdim=True),
        lambda x: x.norm(1, -1, True),
        lambda x: torch.cat(x.split(2, -1), -1),
        lambda x: x.split([2, 4], dim=-1)[1].sum(-1, keepdim=True),
        lambda x: x.unflatten(-1, (2, 3)).flatten(-2),
        lambda x: torch.norm(x, dim=-1, keepdim=True),
    ],
)
def test_defaults_that_torch_passes_on_are_no_difference(call: Callable[[Tensor], Tensor]) -> None:
    model, x = Measuring(call).double(), inputs()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.found
    torch.testing.assert_close(net(x), model(x))
