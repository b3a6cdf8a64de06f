"""What only a CUDA device can show; and that a solver's cycles are fixed in a capture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, pararealize
from pararealize.errors import MethodError
from pararealize.models import odenet, resnet
from pararealize.runtime.capture import cuda
from pararealize.runtime.capture.cuda import GraphDraws, seed_of
from pararealize.runtime.effects.masks import Masks

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
mse = nn.functional.mse_loss


def solved(**options: Any) -> tuple[ParallelNetwork, Tensor, Tensor]:
    torch.manual_seed(0)
    model = odenet(16, width=6, in_features=5, classes=3).double()
    x, y = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    method = MGRIT(coarsening=4, coarse="rediscretized", **options)
    return pararealize(model, 4, method=method, example_inputs=(x,)), x, y


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore::pararealize.DivergenceWarning")
def test_fixed_cycles_ask_no_residual_and_say_so() -> None:
    net, x, _ = solved(tolerance=1e-14)
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


def test_seeds_of_steps_and_propagators_differ_and_come_again() -> None:
    found = {seed_of(s, o, k) for s in range(3) for o in range(0, 40, 4) for k in range(4)}
    assert len(found) == 120
    assert all(0 <= seed < 2**63 for seed in found)
    assert seed_of(1, 4, 2) == seed_of(1, 4, 2)


class FakeGenerator:
    """A generator of a CUDA device, as far as graphs need it: a state that can be exchanged."""

    def __init__(self, seed: int = 0) -> None:
        self.state = {"seed": seed, "offset": 0}

    def initial_seed(self) -> int:
        return self.state["seed"]

    def get_offset(self) -> int:
        return self.state["offset"]

    def set_offset(self, offset: int) -> None:
        self.state["offset"] = offset

    def manual_seed(self, seed: int) -> None:
        self.state |= {"seed": seed, "offset": 0}

    def clone_state(self) -> FakeGenerator:
        twin = FakeGenerator()
        twin.state = dict(self.state)
        return twin

    def graphsafe_get_state(self) -> FakeGenerator:
        twin = FakeGenerator()
        twin.state = self.state
        return twin

    def graphsafe_set_state(self, other: FakeGenerator) -> None:
        self.state = other.state

    def draw(self) -> tuple[int, int]:
        self.state["offset"] += 4
        return self.state["seed"], self.state["offset"]


def test_a_graph_has_a_generator_for_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = FakeGenerator(7)
    monkeypatch.setattr(cuda, "_generator", lambda: generator)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: len(steps) > 1)
    draws, steps = GraphDraws(), list[list[tuple[int, int]]]()
    one, other = Masks(own_stream=False), Masks(own_stream=True)
    main = generator.state
    for _ in range(3):
        draws.begin()
        found = []
        for masks in (one, other, one):
            with draws.drawn(masks, (), True):
                found.append(generator.draw())
        steps.append(found)
        assert generator.state is main
    assert len(draws.states) == 3
    # The first step finds out which evaluations there are; from then on masks are kept.
    assert all(a == c != b for a, b, c in steps[1:])
    assert steps[1][0] != steps[2][0]
    with (
        pytest.raises(MethodError, match="evaluated more often"),
        draws.drawn(other, (), True),
        draws.drawn(other, (), True),
    ):
        pass


@on_cuda
@pytest.mark.parametrize("batched", ["always", "never"])  # "never": on parallel streams
def test_a_step_of_multigrid_gives_what_calls_give(batched: str) -> None:
    net, x, y = solved(batched=batched)
    net, x, y = net.cuda(), x.cuda(), y.cuda()
    twin = copy.deepcopy(net)
    step = net.capture_step(mse, (x, y))
    found = step(2 * x, y + 1).clone()
    wanted = mse(twin(2 * x), y + 1)
    wanted.backward()
    torch.testing.assert_close(found, wanted.detach())
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(net)[name], gradient)


@on_cuda
@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_replays_of_a_cuda_graph_answer_as_calls_do(correction: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model, method = resnet(20, width=4).double(), Parareal(correction=correction)
    net = pararealize(model, 3, method=method, example_inputs=(x,)).cuda()
    twin, x = copy.deepcopy(net), x.cuda()
    optimizers = [torch.optim.Adam(each.parameters(), capturable=True) for each in (net, twin)]
    step = net.capture_step(mse, optimizer=optimizers[0], max_norm=1.0)
    y = torch.randn(2, 10, dtype=torch.float64, device="cuda")
    for _ in range(4):
        found = step(x, y).clone()
        optimizers[1].zero_grad()
        wanted = mse(twin(x), y)
        wanted.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizers[1].step()
        torch.testing.assert_close(found, wanted.detach())
    fast = net.eval().capture((x,))
    torch.testing.assert_close(fast(x + 1), net(x + 1).detach())


@on_cuda
@pytest.mark.parametrize("mode", [True, "max-autotune-no-cudagraphs"])
def test_compiled_pieces_answer_and_train_as_calls_do(mode: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 16, 16).cuda(), torch.randn(2, 10).cuda()
    net = pararealize(resnet(20, width=4), 3, example_inputs=(x.cpu(),)).cuda()
    twin = copy.deepcopy(net)
    step = net.capture_step(mse, (x, y), compile_pieces=mode)
    for k in range(3):
        found = step(x + k, y).clone()
        twin.zero_grad()
        wanted = mse(twin(x + k), y)
        wanted.backward()
        # float32 in kernels that add up in another order
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
        for name, gradient in gradients(twin).items():
            torch.testing.assert_close(gradients(net)[name], gradient, rtol=1e-3, atol=1e-4)
    fast = net.eval().capture((x,), compile_pieces=mode)
    torch.testing.assert_close(fast(x + 1), net(x + 1).detach(), rtol=1e-4, atol=1e-4)


@on_cuda
def test_folded_answers_follow_captured_steps() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 10).double().cuda()
    net = pararealize(resnet(20, width=4).double(), 3, example_inputs=(x,)).cuda()
    x = x.cuda()
    fast = net.eval().capture((x,), fold_norms=True)
    step = net.capture_step(mse, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    for k in range(3):
        torch.testing.assert_close(fast(x + k), net(x + k).detach(), rtol=1e-10, atol=1e-10)
        net.train()
        step(x + k, y)  # replays write on weights and statistics
        net.eval()


@on_cuda
def test_pieces_on_devices_are_graphs() -> None:
    devices = [f"cuda:{k % torch.cuda.device_count()}" for k in range(3)]
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 10).double()
    net = pararealize(resnet(20, width=4).double(), 3, example_inputs=(x,), devices=devices)
    twin, x, y = copy.deepcopy(net), x.cuda(), y.to(devices[-1])
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in (net, twin)]
    step = net.capture_step(mse, (x, y), optimizer=optimizers[0], max_norm=1.0)
    for k in range(4):
        found = step(x + k, y).clone()
        twin.zero_grad()
        wanted = mse(twin(x + k), y)
        wanted.backward()
        twin.clip_grad_norm_(1.0)
        optimizers[1].step()
        torch.testing.assert_close(found, wanted.detach())
        torch.testing.assert_close(net.state_dict(), twin.state_dict())
    fast = net.eval().capture((x,))
    torch.testing.assert_close(fast(x + 1), net(x + 1).detach())


@on_cuda
def test_a_cuda_graph_draws_one_mask_a_step_and_new_ones_each_replay() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)) for _ in range(4)]
    x = torch.randn(4, 6).double()
    method = Parareal(correction="difference", coarse="fine", iterations=4)
    net = pararealize(nn.Sequential(*layers).double(), 2, method=method, example_inputs=(x,))
    fast = net.cuda().capture((x.cuda(),))
    one, other = fast(x.cuda()), fast(x.cuda())
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    first = fast(x.cuda())
    torch.manual_seed(1)
    assert torch.equal(first, fast(x.cuda()))
