"""Networks on several devices or ranks: their pieces are graphs, which answer and train alike."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from local_ranks import all_of
from local_transport import LocalTransport
from networks import StatisticsBlock
from pararealize import MGRIT, CaptureWarning, ParallelNetwork, Parareal, Rehearsal, pararealize
from pararealize.errors import MethodError, ShapeError
from pararealize.models import odenet
from pararealize.runtime.capture.piece_graphs import PieceGraphs
from pararealize.runtime.capture.piecewise import PiecewiseNetwork, PiecewiseStep

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
    pytest.mark.filterwarnings("error::pararealize.CaptureWarning"),
]
mse = nn.functional.mse_loss
DEVICES = ["cpu", "cpu", "cpu"]

#: Answers are equal bit by bit. The adjoint of a state with several readers is a sum, of which a
#: piece adds up its own terms first: gradients are equal but for the order of three terms.
ROUNDING = {"rtol": 1e-11, "atol": 1e-13}


def network(*parts: nn.Module, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(*(StatisticsBlock(*parts) for _ in range(5)), nn.Linear(6, 3)).double()
    method = Parareal(**options)
    return pararealize(model, 3, method=method, example_inputs=data()[:1], devices=DEVICES)


def data(batch: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6).double(), torch.randn(batch, 3).double()


def graphs_of(captured: PiecewiseNetwork | PiecewiseStep, place: int = -1) -> PieceGraphs:
    found: Any = list(captured.cache._kept.values())[place].call
    assert isinstance(found, PieceGraphs)
    return found


def assert_alike(net: nn.Module, twin: nn.Module, *, exact: bool = False) -> None:
    tolerance: Any = {"rtol": 0, "atol": 0} if exact else ROUNDING
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), **tolerance)
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, **tolerance)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"iterations": 2, "guess": "coarse"},
    {"correction": "difference", "coarse": "fine"},
    {"iterations": 1, "tolerance": 1e-3},
]


@pytest.mark.whole
@pytest.mark.parametrize("options", OPTIONS)
def test_answers_are_those_of_calls_to_the_last_bit(options: dict[str, Any]) -> None:
    net, (x, _) = network(nn.Dropout(0.3), **options), data()
    twin = copy.deepcopy(net)
    fast = net.capture((x,), device=Rehearsal())
    assert isinstance(fast, PiecewiseNetwork)
    assert_alike(net, twin, exact=True)  # capturing moves nothing
    for k, training in enumerate((True, True, False, True)):
        found, wanted = [], []
        for call, each, answers in ((fast, net, found), (twin, twin, wanted)):
            each.train(training)
            for rows in (x + k, x[:2] + k, x[:2]):
                torch.manual_seed(k)
                answers.append(call(rows).detach())
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other)
        assert str(net.report) == str(twin.report)
        assert_alike(net, twin, exact=True)
    assert fast.cache.captures == 3  # in eval mode x came once
    assert all(part.replaced is None for part in net.runner.propagators)


@pytest.mark.whole
@pytest.mark.parametrize("options", OPTIONS)
def test_steps_train_as_loops_do(options: dict[str, Any]) -> None:
    net, (x, y) = network(**options), data()
    twin = copy.deepcopy(net)
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9) for n in (net, twin)]
    step = net.capture_step(mse, (x, y), device=Rehearsal(), optimizer=optimizers[0], max_norm=0.5)
    assert isinstance(step, PiecewiseStep)
    assert_alike(net, twin, exact=True)
    for k in range(4):
        rows = slice(None) if k % 2 else slice(2)
        found = step(x[rows] + k, y[rows])
        twin.zero_grad()
        wanted = mse(twin(x[rows] + k), y[rows])
        wanted.backward()
        twin.clip_grad_norm_(0.5)
        optimizers[1].step()
        torch.testing.assert_close(found, wanted.detach(), **ROUNDING)
        assert_alike(net, twin)
    assert step.cache.captures == 2


class Pair(nn.Module):
    """Takes and gives two tensors, one of which may lead nowhere."""

    def __init__(self, *, uses: bool) -> None:
        super().__init__()
        self.one, self.other, self.uses = nn.Linear(6, 6), nn.Linear(6, 6), uses

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = pair
        return torch.tanh(self.one(x + y if self.uses else x)), torch.tanh(self.other(y))


class Pairs(nn.Module):
    """A state of two tensors, whose second one the head leaves out."""

    def __init__(self, *, uses: bool) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(Pair(uses=uses) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        one, _ = self.parts((x, 2 * x))
        return one


@pytest.mark.parametrize("uses", [True, False])
def test_weights_that_nothing_depends_on_get_no_gradient(uses: bool) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(4, 6).double(), Pairs(uses=uses).double()
    method = Parareal(coarse="fine", correction="difference")
    net = pararealize(model, 2, method=method, example_inputs=(x,), devices=DEVICES[:2])
    twin = copy.deepcopy(net)
    step = net.capture_step(Tensor.mean, (x,), device=Rehearsal())
    for k in range(2):
        step(x + k)
        twin.zero_grad()
        twin(x + k).mean().backward()
        assert_alike(net, twin)
    assert any(weight.grad is None for weight in net.parameters())


def test_each_evaluation_of_a_step_has_graphs_of_its_own() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]  # without statistics
    method = Parareal(iterations=3, guess="coarse")
    (x, _), model = data(), nn.Sequential(*layers).double()
    net = pararealize(model, 4, method=method, example_inputs=(x,), devices=["cpu"] * 4)
    twin = copy.deepcopy(net)
    fast = net.capture((x,), device=Rehearsal())
    assert torch.equal(fast(x + 1), net(x + 1).detach())
    step = net.capture_step(lambda y: y.square().mean(), (x,), device=Rehearsal())
    for k in range(2):
        step(x + k)
        twin.zero_grad()
        twin(x + k).square().mean().backward()
        assert_alike(net, twin)


def test_gradients_are_accumulated_and_stay_what_they_were() -> None:
    net, (x, y) = network(), data()
    twin = copy.deepcopy(net)
    step = net.capture_step(mse, (x, y), device=Rehearsal(), accumulate=2)
    for k in range(4):
        step(x + k, y)
        if k % 2 == 0:
            twin.zero_grad()
        (mse(twin(x + k), y) / 2).backward()
        if k % 2:
            assert_alike(net, twin)


def hook(net: ParallelNetwork) -> None:
    net.get_submodule("1.linear").register_forward_hook(lambda _m, _a, output: 2 * output)


def replaced(net: ParallelNetwork) -> None:
    net.get_submodule("0.linear").weight = nn.Parameter(torch.ones(6, 6).double())


def in_place(net: ParallelNetwork) -> None:
    net.load_state_dict({name: 2 * value for name, value in net.state_dict().items()})


def attribute(net: ParallelNetwork) -> None:
    net.get_submodule("1.norm").eps = 0.5  # type: ignore[assignment]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("change", "why"),
    [(hook, "hook"), (replaced, "elsewhere"), (in_place, ""), (attribute, "attr")],
)
def test_what_graphs_cannot_follow_is_captured_anew(change: Any, why: str) -> None:
    net, (x, y) = network(), data()
    fast, step = net.capture((x,), device=Rehearsal()), net.capture_step(mse, device=Rehearsal())
    net.eval()
    fast(x), fast(x)
    step(x, y), step(x, y)
    change(net)
    assert torch.equal(fast(x), net(x).detach())
    torch.testing.assert_close(step(x, y), mse(net(x), y).detach(), **ROUNDING)
    assert fast.cache.captures == 2 + bool(why)
    assert step.cache.captures == 1 + bool(why)
    assert why in fast.cache.why


class Deciding(nn.Module):
    """Which Python decides by a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


