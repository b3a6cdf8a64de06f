"""Captured steps: a fixed number of cycles, and what a graph is asked to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, pararealize
from pararealize.errors import MethodError, ShapeError
from pararealize.models import odenet
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.runners.capture import WARM_UP, Captured, CudaGraph

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Rerun:
    """A graph that runs the step again, and notes what it was asked."""

    def __init__(self, lanes: Lanes | None = None) -> None:
        self.asked: list[str] = []
        self.lanes = lanes

    def warm(self, step: Callable[[], Tensor]) -> None:
        self.asked.append("warm")
        step()

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        self.asked.append("capture")
        self.step, self.result = step, step()
        return self.result

    def replay(self) -> None:
        self.asked.append("replay")
        self.result.copy_(self.step())


def network(**options: object) -> tuple[ParallelNetwork, Tensor, Tensor]:
    torch.manual_seed(0)
    model = odenet(16, width=6, in_features=5, classes=3).double()
    x, y = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    method = MGRIT(coarsening=4, coarse="rediscretized", **options)  # type: ignore[arg-type]
    return pararealize(model, 4, method=method, example_inputs=(x,)), x, y


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def test_replays_give_what_calls_give() -> None:
    net, x, y = network(batched="always")
    graph = Rerun()
    step = Captured(net, nn.functional.mse_loss, [x], [y], graph)
    assert graph.asked == ["warm"] * WARM_UP + ["capture"]
    found, made = step(2 * x, y + 1), gradients(net)
    assert graph.asked[-1] == "replay"
    net.zero_grad()
    loss = nn.functional.mse_loss(net(2 * x), y + 1)
    loss.backward()
    torch.testing.assert_close(found, loss.detach(), rtol=0, atol=0)
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(made[name], gradient, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::pararealize.DivergenceWarning")
def test_fixed_cycles_ask_no_residual_and_say_so() -> None:
    net, x, _ = network(tolerance=1e-14)
    serial = net(x)
    assert net.report.extra_cycles > 0
    before = net.report.extra_cycles
    assert net.solver is not None
    with net.solver.fixed():
        output = net(x)
        output.sum().backward()
    assert net.report.extra_cycles == before
    assert net.report.jumps == net.report.adjoints == ()
    assert "looked at no residual" in str(net.report)
    assert not torch.equal(output, serial)  # one cycle is not enough for the tolerance
    net(x)
    assert "looked at no residual" not in str(net.report)


def test_other_shapes_are_refused() -> None:
    net, x, y = network()
    step = Captured(net, nn.functional.mse_loss, [x], [y], Rerun())
    with pytest.raises(ShapeError, match="captured step takes tensors"):
        step(x[:3], y[:3])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_sentence_says_so() -> None:
    net, x, y = network()
    with pytest.raises(MethodError, match="need a CUDA device"):
        Captured(net, nn.functional.mse_loss, [x], [y])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("batched", ["always", "never"])  # "never": on parallel streams
def test_a_cuda_graph_gives_what_calls_give(batched: str) -> None:
    net, x, y = network(batched=batched)
    net, x, y = net.cuda(), x.cuda(), y.cuda()
    step = Captured(net, nn.functional.mse_loss, [x], [y], CudaGraph())
    found, made = step(2 * x, y + 1).clone(), gradients(net)
    net.zero_grad()
    loss = nn.functional.mse_loss(net(2 * x), y + 1)
    loss.backward()
    torch.testing.assert_close(found, loss.detach())
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(made[name], gradient)
