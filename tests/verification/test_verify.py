"""Law 13: what is compiled is what was given, or compiling fails."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx._symbolic_trace import is_fx_tracing

from networks import TanhBlock as Block
from pararealize import Parareal, load, pararealize
from pararealize.chain.interfaces import build_chain
from pararealize.cost.profile import profile
from pararealize.decide.request import Request
from pararealize.errors import VerificationError
from pararealize.ir.chain import Chain
from pararealize.ir.plan import Machine
from pararealize.ir.program import Operation, Program
from pararealize.runtime.values.equality import is_equal, largest_difference
from pararealize.tracing import mutation
from pararealize.tracing.mutation import trace_keeping_state
from pararealize.verification import verify
from pararealize.verification.samples import last_rows

EXACT = Parareal(coarse="fine", correction="difference")


class Asking(Block):
    """Computes something else while it is traced, as only such code can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if is_fx_tracing() else x * 3)


class Skipping(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x if is_fx_tracing() else super().forward(x)


class Drawing(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if is_fx_tracing() else x + torch.rand_like(x))


class Pythonic(Block):
    def forward(self, x: Tensor) -> Tensor:
        if not is_fx_tracing():
            random.random()
        return super().forward(x)


class Numeric(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if not is_fx_tracing() and np.random.rand() < 2 else x)


class Remembering(Block):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not is_fx_tracing():
            self.seen.append(x)
        return super().forward(x)


class Moving(Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if not is_fx_tracing():
            self.total += 1
        return super().forward(x)


class InEval(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.training or is_fx_tracing() else -x)


WRONG = (Asking, Skipping, Drawing, Pythonic, Numeric, Remembering, Moving, InEval)


@pytest.fixture
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal on tensors without numbers sees most of these first: here it sees nothing."""
    monkeypatch.setattr(mutation, "differing", lambda _, traced, __: ({}, traced))


def chain_of_blocks(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(Block(), Block(), *middle, Block(), Block()).double()


def cut(model: nn.Module, x: Tensor | None = None) -> Any:
    given = torch.randn(3, 4).double() if x is None else x
    return pararealize(model, 2, method=EXACT, example_inputs=(given,))


def answers(model: nn.Module, x: Tensor) -> list[Any]:
    """Outputs in both modes, with what all generators give next."""
    found = []
    for mode in (True, False):
        model.train(mode)
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        found += [model(x).detach(), torch.rand(1), random.random(), np.random.rand()]
    return found


@pytest.mark.parametrize("kind", WRONG)
def test_a_module_is_called_whole_whoever_sees_that_its_trace_differs(kind: type[Block]) -> None:
    model, x = chain_of_blocks(kind(), kind()), torch.randn(3, 4).double()
    net = cut(model)
    assert is_equal(answers(net, x), answers(model, x))
    assert {"2", "3"} <= set(net.plan.tracing.found)


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize("kind", WRONG)
def test_a_module_whose_trace_differs_is_called_whole(kind: type[Block]) -> None:
    model, x = chain_of_blocks(kind(), kind()), torch.randn(3, 4).double()
    net = cut(model)
    assert is_equal(answers(net, x), answers(model, x))
    assert set(net.plan.tracing.found) == {"2", "3"}
    assert f"{kind.__name__} does not do what a trace of it would" in " ".join(
        net.explain().split()
    )


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize("kind", [Asking, Skipping, Drawing, InEval])
def test_a_network_whose_own_forward_differs_is_refused(kind: type[Block]) -> None:
    with pytest.raises(VerificationError, match=r"torch\.fx\.wrap") as caught:
        pararealize(kind(), 1, example_inputs=(torch.randn(2, 4),))
    mode = "eval" if kind is InEval else "train"
    assert f"in {mode} mode" in str(caught.value)
    assert f"{kind.__name__}.forward does what a trace does not see" in str(caught.value)
    if kind is Skipping:
        return  # nothing is traced of it
    net = pararealize(kind(), 1, example_inputs=(torch.randn(2, 4),), verify=False)
    assert "Not verified against the original network: verify=False" in net.explain()


def _chained(model: nn.Module, x: Tensor) -> tuple[Chain, Request]:
    request = Request(1, EXACT, {"input": x}, Machine())
    traced = trace_keeping_state(model, {"input": x})
    return build_chain(
        model, traced, profile(traced.train, model, {"input": x}, Machine())
    ), request


def _changed(change: Callable[[Operation], Operation | None]) -> Callable[[Program], Program]:
    def apply(program: Program) -> Program:
        found = [change(operation) for operation in program]
        return Program(tuple(operation for operation in found if operation is not None))

    return apply


def _other_function(o: Operation) -> Operation:
    return replace(o, target=torch.sin) if o.target is torch.tanh and o.scope == "2" else o


def _other_module(o: Operation) -> Operation:
    return replace(o, target="3.fc") if o.target == "2.fc" else o


def _other_value(o: Operation) -> Operation:
    return o.renamed({"add_1": "add"}) if o.name == "_2_fc" else o


@pytest.mark.parametrize("change", [_other_function, _other_module, _other_value])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_wrong_programs_are_found(change: Callable[[Operation], Operation], mode: str) -> None:
    model, x = chain_of_blocks(Block()), torch.randn(3, 4).double()
    chain, request = _chained(model, x)
    assert verify.compared(chain, model, request) == verify.Finding()
    wrong = replace(chain, **{mode: _changed(change)(getattr(chain, mode))})
    assert getattr(wrong, mode) != getattr(chain, mode)
    found = verify.compared(wrong, model, request)
    assert found.mode == mode
    assert found.difference is not None
    assert found.difference.culprit in {"", "2"}


def test_nothing_of_the_caller_moves() -> None:
    model = chain_of_blocks(Remembering(), Moving(), nn.BatchNorm1d(4), nn.Dropout(0.3))
    model[2].eval()
    model[0].fc.weight.requires_grad_(False)
    hooked: list[Any] = []
    model[1].register_forward_hook(lambda *given: hooked.append(given))

    def state() -> list[Any]:
        modes = [(m.training, len(m._forward_hooks)) for m in model.modules()]
        generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        weights = [(k, v.clone(), v.requires_grad) for k, v in model.named_parameters()]
        return [modes, generators, weights, dict(model.named_buffers()), list(model[2].seen)]

    x = torch.randn(3, 4).double()
    before = state()
    net = cut(model, x)
    for now, then in zip(state(), before, strict=True):
        assert is_equal(now, then)
    assert not hooked
    assert not net.get_submodule("2").seen  # nor is it left in the copy
    assert is_equal(dict(net.named_buffers()), before[3])
    net(x)
    assert hooked


class Writing(nn.Module):
    """Writes on what layers give, and on views of it: the program has to have its own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.flat, self.act = nn.BatchNorm1d(4), nn.Flatten(), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y += x
        z = self.flat(y)
        z *= 2
        return self.act(self.fc(z) + y) + z


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0 * 0


@pytest.mark.parametrize("layers", [(Writing(), Writing()), (Nothing(), Block())])
def test_what_is_right_is_left_as_it_is(layers: tuple[nn.Module, ...]) -> None:
    model, x = nn.Sequential(Block(), *layers, Block()).double(), torch.randn(3, 4).double()
    net = pararealize(model, 1, example_inputs=(x,))
    assert not net.plan.tracing.unverified
    assert not net.plan.tracing.found
    assert is_equal(answers(net, x), answers(model, x))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.numbers = nn.Linear(4, 4), count()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + (0 if is_fx_tracing() else next(COUNTER))


COUNTER = count()


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.check = nn.Linear(4, 4), Checking()

    def forward(self, x: Tensor) -> Tensor:
        return self.check(self.fc(x), x)


class Checking(nn.Module):
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        if float(x.flatten()[0]) == 7.0:
            raise ValueError("Expected no seven.")
        return y


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize(
    ("model", "given", "reason"),
    [
        (Counting(), torch.randn(2, 4), "two runs of it from one seed differ"),
        (
            Refusing(),
            torch.full((2, 4), 7.0),
            "in train mode it raises ValueError: Expected no seven; in eval",
        ),
    ],
)
def test_what_cannot_be_verified_is_said(model: nn.Module, given: Tensor, reason: str) -> None:
    text = " ".join(pararealize(model, 1, example_inputs=(given,)).explain().split())
    assert re.search(f"Not verified against the original network: .*{reason}", text)


def test_large_networks_are_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LONGEST", 1e-9)
    assert "a forward pass is predicted to take" in cut(chain_of_blocks()).plan.tracing.unverified


def test_large_inputs_are_verified_on_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def rows(inputs: Any, few: int) -> Any:
        seen.append(few)
        return last_rows(inputs, few)

    monkeypatch.setattr(verify, "last_rows", rows)
    monkeypatch.setattr(verify, "BRIEF", 1e-9)
    net = pararealize(Block(), 1, example_inputs=(torch.randn(9, 4),))
    assert seen == [1]
    assert not net.plan.tracing.unverified


def test_loading_verifies(tmp_path: Path) -> None:
    net = cut(chain_of_blocks(Asking()))
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", chain_of_blocks(Asking()))
    assert set(again.plan.tracing.found) == {"2"}
    assert not again.plan.tracing.unverified
    x = torch.randn(3, 4).double()
    assert torch.equal(again(x), net(x))
    unverified = load(tmp_path / "net", chain_of_blocks(Asking()), verify=False)
    assert "verify=False" in unverified.explain()


def test_values_are_equal_bit_for_bit() -> None:
    nan, x = torch.tensor([float("nan"), 1.0]), torch.ones(2)
    assert is_equal((nan, [x, 3], {"a": None}), (nan.clone(), [x.clone(), 3], {"a": None}))
    assert not is_equal(x, x + 1e-7)
    assert not is_equal(x, x.double())
    assert not is_equal((x, 1), (x, 2))
    assert not is_equal((x,), (x, x))
    assert largest_difference((x, nan), (x + 0.5, nan.clone())) == 0.5
    assert largest_difference(x, x[:1]) is None