def test_pieces_that_cannot_be_recorded_run_as_they_are() -> None:
    torch.manual_seed(0)
    layers = (StatisticsBlock(), StatisticsBlock(Deciding()), StatisticsBlock(), nn.Linear(6, 3))
    model, (x, _) = nn.Sequential(*layers).double().eval(), data()
    options: dict[str, Any] = {"interfaces": ["0", "1"], "leaf_modules": ["1.parts.0"]}
    net = pararealize(model, 3, example_inputs=(x,), devices=DEVICES, **options).eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CaptureWarning)
        fast = net.capture((x,), device=Rehearsal())
    texts = [str(each.message) for each in told if each.category is CaptureWarning]
    assert len(texts) == 1
    assert texts[0].startswith("subnetwork 2 ")
    assert "runs without a graph" in texts[0]
    for k in range(3):
        assert torch.equal(fast(x - k), net(x - k).detach())
    assert len(graphs_of(fast)) >= 4
    with pytest.raises(MethodError, match=r"subnetwork 2 .* cannot be captured"):
        net.capture((x,), device=Rehearsal(), strict=True)


def test_bad_input_says_what_is_wrong() -> None:
    net, (x, y), device = network().eval(), data(), Rehearsal()
    fast = net.capture((x,), device=device, strict=True)
    with pytest.raises(ShapeError, match="strict=True"):
        fast(x[:2])
    with pytest.raises(MethodError, match="answers without gradients"):
        fast(x.clone().requires_grad_())
    with pytest.raises(MethodError, match="the call has 1"):
        net.capture_step(mse, device=device, inputs=2)(x)
    with pytest.raises(MethodError, match="capture inside a capture"):
        device.recording().capture(lambda: fast(x))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        twice(net, x, y)


