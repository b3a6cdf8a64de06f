"""Pieces that run compiled in lanes give what they give uncompiled, and are compiled once."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from networks import StatisticsBlock
from pararealize import (
    MGRIT,
    CaptureWarning,
    ParallelNetwork,
    Parareal,
    Rehearsal,
    capture,
    pararealize,
)
from pararealize.models import odenet
from pararealize.runtime.capture.step import CapturedStep

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
    pytest.mark.filterwarnings("error::pararealize.CaptureWarning"),
]
mse = nn.functional.mse_loss


def chain(n: int, *parts: nn.Module, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(*(StatisticsBlock(*parts) for _ in range(n)), nn.Linear(6, 3)).double()
    names, method = [str(i) for i in range(n - 1)], Parareal(**options)
    return pararealize(model, n, method=method, example_inputs=data()[:1], interfaces=names)


def data(batch: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6).double(), torch.randn(batch, 3).double()


def same(one: nn.Module, other: nn.Module, *, gradients: bool = False) -> None:
    for (name, mine), its in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, its), name
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        if gradients:
            assert mine.grad is not None
            assert its.grad is not None
            assert torch.equal(mine.grad, its.grad)


def test_pieces_of_one_structure_are_compiled_once() -> None:
    # More pieces than torch.compile compiles of one function, 8. Of one structure are the pieces
    # but the first, whose input wants no gradient; in one process F_j are those pieces again.
    net = chain(9, correction="difference", coarse="fine")
    x, y = data()
    plain, twin = copy.deepcopy(net), copy.deepcopy(net)
    counter, device = CompileCounter(), Rehearsal("latest")
    step = net.capture_step(mse, (x, y), device=device, compile_pieces={"backend": counter})
    assert counter.frame_count == len(structures(step)) <= 4
    other = plain.capture_step(mse, (x, y), device=Rehearsal())
    for k in range(2):
        # Bit for bit: backend "eager" does the same operations in the same lanes.
        assert torch.equal(step(x + k, y), other(x + k, y))
        same(net, plain, gradients=True)
        wanted = mse(twin(x + k), y)
        twin.zero_grad()
        wanted.backward()
        torch.testing.assert_close(step.network.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert device.races == []
    assert all(part.replaced is None for part in net.runner.propagators)


def structures(captured: CapturedStep) -> set[Any]:
    return set(captured.pieces.codes)


@pytest.mark.rest
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "options", [{}, {"iterations": 2, "guess": "coarse"}, {"correction": "difference"}]
)
def test_compiled_steps_train_alike(options: dict[str, Any], backend: str) -> None:
    net = chain(3, **options)
    plain, (x, y), device = copy.deepcopy(net), data(), Rehearsal("latest")
    steps = [
        each.capture_step(
            mse,
            (x, y),
            device=device,
            max_norm=1.0,
            optimizer=torch.optim.SGD(each.parameters(), lr=0.1),
            compile_pieces={"backend": backend} if each is net else False,
        )
        for each in (net, plain)
    ]
    for k in range(3):
        one, other = (step(x + k, y) for step in steps)
        # "eager" is bit for bit; aot_eager decomposes normalisations, and rounds otherwise.
        tolerance = 0 if backend == "eager" else 1e-12
        torch.testing.assert_close(one, other, rtol=tolerance, atol=0)
        torch.testing.assert_close(
            net.state_dict(), plain.state_dict(), rtol=tolerance, atol=tolerance
        )
    assert device.races == []


@pytest.mark.rest
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_masks_are_those_of_uncompiled_pieces(backend: str) -> None:
    net, (x, _) = chain(3, nn.Dropout(0.5), correction="difference", coarse="fine"), data()
    fast = net.capture((x,), device=Rehearsal(), compile_pieces={"backend": backend})
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(fast(x))
        torch.manual_seed(seed)
        torch.testing.assert_close(found[-1], net(x).detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[0], found[1]) or net.training  # statistics move
    assert not torch.equal(found[0], found[2])


@pytest.mark.rest
@pytest.mark.parametrize("training", [True, False])
def test_answers_are_those_of_calls(training: bool) -> None:
    net, (x, _), counter = chain(9).train(training), data(), CompileCounter()
    twin = copy.deepcopy(net)
    fast = net.capture((x,), device=Rehearsal("latest"), compile_pieces={"backend": counter})
    assert counter.frame_count == len(fast.pieces) <= 12  # of 25 propagators
    for k in range(3):
        assert torch.equal(fast(x + k), twin(x + k))
        same(net, twin)


@pytest.mark.rest
def test_autocast_shapes_and_weights_are_followed() -> None:
    net = chain(3).float().eval()
    x, counter = data()[0].float(), CompileCounter()
    fast = net.capture(device=Rehearsal(), compile_pieces={"backend": counter})
    for k in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), net(x))
        for rows in (x, x[:2]):
            assert torch.equal(fast(rows), net(rows))
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(0.9)
        if k == 1:
            captured = counter.frame_count
    assert counter.frame_count == captured
    assert fast.cache.captures == 3
    # A weight elsewhere is captured anew, of the same code.
    net.get_submodule("0.linear").weight = nn.Parameter(torch.ones(6, 6))
    assert torch.equal(fast(x), net(x))
    assert fast.cache.captures == 4
    assert counter.frame_count == captured


@pytest.mark.rest
def test_code_that_no_capture_has_used_for_long_is_dropped() -> None:
    net, (x, _) = chain(2).eval(), data()
    fast = net.capture(device=Rehearsal(), graphs=1, compile_pieces={"backend": "eager"})
    fast.prepare(x)
    before = len(fast.pieces)
    for batch in (2, 3, 4):  # of this capture, and of the one before, which may come again
        fast.prepare(x[:batch])
        assert len(fast.pieces) == 2 * before


class Breaking(nn.Module):
    """What the compiler cannot take, and a graph can."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x


