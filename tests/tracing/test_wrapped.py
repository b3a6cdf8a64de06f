"""Networks and inputs of other kinds: wrapped, scripted, lazy, sparse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, load, pararealize
from pararealize.errors import TraceError

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support"),
    pytest.mark.filterwarnings("ignore:Sparse CSC tensor support"),
]
EXACT = Parareal(coarse="fine", correction="difference")


class Counting(Block):
    """Has a buffer that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.fc(x) * self.count


def chain_of(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(Block(), Block(), *middle, Block(), Block())


def compiled(model: nn.Module) -> nn.Module:
    found: Any = torch.compile(model, backend="eager")
    return found


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, compiled, lambda m: compiled(nn.DataParallel(m))]
)
def test_wrapped_networks_are_compiled_as_what_is_inside(wrap: Any, tmp_path: Path) -> None:
    model, x = chain_of(), torch.randn(3, 4)
    net = pararealize(wrap(model), 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net(x), model(x))
    assert set(model.state_dict()) <= set(net.state_dict())
    assert type(net.to_serial()) is nn.Sequential
    net.save(tmp_path / "net")
    assert torch.equal(load(tmp_path / "net", wrap(chain_of()))(x), model(x))


@pytest.mark.parametrize("kind", [Block, Counting])
@pytest.mark.parametrize("script", [torch.jit.script, compiled], ids=["script", "compile"])
def test_parts_that_are_compiled_already_are_called_whole(script: Any, kind: Any) -> None:
    model, x = chain_of(script(kind()), script(kind())), torch.randn(3, 4)
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert set(net.plan.tracing.found) == {"2", "3"}
    assert not net.plan.tracing.unverified
    for mode in (True, False):
        for _ in range(2):
            assert torch.equal(net.train(mode)(x), model.train(mode)(x))
    net(x).sum().backward()
    model(x).sum().backward()
    own = dict(net.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(own[name].grad, parameter.grad)


def test_a_traced_part_is_called_whole() -> None:
    x = torch.randn(3, 4)
    model = chain_of(torch.jit.trace(Block(), x))
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net(x), model(x))


def test_a_scripted_network_is_refused() -> None:
    with pytest.raises(TraceError, match=r"before torch\.jit\.script\(model\)"):
        pararealize(torch.jit.script(chain_of()), 2)


@pytest.mark.parametrize("lazy", [nn.LazyLinear(4), nn.LazyBatchNorm1d()])
def test_lazy_modules_are_to_be_called_first(lazy: nn.Module) -> None:
    model, x = chain_of(lazy), torch.randn(3, 4)
    with pytest.raises(TraceError, match=r"'2\.\w+' has no shape yet.*: model\(x\)"):
        pararealize(model, 2, method=EXACT, example_inputs=(x,))
    with torch.no_grad():
        model(x)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net.eval()(x), model.eval()(x))


class Graph(nn.Module):
    """Convolutions over a graph with a sparse adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(torch.sparse.mm(adjacency, layer(x)))
        return x


class Operated(Graph):
    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(adjacency @ layer(x))
        return x


@pytest.mark.parametrize("kind", [Graph, Operated])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_inputs(kind: Any, layout: torch.layout) -> None:
    model, x = kind(), torch.randn(5, 4)
    adjacency = (torch.rand(5, 5) > 0.5).float().to_sparse(layout=layout)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x, adjacency))
    assert torch.equal(net(x, adjacency), model(x, adjacency))
    other = (torch.rand(5, 5) > 0.2).float().to_sparse(layout=layout)
    assert torch.equal(net(x, other), model(x, other))
