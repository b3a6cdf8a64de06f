"""Pieces are moved to the leftmost like ones."""

import pytest
import torch
from torch import nn

from networks import TanhBlock, chain_of
from pararealize.coarse.kind import costs_of
from pararealize.coarse.registry import KINDS
from pararealize.coarse.setting import Setting
from pararealize.cut.leftmost import Leftmost
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Machine


@pytest.mark.parametrize(
    "text", ["aaaaaaa", "sababababh", "aabaabaab", "xaaaabbbbaaaac", "a", "ab"]
)
def test_what_is_moved_is_alike_and_leftmost(text: str) -> None:
    kinds = [ord(letter) for letter in text]
    for period in (1, 2, 3):
        move = Leftmost(kinds, [period] * len(kinds))
        for first in range(len(kinds)):
            for last in range(first + 1, len(kinds) + 1):
                a, b = move(first, last)
                assert b - a == last - first
                assert kinds[a:b] == kinds[first:last]
                assert a >= 1 or first == a == 0
                before = kinds[a - period : b - period] if a > period else []
                assert before != kinds[first:last]


class Pair(nn.Module):
    """Two residual layers, of which the second has another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.tanh(self.a(x))
        return x + torch.relu(self.b(x))


class Row(nn.Sequential):
    """Blocks one after another, of an input that is called x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    "blocks",
    [
        [TanhBlock() for _ in range(9)],
        [Pair() for _ in range(5)],
        [nn.Linear(4, 4), *(TanhBlock() for _ in range(4)), nn.Tanh(), *(Pair() for _ in range(3))],
    ],
    ids=["one kind", "two kinds", "mixed"],
)
def test_coarse_networks_cost_the_same_where_pieces_are_moved_to(blocks: list[nn.Module]) -> None:
    model = Row(*blocks)
    chain = chain_of(model, torch.zeros(2, 4))
    setting = Setting.of(chain, model, Machine(), Parareal())
    move = Leftmost(setting.kinds, [period for period, _ in chain.repeats])
    size, moved = len(chain.layers), 0
    for kind in (kind() for kind in KINDS):
        costs = {a: list(costs_of(kind, setting, a)) for a in range(size)}
        for first in range(size):
            for last in range(first + 1, size + 1):
                a, b = move(first, last)
                moved += a < first
                here, there = costs[first][last - first - 1], costs[a][b - a - 1]
                assert (here is None) == (there is None)
                assert here is None or here == pytest.approx(there)
    assert moved
