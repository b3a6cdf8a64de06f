"""Layers of random networks: each keeps the width of its input, most its whole shape."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels everywhere; two heads and two groups divide them.
WIDTH, HIDDEN, HEADS = 4, 8, 2


class Function(nn.Module):
    """A function without weights, as users write them between layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class FunctionalDropout(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.3, training=self.training, inplace=self.inplace)


class Scale(nn.Module):
    """Reads a buffer, and writes on its input if asked to."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.register_buffer("scale", torch.rand(()) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.scale) if self.inplace else x * self.scale


class HalfScaled(nn.Module):
    """Writes on a view of its input."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :2].mul_(0.5)
        return x


class Swapped(nn.Module):
    """Two halves that go their own ways between two operations."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, self.axis)
        return torch.cat([torch.tanh(b), a], self.axis)


class Residual(nn.Module):
    """Post-activated where ``after`` is an activation."""

    def __init__(self, body: nn.Module, scale: float, after: nn.Module | None) -> None:
        super().__init__()
        self.body, self.scale = body, scale
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.scale * self.body(x))


class DenseBlock(nn.Module):
    """Every layer reads all earlier outputs of the block."""

    def __init__(self, mixes: list[nn.Module], layers: list[nn.Module]) -> None:
        super().__init__()
        self.mixes, self.layers = nn.ModuleList(mixes), nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for mix, layer in zip(self.mixes, self.layers, strict=True):
            values.append(layer(mix(torch.cat(values, 1))))
        return values[-1]


class Attention(nn.Module):
    def __init__(self, dropout: float, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=self.need_weights)[0]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int, dropout: float) -> None:
        super().__init__()
        self.cells = kind(WIDTH, WIDTH, layers, batch_first=True, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]


def activation(rng: Random) -> nn.Module:
    """One that writes on its input in one of four cases."""
    if rng.random() < 0.25:
        return rng.choice((nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU))(inplace=True)
    return rng.choice((nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus))()


def linear(domain: str, rng: Random, source: int = WIDTH) -> nn.Module:
    """The domain's own linear layer; keeps the size of its input."""
    if domain == "image":
        return nn.Conv2d(source, WIDTH, 3, padding=1, bias=rng.random() < 0.7)
    if domain == "signal":
        return nn.Conv1d(source, WIDTH, 3, padding=1, bias=rng.random() < 0.7)
    return nn.Linear(source, WIDTH, bias=rng.random() < 0.7)


def norm(domain: str, rng: Random) -> nn.Module:
    """Momentum ``None`` averages all batches."""
    if domain == "sequence":
        return rng.choice((nn.LayerNorm, nn.RMSNorm))(WIDTH)
    batch = nn.BatchNorm2d if domain == "image" else nn.BatchNorm1d
    momentum = rng.choice((0.1, None))
    kinds: list[Callable[[], nn.Module]] = [
        lambda: batch(WIDTH, momentum=momentum),
        lambda: nn.GroupNorm(2, WIDTH),
    ]
    if domain == "features":
        kinds.append(lambda: nn.LayerNorm(WIDTH))
    return rng.choice(kinds)()


def residual(domain: str, rng: Random) -> nn.Module:
    parts = [linear(domain, rng), norm(domain, rng), activation(rng)]
    pre = rng.random() < 0.5
    body = [parts[1], nn.Tanh(), parts[0]] if pre else parts
    return Residual(nn.Sequential(*body), rng.choice((1.0, 0.3)), None if pre else activation(rng))


def dense_block(domain: str, rng: Random) -> nn.Module:
    count = rng.randint(2, 3)
    mixes = [linear(domain, rng, WIDTH * (i + 1)) for i in range(count)]
    return DenseBlock(mixes, [activation(rng) for _ in mixes])


def dropout(rng: Random) -> nn.Module:
    inplace = rng.random() < 0.3
    return rng.choice((nn.Dropout, lambda _, inplace: FunctionalDropout(inplace)))(0.3, inplace)


def view(domain: str, rng: Random) -> nn.Module:
    """What shares memory with its input."""
    axis = -1 if domain in {"features", "sequence"} else 1
    views: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.view(x.shape),
        lambda x: x[:, :],
        lambda x: x.transpose(0, 1).transpose(0, 1),
        lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    ]
    return rng.choice((Function(rng.choice(views)), Swapped(axis)))


def pooling(domain: str, rng: Random) -> nn.Module:
    """Halves an image or a signal."""
    if domain == "image":
        return rng.choice((nn.MaxPool2d, nn.AvgPool2d))(2)
    return rng.choice((nn.MaxPool1d, nn.AvgPool1d))(2)


def attention(rng: Random) -> nn.Module:
    rate = rng.choice((0.0, 0.3))
    if rng.random() < 0.4:
        return Attention(rate, rng.random() < 0.5)
    if rng.random() < 0.5:
        kind = rng.choice((nn.GRU, nn.LSTM))
        layers = rng.randint(1, 2)
        return Recurrent(kind, layers, rate if layers > 1 else 0.0)
    first = rng.random() < 0.5
    return nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, rate, batch_first=True, norm_first=first
    )


def writer(rng: Random) -> nn.Module:
    """What writes on its input by a method or a function."""
    writes: list[Callable[[], nn.Module]] = [
        HalfScaled,
        lambda: Scale(inplace=True),
        lambda: Function(lambda x: x.add_(0.1)),
        lambda: Function(torch.relu_),
        lambda: Function(lambda x: functional.elu(x, inplace=True)),
    ]
    return rng.choice(writes)()


def layer(domain: str, rng: Random, *, may_pool: bool) -> nn.Module:
    """A random layer of the domain."""
    makers: list[tuple[int, Callable[[], nn.Module]]] = [
        (6, lambda: linear(domain, rng)),
        (3, lambda: norm(domain, rng)),
        (5, lambda: activation(rng)),
        (4, lambda: residual(domain, rng)),
        (1 if domain != "sequence" else 0, lambda: dense_block(domain, rng)),
        (2, lambda: dropout(rng)),
        (2, lambda: view(domain, rng)),
        (1, lambda: Scale(inplace=False)),
        (2, lambda: writer(rng)),
        (1 if may_pool else 0, lambda: pooling(domain, rng)),
        (6 if domain == "sequence" else 0, lambda: attention(rng)),
    ]
    weights, choices = zip(*makers, strict=True)
    return rng.choices(choices, weights)[0]()