def twice(net: ParallelNetwork, x: Tensor, y: Tensor) -> None:
    """A gradient's gradient, of which replays know nothing."""
    graphs = PieceGraphs(Rehearsal(), net.runner.propagators, copies=False, strict=False)
    x = x.clone().requires_grad_()
    with graphs.in_force():
        (gradient,) = torch.autograd.grad(mse(net(x), y), x, create_graph=True)
        gradient.sum().backward()


@pytest.mark.rest
def test_pieces_can_be_compiled_as_well() -> None:
    net, (x, y), counter = network(), data(), CompileCounter()
    twin = copy.deepcopy(net)
    options = {"backend": counter}
    step = net.capture_step(mse, (x, y), device=Rehearsal(), compile_pieces=options)
    before = counter.frame_count
    assert before == len(step.pieces) > 0
    for k in range(2):
        step(x + k, y)
        twin.zero_grad()
        mse(twin(x + k), y).backward()
        assert_alike(net, twin)
    assert counter.frame_count == before


@pytest.mark.rest
@pytest.mark.parametrize("options", [{}, {"storage": "intervals"}, {"coarse": "mean"}])
def test_multigrid_on_devices(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = odenet(8, width=6, in_features=5, classes=3).double(), torch.randn(7, 5).double()
    method = MGRIT(**{"coarsening": 2, "coarse": "rediscretized", "forward_cycles": 2, **options})
    net = pararealize(model, 2, method=method, example_inputs=(x,), devices=DEVICES[:2])
    twin, y = copy.deepcopy(net), torch.randn(7, 3).double()
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, twin)]
    step = net.capture_step(mse, (x, y), device=Rehearsal(), optimizer=optimizers[0])
    for k in range(3):
        found = step(x + k, y)
        twin.zero_grad()
        wanted = mse(twin(x + k), y)
        wanted.backward()
        optimizers[1].step()
        torch.testing.assert_close(found, wanted.detach(), **ROUNDING)
        assert_alike(net, twin)


@pytest.mark.parametrize(
    "method",
    [
        Parareal(iterations=2, guess="coarse"),
        pytest.param(MGRIT(coarsening=2, coarse="rediscretized"), marks=pytest.mark.rest),
    ],
)
def test_pieces_of_ranks_are_graphs(method: Any) -> None:
    torch.manual_seed(0)
    if isinstance(method, MGRIT):
        model: nn.Module = odenet(8, width=6, in_features=6, classes=3).double()
    else:
        model = nn.Sequential(*(StatisticsBlock() for _ in range(5)), nn.Linear(6, 3)).double()
    x, y = data()
    models = [[copy.deepcopy(model) for _ in range(2)] for _ in range(2)]

    def work(transport: LocalTransport) -> None:
        net, twin = (
            pararealize(each, 3, method=method, example_inputs=(x,), comm=transport)
            for each in models[transport.rank]
        )
        twin.load_state_dict(net.state_dict())
        optimizers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, twin)]
        step = net.capture_step(
            mse, (x, y), device=Rehearsal(), optimizer=optimizers[0], max_norm=0.5
        )
        for k in range(3):
            found = step(x + k, y)
            twin.zero_grad()
            wanted = mse(twin(x + k), y)
            wanted.backward()
            twin.clip_grad_norm_(0.5)
            optimizers[1].step()
            torch.testing.assert_close(found, wanted.detach(), **ROUNDING)
            assert_alike(net, twin)
        twin.load_state_dict(net.state_dict())
        fast = net.capture(device=Rehearsal())
        for k in range(3):
            assert torch.equal(fast(x + k), twin(x + k).detach())
        assert_alike(net.eval(), twin.eval())
        for k in range(3):
            assert torch.equal(fast(x[:2] + k), twin(x[:2] + k).detach())
        assert fast.cache.captures == 2

    all_of(2, work)
