"""Lanes: every operation on a stream begins after what made the tensors that it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pararealize import MGRIT, ParallelNetwork, pararealize
from pararealize.models import implicit_gru, odenet
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.multigrid.solve import Solve
from pararealize.runtime.multigrid.tape import Tape

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: The lane of what is called outside all others.
NOW = 0


class Clocks:
    """Streams that tell how much of every lane has surely run, in operations."""

    def __init__(self) -> None:
        self.lanes = [NOW]
        self.known: dict[int, Counter[int]] = {NOW: Counter()}
        self.depth: Counter[int] = Counter()  # operations in a row up to here
        self.kept: list[Tensor] = []

    @property
    def lane(self) -> int:
        return self.lanes[-1]

    @contextmanager
    def on(self, lane: int) -> Iterator[None]:
        self.known.setdefault(lane, Counter())
        self.lanes.append(lane)
        try:
            yield
        finally:
            self.lanes.pop()

    def mark(self) -> Any:
        return Counter(self.known[self.lane]), self.depth[self.lane]

    def wait(self, event: Any) -> None:
        known, depth = event
        self.known[self.lane] |= known
        self.depth[self.lane] = max(self.depth[self.lane], depth)

    def keep(self, tensor: Tensor) -> None:
        self.kept.append(tensor)

    def step(self) -> tuple[int, int]:
        """An operation on the lane in force."""
        self.known[self.lane][self.lane] += 1
        self.depth[self.lane] += 1
        return self.lane, self.known[self.lane][self.lane]


class Races(TorchDispatchMode):
    """Notes which operation made what, and which ones read it too early."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self.clocks, self.made, self.count = clocks, dict[int, tuple[int, int]](), 0
        self.early: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs or {})):
            lane, number = self.made.get(memory(tensor), (NOW, 0))
            if self.clocks.known[self.clocks.lane][lane] < number:
                self.early.append(f"{func} on lane {self.clocks.lane} reads of lane {lane}")
        result = func(*args, **(kwargs or {}))
        step, self.count = self.clocks.step(), self.count + 1
        read = {memory(tensor) for tensor in tensors((args, kwargs or {}))}
        for tensor in tensors(result):
            # A view makes nothing new.
            if func._schema.is_mutable or memory(tensor) not in read:
                self.made[memory(tensor)] = step
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def network(layers: int, n: int, **options: Any) -> tuple[ParallelNetwork, Tensor]:
    torch.manual_seed(0)
    model = odenet(layers, width=6, in_features=5, classes=3).double()
    x = torch.randn(7, 5).double()
    method = MGRIT(**{"coarsening": 3, "coarse": "rediscretized", **options})
    return pararealize(model, n, method=method, example_inputs=(x,)), x


class Driven(nn.Module):
    """Steps with weights of their own, each of which sees a frame of its own, read by a layer.

    What is computed of the frames without a layer, every subnetwork would compute for itself.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(count)])
        self.frames = nn.ModuleList([nn.Linear(6, 6) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for t, layer in enumerate(self.layers):
            state = state + 0.1 * torch.tanh(layer(state) + torch.tanh(self.frames[t](x[:, t])))
        return state


def recurrent(features: nn.Module, batched: str) -> tuple[ParallelNetwork, Tensor]:
    """Whose slices see what ``features`` makes of their frames."""
    torch.manual_seed(0)
    model = implicit_gru(16, width=6, dt=0.2, features=features).double()
    x = torch.randn(5, 16, 6).double()
    method = MGRIT(coarsening=4, coarse="rediscretized", batched=batched)  # type: ignore[arg-type]
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    assert "inputs.3" in {task.propagator for task in net.schedule}
    return net, x


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    output = net(x)
    output.square().sum().backward()
    return [output.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    "options",
    [
        {"batched": "never"},
        {"batched": "always"},
        {"batched": "never", "levels": 3, "coarsening": (2, 2), "relaxation": "FCF"},
        {"batched": "never", "forward_cycles": 2, "backward_cycles": 2, "guess": "full"},
        {"batched": "always", "forward_cycles": 2, "relaxation": "FCF"},
    ],
)
def test_nothing_is_read_before_it_is_made(options: dict[str, Any]) -> None:
    assert_ordered(*network(14, 4, **options))  # 4, 4, 3 and 3 layers: no batch of all of them


@pytest.mark.parametrize("batched", ["always", "never"])
def test_nor_are_features(batched: str) -> None:
    torch.manual_seed(0)
    model, x = Driven(16).double(), torch.randn(5, 16, 6).double()
    method = MGRIT(coarsening=4, coarse="rediscretized", batched=batched)  # type: ignore[arg-type]
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    assert "inputs.3" in {task.propagator for task in net.schedule}
    assert_ordered(net, x)


def assert_ordered(net: ParallelNetwork, x: Tensor) -> None:
    assert net.solver is not None
    with net.solver.fixed():
        wanted = step(net, x)
    clocks = Clocks()
    races = Races(clocks)
    with races, net.solver.fixed(Lanes(clocks)):
        found = step(net, x)
        found = step(net, x)  # events of the first step mean nothing in the second
    assert races.early == []
    assert len(clocks.known) > 2
    assert clocks.kept
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_subnetworks_run_side_by_side() -> None:
    net, x = network(32, 4, batched="never", coarsening=8)
    assert net.solver is not None
    depth = []
    for lanes in (False, True):
        clocks = Clocks()
        races = Races(clocks)
        with races, net.solver.fixed(Lanes(clocks) if lanes else None):
            step(net, x)
        depth.append(clocks.depth[NOW])
        assert races.count >= depth[-1]
    assert set(clocks.known) == {NOW, 1, 2, 3, 4}
    # Slices 2 to 4 from guesses, then again: not all in a row.
    assert depth[1] < 0.6 * depth[0]


@pytest.mark.parametrize("kind", ["storage", "weights", "features"])
def test_what_is_shared_stays_on_one_lane(kind: str) -> None:
    """Gradients of weights of two slices are added; states made again are read by others."""
    if kind == "storage":
        net, x = network(12, 4, batched="never", storage="points")
    elif kind == "features":
        net, x = recurrent(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), "never")
    else:
        torch.manual_seed(0)
        model = odenet(12, width=6, in_features=5, classes=3).double()
        model.steps[7].linear = model.steps[1].linear
        x = torch.randn(7, 5).double()
        method = MGRIT(coarsening=3, coarse="rediscretized", batched="never")
        net = pararealize(model, 4, method=method, example_inputs=(x,))
    clocks = Clocks()
    assert net.solver is not None
    with net.solver.fixed(Lanes(clocks)):
        step(net, x)
    assert set(clocks.known) == {NOW}


def test_one_lane_does_nothing() -> None:
    solved = Solve(None, None, {}, {}, Tape(), torch.autocast)
    with solved.forked(), solved.lane(None, (), 1):
        pass
