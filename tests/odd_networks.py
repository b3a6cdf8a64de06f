"""Networks whose states hold infinities, booleans, whole or complex numbers, or no axes at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

INF = float("inf")


class Odd(nn.Module):
    """Residual steps with something besides the state, by a function of both."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        self.out = nn.Linear(4, 3)
        self.how = forward
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)

    def step(self, i: int, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layers[i](x))


def steps(net: Odd, x: Tensor, more: Callable[[int, Tensor], Tensor]) -> Tensor:
    for i in range(1, 8):
        x = more(i, net.step(i, x))
    return net.out(x)


def sizes(net: Odd, x: Tensor) -> Tensor:
    batch, width = x.shape
    return steps(net, x, lambda _, y: y.reshape(batch, width))


def input_again(net: Odd, x: Tensor) -> Tensor:
    return steps(net, x, lambda i, y: y + x if i == 6 else y)


def scalar(net: Odd, x: Tensor) -> Any:
    early = net.step(0, x).square().mean()
    return steps(net, x, lambda _, y: y), {"early": [early]}


def sums(net: Odd, x: Tensor) -> Any:
    total = x.new_zeros(())
    for i in range(8):
        x = net.step(i, x)
        total = total + x.square().mean()
    return net.out(x), total


def truth(net: Odd, x: Tensor) -> Tensor:
    mask = net.layers[0](x) > 0
    return steps(net, x, lambda _, y: torch.where(mask, y, y / 2))


def indices(net: Odd, x: Tensor) -> Any:
    best = net.layers[0](x).argmax(-1)
    add = partial(functional.one_hot, num_classes=4)
    return steps(net, x, lambda _, y: y + add(best).to(y.dtype)), best


def counts(net: Odd, x: Tensor) -> Any:
    count = torch.zeros_like(x[:, 0]).long()
    for i in range(8):
        x = net.step(i, x)
        count = count + (x.sum(-1) > 0)
    return net.out(x), count


def one_count(net: Odd, x: Tensor) -> Any:
    count = net.layers[0](x).sum().round().long()
    return steps(net, x, lambda _, y: y + 0.01 * count), count


def bytes_(net: Odd, x: Tensor) -> Any:
    mask = (net.layers[0](x) > 0).to(torch.uint8)
    return steps(net, x, lambda _, y: y * (1 + mask.to(y.dtype)) / 2), mask


def complex_(net: Odd, x: Tensor) -> Any:
    spectrum = torch.fft.rfft(net.layers[0](x))
    return steps(net, x, lambda _, y: y + torch.fft.irfft(spectrum, 4) / 10), spectrum.abs()


def empty(net: Odd, x: Tensor) -> Any:
    nothing = net.layers[0](x)[:0]
    return steps(net, x, lambda _, y: y + nothing.sum()), nothing


def attention_mask(net: Odd, x: Tensor) -> Tensor:
    unseen = (net.layers[0](x) > 0.5) & (torch.arange(4) > 0)
    mask = torch.zeros_like(x).masked_fill(unseen, -INF)
    return steps(net, x, lambda i, y: y + (net.layers[i](y) + mask).softmax(-1))


def running_minimum(net: Odd, x: Tensor) -> Any:
    least = torch.full_like(x, INF)
    for i in range(8):
        x = net.step(i, x)
        least = torch.minimum(least, x) if i > 2 else least
    return net.out(x + torch.where(least.isinf(), 0, least)), least


def not_numbers(net: Odd, x: Tensor) -> Any:
    nan = torch.full_like(net.layers[0](x), torch.nan)
    return steps(net, x, lambda _, y: y), nan


ODD: dict[str, Callable[[Odd, Tensor], Any]] = {
    each.__name__: each
    for each in (
        *(sizes, input_again, scalar, sums, truth, indices, counts, one_count, bytes_),
        *(complex_, empty, attention_mask, running_minimum, not_numbers),
    )
}


def example() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def largest_difference(found: Any, wanted: Any) -> float:
    """Of all tensors in two outputs; infinite and undefined values are equal to themselves."""
    worst = 0.0
    for a, b in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        same = (a == b) | (a.isnan() & b.isnan())
        if not bool(same.all()):
            apart = (a - b).abs().double().nan_to_num(INF)
            worst = max(worst, float(apart.max()))
    return worst


def finite_loss(output: Any) -> Tensor:
    """A sum over all real numbers of an output that are finite."""
    tensors = [t for t in tree_leaves(output) if t.is_floating_point() or t.is_complex()]
    kept = [t.masked_fill(~t.isfinite(), 0).abs().square().sum() for t in tensors]
    return torch.stack(kept).sum()
