"""Tracing: one program for both modes where they differ by flags only, two where they do not."""

import copy
import inspect
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.errors import TraceError
from pararealize.ir.program import Ref
from pararealize.models import resnet
from pararealize.tracing.trace import merge, trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Dropping(nn.Module):
    """Dropout as a function, in the root and in a child."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.block = Child()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(self.inner(x), 0.5, self.training)
        return self.block(x)


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(functional.dropout(x, p=0.25, training=self.training))


class TwoFaced(nn.Module):
    """Another graph in each mode: an auxiliary head while training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        if self.training:
            x = x + torch.tanh(self.c(x))
        return self.b(x)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = torch.tanh(self.a(x))
        if mask is not None:
            x = x * mask
        return self.b(x) * scale


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the error names
            return x
        return -x


class Looping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for row in x:
            x = x + row
        return x


class Skipping(nn.Module):
    """Stochastic depth by a number that depends on nothing."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not self.training or self.draw() < 0.5:
                x = x + layer(x)
        return x


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def test_one_program_where_modes_do_not_differ() -> None:
    traced = trace(resnet(11, width=4))
    assert traced.train is traced.eval
    assert not [o for o in traced.train if o.kind == "training"]


def test_flags_of_functional_dropout_are_read_where_they_live() -> None:
    traced = trace(Dropping())
    assert traced.train is traced.eval
    flags = {o.name: o.target for o in traced.train if o.kind == "training"}
    assert flags == {"training_of_root": "", "training_of_block": "block"}
    assert traced.train["dropout"].kwargs["training"] == Ref("training_of_root")
    assert traced.train["dropout_1"].kwargs["training"] == Ref("training_of_block")


def test_functional_dropout_stays_live() -> None:
    model = Dropping().double()
    net = pararealize(model, 1)
    x = torch.randn(4, 6, dtype=torch.float64)
    assert torch.equal(net.eval()(x), model.eval()(x))
    for mode in (True, False, True):
        torch.manual_seed(5)
        expected = model.train(mode)(x)
        torch.manual_seed(5)
        assert torch.equal(net.train(mode)(x), expected)


def test_a_child_keeps_its_own_mode() -> None:
    model = Dropping()
    net = pararealize(model, 1)
    for module in (model.train(), net.train()):
        module.get_submodule("block").eval()
    x = torch.randn(4, 6)
    torch.manual_seed(5)
    expected = model(x)
    torch.manual_seed(5)
    assert torch.equal(net(x), expected)


def test_differing_graphs_give_two_programs() -> None:
    traced = trace(TwoFaced())
    assert traced.train is not traced.eval
    assert len(traced.train) > len(traced.eval)
    assert "c" in traced.train.index
    assert "c" not in traced.eval.index


def test_both_programs_run_in_their_modes() -> None:
    model = TwoFaced().double()
    x = torch.randn(4, 6, dtype=torch.float64)
    exact = Parareal(coarse="fine", correction="difference")
    for net in (pararealize(model, 1), pararealize(model, 2, interfaces=["a"], method=exact)):
        for mode in (True, False, True):
            torch.testing.assert_close(net.train(mode)(x), model.train(mode)(x))


def test_the_callers_model_and_its_modes_are_untouched() -> None:
    model = resnet(11, width=4)
    model.layer2.eval()
    before, state = modes(model), copy.deepcopy(model.state_dict())
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    trace(model)
    pararealize(model, 2)
    assert modes(model) == before
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes


def test_the_emitted_network_starts_in_the_models_modes() -> None:
    model = resnet(11, width=4).eval()
    assert not pararealize(model, 2).training
    model.train().layer2.eval()
    network = pararealize(model, 2)
    assert {k: v for k, v in modes(network).items() if k in modes(model)} == modes(model)


def test_a_branch_on_data_names_file_line_and_remedy() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Branching())
    lines, start = inspect.getsourcelines(Branching)
    line = start + next(i for i, text in enumerate(lines) if "error names" in text)
    text = str(caught.value)
    assert f"{__file__}:{line}" in text
    assert "if x.sum() > 0" in text
    assert "Branching cannot be traced" in text
    assert "torch.where" in text


def test_a_loop_over_data_is_refused() -> None:
    with pytest.raises(TraceError, match=r"Looping cannot be traced at .*test_trace.py"):
        trace(Looping())


@pytest.mark.parametrize("draw", [lambda: float(torch.rand(())), random.random])
def test_numbers_that_a_trace_would_freeze_are_refused(draw: Callable[[], float]) -> None:
    model = Skipping(draw)
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(
        TraceError,
        match=r"Skipping cannot be traced: it draws .*torch\.rand_like\(x\)",
    ):
        pararealize(model, 2)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_modes_are_restored_after_a_failure() -> None:
    model = Branching()
    model.inner = nn.Linear(2, 2).eval()
    before = modes(model)
    with pytest.raises(TraceError):
        trace(model)
    assert modes(model) == before


def test_an_optional_argument_that_is_not_given_is_none() -> None:
    model = Masked()
    net, x, mask = pararealize(model, 1), torch.randn(3, 6), torch.rand(3, 6)
    assert torch.equal(net(x), model(x))
    assert torch.equal(net(x, None, 2.0), model(x, None, 2.0))
    assert torch.equal(net(x, scale=3.0, mask=None), model(x, scale=3.0))
    for call in (lambda: net(x, mask), lambda: net(x, mask=mask)):
        with pytest.raises(ValueError, match=r"'mask' was not given .*example_kwargs="):
            call()


def test_an_optional_argument_that_is_given_is_an_input() -> None:
    model, x, mask = Masked(), torch.randn(3, 6), torch.rand(3, 6)
    for net in (
        pararealize(model, 1, example_inputs=(x, mask)),
        pararealize(model, 1, example_inputs=(x,), example_kwargs={"mask": mask}),
    ):
        assert torch.equal(net(x, mask), model(x, mask))
        assert torch.equal(net(x=x, mask=mask, scale=0.5), model(x, mask, 0.5))


def test_merge_refuses_other_differences() -> None:
    train, other = trace(nn.Sequential(nn.ReLU())), trace(nn.Sequential(nn.ReLU(), nn.ReLU()))
    assert merge(train.train, other.train) is None
    assert merge(train.train, train.eval) == train.train


def test_operations_know_the_module_that_wrote_them() -> None:
    program = trace(resnet(11, width=4)).train
    assert program["add"].scope == "layer1.0"
    assert program["flatten"].scope == ""
