"""Guess and coarse networks take every size that the network takes; batches cost nothing."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.network import ParallelNetwork
from pararealize.propagators.registered import Registered

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")
OWN = Parareal()


class Skipping(nn.Module):
    """A U-Net of one level, whose inputs are padded to a multiple of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.mid = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.up = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        x = functional.pad(x, (0, -columns % 4, 0, -rows % 4))
        skip = self.down(x)
        deep = functional.interpolate(self.mid(skip), size=skip.shape[-2:])
        return self.up(torch.cat([skip, deep], 1))[..., :rows, :columns]


class Causal(nn.Module):
    """Convolutions over time that see nothing later."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**i) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(functional.pad(x, (2 ** (i + 1), 0))))
        return x


class Crossed(nn.Module):
    """Maps over the channels of a sequence, then over its features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x.transpose(1, 2))).transpose(1, 2)
        return x


def valid() -> nn.Module:
    kinds = [(3, 8, 3, 1), (8, 8, 3, 2), (8, 12, 2, 2), (12, 12, 2, 1)]
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, k, s), nn.Tanh()) for a, b, k, s in kinds))


def shuffled() -> nn.Module:
    body = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(3))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), *body, nn.Conv2d(8, 12, 1), nn.PixelShuffle(2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "skips": (Skipping, (2, 3, 8, 8), (2, 3, 11, 13)),
    "causal": (Causal, (2, 4, 12), (2, 4, 15)),
    "crossed": (Crossed, (2, 6, 5), (3, 6, 8)),
    "valid": (valid, (2, 3, 15, 15), (2, 3, 20, 23)),
    "shuffled": (shuffled, (2, 3, 9, 9), (1, 3, 14, 8)),
}


def compiled(name: str, method: Parareal) -> tuple[nn.Module, ParallelNetwork, Tensor]:
    torch.manual_seed(0)
    make, shape, other = NETWORKS[name]
    model = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    return model, pararealize(model, 3, method=method, example_inputs=(x,)), torch.randn(other)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [EXACT, OWN], ids=["exact", "own"])
def test_other_sizes(name: str, method: Parareal) -> None:
    model, net, x = compiled(name, method)
    x = x.double().requires_grad_()
    wanted, found = model(x), net(x)
    assert found.shape == wanted.shape
    if method is EXACT:  # the same operations on the same values
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_take_other_sizes(copied: Callable[[ParallelNetwork], ParallelNetwork]) -> None:
    model, net, x = compiled("valid", EXACT)
    x = x.double()
    net(x)
    torch.testing.assert_close(copied(net)(x), model(x), rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1)), min_size=3, max_size=4
    ),
    size=st.integers(12, 18),
    other=st.integers(9, 26),
    axes=st.integers(1, 2),
)
def test_any_convolutions_at_any_size(
    layers: list[tuple[int, int, int]], size: int, other: int, axes: int
) -> None:
    torch.manual_seed(0)
    convolution = (nn.Conv1d, nn.Conv2d)[axes - 1]
    widths = [2, 4, 4, 6, 6]
    parts = [
        nn.Sequential(convolution(a, b, k, stride, padding), nn.Tanh())
        for a, b, (k, stride, padding) in zip(widths, widths[1:], layers, strict=False)
    ]
    model = nn.Sequential(*parts).double()
    x, y = (torch.randn(2, 2, *[s] * axes, dtype=torch.float64) for s in (size, other))
    try:
        wanted = model(y)
    except RuntimeError:  # a size that is too small for the network
        return
    for method in (EXACT, OWN):
        found = pararealize(model, 2, method=method, example_inputs=(x,))(y)
        assert found.shape == wanted.shape
        if method is EXACT:
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_another_batch_costs_nothing() -> None:
    _, net, x = compiled("causal", OWN)
    parts = (getattr(part, "inner", part) for part in net.propagators.values())
    fits = [p.fitting for p in parts if isinstance(p, Registered) and p.fitting is not None]
    assert fits
    net(torch.randn(5, 4, 12).double())
    assert all(fit.twin._network is None for fit in fits)
    net(x.double())
    assert all(fit.twin._network is not None for fit in fits)
