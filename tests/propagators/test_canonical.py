"""Pieces of one structure have one text, whatever the names and weights of their layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.propagators.canonical import Canonical, canonical, parts_in, tensors_read
from pararealize.propagators.propagator import ZeroPreserving

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Block(nn.Module):
    """Reads a weight and a flag besides calling layers, and may count in a buffer."""

    count: Tensor

    def __init__(self, *, counts: bool = False, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6, bias=bias), nn.LayerNorm(6, eps=eps)
        self.scale, self.counts = nn.Parameter(torch.ones(6)), counts
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.counts:
            self.count.add_(1)
        y = self.norm(self.linear(x)) * self.scale
        return x + nn.functional.dropout(y, 0.5, self.training)


def network(*changed: Block) -> ParallelNetwork:
    torch.manual_seed(0)
    blocks = [Block(), Block(), *changed]
    x = torch.randn(3, 6)
    names = [str(i) for i in range(len(blocks) - 1)]
    method = Parareal(coarse="fine", correction="difference")
    return pararealize(
        nn.Sequential(*blocks), len(blocks), method=method, example_inputs=(x,), interfaces=names
    )


def pieces(net: ParallelNetwork) -> list[Canonical]:
    return [canonical(net.propagators[f"fine.{j}"]) for j in range(1, net.plan.n + 1)]


def called(piece: Canonical, x: Tensor) -> Any:
    return piece.function()(piece.view, *piece.prepared((x,)), *piece.read())


def test_structure_is_all_but_names_and_numbers() -> None:
    net = network(Block(eps=1e-3), Block(bias=False), Block(counts=True))
    first, second, *others = (piece.structure for piece in pieces(net))
    assert first == second
    assert len({first, *others}) == 4
    evaluates = pieces(net.eval())[0].structure
    assert evaluates != first  # layers know their mode
    net.train().get_submodule("1.norm").eval()
    assert pieces(net)[1].structure != first


def test_pieces_do_what_propagators_do_today() -> None:
    net, x = network(Block(counts=True)), torch.randn(3, 6)
    for mode in (False, True):
        net.train(mode)
        for j, piece in enumerate(pieces(net), 1):
            for _ in range(2):
                torch.manual_seed(1)
                found = called(piece, x)
                count = net.get_buffer("2.count").clone()
                torch.manual_seed(1)
                assert torch.equal(found, net.propagators[f"fine.{j}"].propagate(x))
                moved = net.get_buffer("2.count") - count
                assert bool(moved) is (j == 3)
                with torch.no_grad():
                    net.get_parameter("0.scale").mul_(2)


def test_the_text_of_one_piece_runs_another() -> None:
    net, x = network().eval(), torch.randn(3, 6)
    one, other = pieces(net)
    nn.init.normal_(net.get_parameter("1.scale"))
    found = one.function()(other.view, x, *other.read())
    assert torch.equal(found, net.propagators["fine.2"](x))
    assert len(tensors_read(other.view)) == 4


def test_each_function_has_code_of_its_own() -> None:
    piece = pieces(network())[0]
    codes = [piece.function().__code__ for _ in range(3)]
    assert len(set(map(id, codes))) == 3


def test_inner_propagators_are_found_once() -> None:
    x = torch.randn(3, 6)
    method = Parareal(coarse="fine", iterations=2)  # F_j(r) = G_j(r) - G_j(0), G_j = Φ_j
    net = pararealize(
        nn.Sequential(*(Block() for _ in range(4))), 2, method=method, example_inputs=(x,)
    )
    found = parts_in(net.propagators.values())
    labels = [part.label for part in found if part.label.startswith("subnetwork")]
    assert len(labels) == len(set(labels)) == 2
    assert len(found) == len(set(found))
    around = ZeroPreserving(net.propagators["fine.1"], shared=True)
    assert parts_in([around]) == [net.propagators["fine.1"]]
