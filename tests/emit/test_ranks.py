"""Ranks: every rank holds the modules that it runs, and what it reads of others."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from local_ranks import all_of
from local_transport import LocalTransport
from pararealize import Parareal, load, pararealize
from pararealize.emit.ranks import strip

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

TOKENS, WIDTH = 7, 4
#: Shares of a gradient may be added in another order.
ROUNDING = 1e-12
EXACT = Parareal(coarse="fine", correction="difference")


class Reading(nn.Module):
    """Layers in a row, of which one end reads a weight of the other end's module."""

    def __init__(self, read: Callable[[nn.Module, Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.read = read

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.read(self, self.embedding(tokens), True)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return self.read(self, self.norm(x), False)


READS: dict[str, Callable[[nn.Module, Tensor, bool], Tensor]] = {
    "a head that is the embedding": lambda net, x, first: (
        x if first else functional.linear(x, net.embedding.weight)
    ),
    "a scale of the last layer": lambda net, x, first: x * net.norm.weight if first else x,
    "a weight of a layer in the middle": lambda net, x, first: (
        x if first else x + net.layers[0].weight.mean(0)
    ),
}


def step(net: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    output = net(tokens)
    output.square().sum().backward()
    own = {name: p.grad for name, p in net.named_parameters() if not name.startswith("guess.")}
    return {"output": output.detach(), **own}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_weight_that_another_rank_reads_is_there(name: str, ranks: int) -> None:
    torch.manual_seed(0)
    model = Reading(READS[name]).double()
    tokens = torch.arange(6).reshape(2, 3)
    models = [copy.deepcopy(model) for _ in range(ranks)]

    def work(transport: LocalTransport) -> dict[str, Tensor]:
        own = models[transport.rank]
        net = pararealize(own, ranks, method=EXACT, example_inputs=(tokens,), comm=transport)
        return step(net, tokens)

    wanted = step(model, tokens)
    found = all_of(ranks, work)
    assert {key for steps in found for key in steps} == set(wanted)
    for steps in found:
        for key, value in steps.items():
            torch.testing.assert_close(value, wanted[key], rtol=ROUNDING, atol=ROUNDING)


def test_of_a_module_that_another_rank_runs_what_is_read_stays() -> None:
    found = {"embedding": {0}, "embedding.weight": {1}, "norm": {1}, "norm.weight": {0}}
    held = {}
    for rank in range(2):
        model = Reading(READS["a scale of the last layer"])
        del model.layers
        strip(model, found, rank)
        held[rank] = sorted(model.state_dict())
    assert held == {
        0: ["embedding.weight", "norm.weight"],
        1: ["embedding.weight", "norm.bias", "norm.weight"],
    }


class Twice(nn.Module):
    """Layers in a row, of which the last ones lie there under other names as well."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(7))
        if kind == "used twice":
            self.layers.append(self.layers[5])
        elif kind == "in a list of its own":
            self.last = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "two": self.layers[5]})
        else:
            self.spare = nn.Linear(WIDTH, WIDTH)
            self.spare.weight = self.layers[6].weight
            self.layers[4].bias = self.layers[6].bias

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


def moved(net: nn.Module, x: Tensor) -> None:
    net(x).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()


@pytest.mark.parametrize("kind", ["used twice", "in a list of its own", "of a layer not run"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_what_has_two_names_is_trained_under_both(kind: str, ranks: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Twice(kind).double(), torch.randn(3, WIDTH, dtype=torch.float64)
    models = [copy.deepcopy(model) for _ in range(ranks)]

    def work(transport: LocalTransport) -> list[dict[str, Tensor]]:
        own = models[transport.rank]
        net = pararealize(own, 3, method=EXACT, example_inputs=(x,), comm=transport)
        moved(net, x)
        net.save(tmp_path / "net")
        return [net.to_serial().state_dict(), net.state_dict()]

    moved(model, x)
    wanted = model.state_dict()
    found = all_of(ranks, work)
    loaded = load(tmp_path / "net", Twice(kind).double()).to_serial().state_dict()
    for whole in (*(whole for whole, _ in found), loaded):
        assert whole.keys() == wanted.keys()
        for key, value in whole.items():
            torch.testing.assert_close(value, wanted[key], rtol=ROUNDING, atol=ROUNDING)
    for _, own in found:
        for key in own.keys() & wanted.keys():
            torch.testing.assert_close(own[key], wanted[key], rtol=ROUNDING, atol=ROUNDING)
