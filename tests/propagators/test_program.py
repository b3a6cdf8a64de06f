"""Segments as functions: compiled lines, copies before writing, and what may draw."""

import traceback
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.ir.program import Program, Segment, cut_segment
from pararealize.propagators.compiled import compile_segment
from pararealize.propagators.paths import modules_of
from pararealize.propagators.randomness import is_random, module_draws
from pararealize.tracing.trace import trace

Step = Callable[[Tensor], Tensor]


class Steps(nn.Module):
    """Two functions, one after another."""

    def __init__(self, first: Step, second: Step) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.scale)


def halves(program: Program) -> tuple[Segment, Segment]:
    """Before and after the multiplication."""
    at = program.index["mul"] + 1
    return (
        cut_segment(program, 0, at, (), ("mul",)),
        cut_segment(program, at, len(program), ("mul",), None),
    )


def second_half(step: Step) -> tuple[Segment, nn.Module]:
    model = Steps(torch.neg, step)
    return halves(trace(model).train)[1], model


IN_PLACE: dict[str, Step] = {
    "relu_": torch.relu_,
    "method": lambda x: x.add_(1),
    "functional": lambda x: functional.relu(x, inplace=True),
    "view": lambda x: x.view(-1).mul_(2).view(2, 3),
    "augmented": lambda x: x.__iadd__(3),
    "later": lambda x: torch.sigmoid(x) + x.neg_(),
    "chunk": lambda x: torch.cat([part.mul_(3) for part in (x[:, :1], x[:, 1:])], 1),
    "dropout": lambda x: functional.dropout(x, 0.5, training=True, inplace=True),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_state_is_copied_before_it_is_overwritten(name: str) -> None:
    segment, model = second_half(IN_PLACE[name])
    state = torch.randn(2, 3)
    before = state.clone()
    compile_segment(segment, model, "test")(model, state)
    assert torch.equal(state, before)


def test_an_inplace_module_copies_too() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.ReLU(inplace=True))
    program = trace(model).train
    segment = cut_segment(program, 2, len(program), ("_0",), None)
    state = torch.full((2, 3), -1.0)
    assert not compile_segment(segment, model, "test")(model, state).any()
    assert torch.equal(state, torch.full((2, 3), -1.0))


@pytest.mark.parametrize("step", [torch.relu, torch.tanh, lambda x: (x * 2).add_(1)])
def test_nothing_is_copied_without_need(step: Step) -> None:
    segment, model = second_half(step)
    source = "".join(
        traceback.format_exception(_failure(compile_segment(segment, model, "copies"), model))
    )
    assert ".clone()" not in source


def _failure(function: Callable[..., object], model: nn.Module) -> Exception:
    try:
        function(model, "no tensor")
    except Exception as error:
        return error
    raise AssertionError("a string is no state")


def test_halves_join_to_the_whole() -> None:
    model = Steps(torch.tanh, torch.sigmoid)
    first, second = halves(trace(model).train)
    x = torch.randn(2, 3)
    state = compile_segment(first, model, "first")(model, x)
    assert torch.equal(compile_segment(second, model, "second")(model, state), model(x))


def test_weights_are_read_at_every_call() -> None:
    model = Steps(torch.tanh, torch.sigmoid)
    first, _ = halves(trace(model).train)
    run, x = compile_segment(first, model, "first"), torch.randn(2, 3)
    with torch.no_grad():
        model.scale.zero_()
    assert not run(model, x).any()


def test_tracebacks_show_the_generated_line() -> None:
    segment, model = second_half(lambda x: torch.matmul(x, x))
    function = compile_segment(segment, model, "subnetwork 2 (middle)")
    with pytest.raises(RuntimeError) as caught:
        function(model, torch.randn(2, 3))
    text = "".join(traceback.format_tb(caught.value.__traceback__))
    assert "<pararealize subnetwork 2 (middle)>." in text
    assert "matmul = torch.matmul(mul, mul)" in text


def test_modules_of_a_segment() -> None:
    program = trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))).train
    assert modules_of(cut_segment(program, 0, 3, (), ("_1",))) == ("0", "1")


@pytest.mark.parametrize(
    ("step", "random"),
    [
        (torch.relu, False),
        (lambda x: functional.dropout(x, training=True), True),
        (torch.bernoulli, True),
        (lambda x: x + torch.randn_like(x), True),
        (lambda x: x.uniform_(), True),
        (lambda x: x.sigmoid(), False),
    ],
)
def test_functions_that_draw(step: Step, random: bool) -> None:
    segment, model = second_half(step)
    assert is_random(segment, model) == random


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "random"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU()), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), True),
        (nn.AlphaDropout(), True),
        (nn.RReLU(), True),
        (nn.LSTM(2, 2), False),
        (nn.LSTM(2, 2, num_layers=2, dropout=0.1), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.TransformerEncoderLayer(4, 2, dropout=0.1), True),
        (Noisy(), True),
    ],
)
def test_modules_that_draw(module: nn.Module, random: bool) -> None:
    assert module_draws(module) == random
