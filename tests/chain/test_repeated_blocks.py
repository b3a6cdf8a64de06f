"""Blocks that repeat: pre- and post-activation, of two residual layers, scaled, in time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from networks import chain_of
from pararealize import MGRIT, pararealize
from pararealize.chain.repeated_blocks import most_repeats, repeated_blocks
from pararealize.models import implicit_gru

#: The summed residuals of layers whose steps are h = 0.1 differ from the layers by O(h²).
SMALL = 2e-2


class PostActivation(nn.Module):
    """relu(x + φ(x)), as in the first ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + 0.1 * self.map(x))


class PreActivation(PostActivation):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.map(torch.relu(x))


class Twice(nn.Module):
    """Two residual layers a block, as attention and perceptron, the second scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.1 * torch.tanh(self.first(x))
        return x + self.scale * torch.tanh(self.second(x))


class Plain(PostActivation):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.map(x))


class Net(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def network(kind: type[nn.Module], count: int = 6) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), *(kind() for _ in range(count)), nn.Linear(4, 2)]
    return Net(layers).double(), torch.randn(5, 3).double()


@pytest.mark.parametrize(
    ("kind", "period", "blocks"), [(PostActivation, 2, 6), (PreActivation, 1, 6), (Twice, 2, 6)]
)
def test_blocks_that_repeat(kind: type[nn.Module], period: int, blocks: int) -> None:
    chain = chain_of(*network(kind))
    (run,) = repeated_blocks(chain, 0, len(chain.layers))
    assert (run.period, run.blocks) == (period, blocks)
    assert most_repeats(chain, run.start + period, run.stop) == blocks - 1
    assert [len(interval) for interval in run.intervals(4)] == [4, 2]


def test_layers_without_a_residual_do_not_repeat() -> None:
    chain = chain_of(*network(Plain))
    assert repeated_blocks(chain, 0, len(chain.layers)) == []
    assert most_repeats(chain, 0, len(chain.layers)) == 1


@pytest.mark.parametrize("coarse", ["rediscretized", "mean", "sampled", "summed", "identity"])
@pytest.mark.parametrize("kind", [PostActivation, PreActivation, Twice])
def test_coarse_propagators_of_every_kind_of_block(kind: type[nn.Module], coarse: str) -> None:
    model, x = network(kind, 8)
    net = pararealize(model, 2, method=MGRIT(coarsening=4, coarse=coarse), example_inputs=(x,))
    wanted, found = model(x), net(x)
    error = float((found - wanted).norm() / wanted.norm())
    assert error < {"summed": SMALL}.get(coarse, 0.5)
    assert {piece.coarse for piece in net.plan.pieces} == {coarse}


def test_steps_in_time_span_an_interval() -> None:
    net = pararealize(
        implicit_gru(24, width=4, dt=0.1),
        3,
        method=MGRIT(coarsening=4, coarse="rediscretized"),
        example_inputs=(torch.randn(2, 24, 6),),
    )
    calls: list[float] = []
    net.step.register_forward_hook(
        lambda _m, _args, kwargs, _out: calls.append(kwargs.get("span", 1.0)), with_kwargs=True
    )
    with torch.no_grad():
        net(torch.randn(2, 24, 6))
    assert calls.count(1.0) >= 24  # every time step of the fine level
    assert max(calls) == 4.0