class Counting(nn.Module):
    """What differs at every call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 0.0 * self.calls


def hooked(net: ParallelNetwork) -> None:
    net.get_submodule("1.linear").register_forward_hook(lambda _m, _a, output: 2 * output)


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        (Breaking(), None, "subnetwork 2 .* runs uncompiled"),
        pytest.param(Counting(), None, "compiled at every call", marks=pytest.mark.rest),
        (nn.Identity(), hooked, "have hooks"),
    ],
)
def test_what_cannot_be_compiled_says_so_and_runs(part: nn.Module, change: Any, why: str) -> None:
    torch.manual_seed(0)
    layers = [StatisticsBlock(), StatisticsBlock(part), StatisticsBlock(), nn.Linear(6, 3)]
    model, (x, _) = nn.Sequential(*layers).double().eval(), data()
    names = ["0", "1"]
    net = pararealize(
        model, 3, example_inputs=(x,), interfaces=names, leaf_modules=["1.parts.0"]
    ).eval()
    if change is not None:
        change(net)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CaptureWarning)
        fast = net.capture((x,), device=Rehearsal(), compile_pieces={"backend": "eager"})
    texts = [str(each.message) for each in told if each.category is CaptureWarning]
    assert len(texts) == 1
    with pytest.warns(CaptureWarning, match=why):
        warnings.warn(texts[0], CaptureWarning, stacklevel=1)
    assert torch.equal(fast(x + 1), net(x + 1))


@pytest.mark.rest
@pytest.mark.parametrize(
    "options",
    [
        {"batched": "never"},
        {"batched": "never", "storage": "intervals"},
        {"levels": 3, "coarsening": (2, 2), "batched": "never"},
        {"coarse": "mean", "batched": "never"},
    ],
)
def test_multigrid_in_compiled_pieces(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = odenet(16, width=6, in_features=5, classes=3).double(), torch.randn(7, 5).double()
    method = MGRIT(**{"coarsening": 4, "coarse": "rediscretized", **options})
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    plain, y = copy.deepcopy(net), torch.randn(7, 3).double()
    steps = [
        each.capture_step(
            mse, (x, y), device=Rehearsal("latest"), compile_pieces=each is net and how
        )
        for each, how in ((net, {"backend": "eager"}), (plain, False))
    ]
    assert torch.equal(steps[0](2 * x, y), steps[1](2 * x, y))
    same(net, plain, gradients=True)


@pytest.mark.rest
def test_slices_that_are_one_batch_say_that_they_are_not_compiled() -> None:
    torch.manual_seed(0)
    model, x = odenet(16, width=6, in_features=5, classes=3).double(), torch.randn(7, 5).double()
    method = MGRIT(coarsening=4, coarse="rediscretized", batched="always")
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    with pytest.warns(CaptureWarning, match="batched="):
        fast = net.capture((x,), device=Rehearsal(), compile_pieces={"backend": "eager"})
    assert torch.equal(fast(2 * x), net(2 * x))


@pytest.mark.rest
def test_the_host_decides_between_compiled_stages() -> None:
    net = chain(3, iterations=1, tolerance=1e-12).eval()
    twin, (x, _), counter = copy.deepcopy(net), data(), CompileCounter()
    fast = net.capture((x,), device=Rehearsal(), compile_pieces={"backend": counter})
    assert counter.frame_count
    for k in range(3):
        assert torch.equal(fast(x * (k + 1)), twin(x * (k + 1)))


@pytest.mark.rest
def test_a_serial_module_is_compiled_whole() -> None:
    torch.manual_seed(0)
    model, counter = nn.Sequential(StatisticsBlock(), StatisticsBlock()).double(), CompileCounter()
    twin, (x, _) = copy.deepcopy(model), data()
    fast = capture(model, (x,), device=Rehearsal(), compile_pieces={"backend": counter})
    assert counter.frame_count == 1
    assert torch.equal(fast(x + 1), twin(x + 1))
    same(model, twin)
