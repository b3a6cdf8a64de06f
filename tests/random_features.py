"""Features of random networks that are hard to trace, to cut or to replay, by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

#: What networks may have besides layers and values that reach far ahead: random functions; random
#: numbers of Python and NumPy that decide what runs; sizes read off inputs; questions of what a
#: value is; attributes that change between calls; weights tied over the whole depth; booleans,
#: integers and numbers without axes that reach far ahead; infinities that do; truth values as an
#: input.
FEATURES = (
    *("functions", "python", "sizes", "types", "attributes"),
    *("ties", "states", "infinities", "inputs"),
)

#: Features that every network of the suite may have.
SOUND: frozenset[str] = frozenset(FEATURES)

RATE = 0.3


class RandomFunction(nn.Module):
    """A random function of torch, drawn in training only."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.training else x


class Skipped(nn.Module):
    """A layer that is left out at random, by Python's or NumPy's generator."""

    def __init__(self, layer: nn.Module, draw: Callable[[], float]) -> None:
        super().__init__()
        self.layer, self.draw = layer, draw

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.draw() < RATE:
            return x
        return x + self.layer(x) / (1 - RATE if self.training else 1)


class Sized(nn.Module):
    """A function that reads sizes of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Tempered(nn.Module):
    """Reads numbers and a flag off itself, which users change between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.shift, self.active = 1.5, 0.25, True

    def forward(self, x: Tensor) -> Tensor:
        y = x / self.temperature
        return y + self.shift if self.active else y

    def change(self) -> None:
        """As a schedule of temperatures does."""
        self.temperature, self.shift, self.active = 3.0, -0.5, not self.active


class DropRate(nn.Module):
    """Dropout with a rate that a schedule raises."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.1

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.rate, self.training)

    def change(self) -> None:
        self.rate = 0.6


def number() -> float:
    """One of NumPy's; of its own functions, ``copy.deepcopy`` would copy the generator."""
    return float(np.random.rand())


def attended(x: Tensor) -> Tensor:
    """Attention of rows to one another with dropout."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    found = functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=RATE)
    return x + found.reshape(x.shape)


RANDOM: Mapping[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: functional.dropout(x, RATE),
    "feature_dropout": lambda x: torch.feature_dropout(x, RATE, train=True),
    "alpha_dropout": lambda x: functional.alpha_dropout(x, RATE, training=True),
    "randn_like": lambda x: x + 0.1 * torch.randn_like(x),
    "rand": lambda x: x * torch.rand(x.shape, dtype=x.dtype),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 1 - RATE)),
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(1 - RATE),
    "poisson": lambda x: x + 0.1 * torch.poisson(x.detach().abs()),
    "normal": lambda x: torch.normal(x, 0.1),
    "normal_": lambda x: x + torch.empty_like(x).normal_(0, 0.1),
    "rrelu": lambda x: functional.rrelu(x, training=True),
    "exponential_": lambda x: x + 0.1 * torch.zeros_like(x).exponential_(),
    "geometric_": lambda x: x + 0.1 * torch.zeros_like(x).geometric_(0.5),
    "gumbel_softmax": lambda x: x + functional.gumbel_softmax(x, dim=-1),
    "attention": attended,
    "randperm": lambda x: x[torch.randperm(len(x))],
    "randint": lambda x: x * torch.randint(1, 3, (x.shape[0], *[1] * (x.dim() - 1))),
    "multinomial": lambda x: x + 0.1 * torch.multinomial(torch.ones(4), 2).sum(),
}

SIZES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x / x.shape[0],
    lambda x: x * x.size(-1) ** -0.5,
    lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype),
    lambda x: x.view(len(x), -1).view(x.size()),
    lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]).reshape(x.shape),
    lambda x: x * 2 if x.shape[0] > 2 else x,
    lambda x: x + torch.ones(x.size(), dtype=x.dtype) / x.numel(),
    lambda x: x - x.sum(0, keepdim=True) / x.shape[0],
    lambda x: torch.cat([x[:, i : i + 1] for i in range(x.shape[1])], 1),
    lambda x: x * float(x.dim()),
)


TYPES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x * (2 if isinstance(x, Tensor) else 1),
    lambda x: x + (1 if type(x) is Tensor else 0),
    lambda x: x * (0.5 if hasattr(x, "unlikely_name") else 1.5),
    lambda x: -x if callable(x) else x,
    lambda x: x * {torch.float64: 2.0, torch.float32: 3.0}.get(x.dtype, 4.0),
    lambda x: x * (2 if isinstance(x.shape[0], int) else 1),
)


def special(features: frozenset[str], rng: Random, linear: Callable[[], nn.Module]) -> nn.Module:
    """A layer with one of the features; ``linear`` makes the domain's own."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "functions": lambda: (
            nn.RReLU() if rng.random() < 0.1 else RandomFunction(RANDOM[rng.choice(list(RANDOM))])
        ),
        "python": lambda: Skipped(linear(), rng.choice((random.random, number))),
        "sizes": lambda: Sized(rng.choice(SIZES)),
        "attributes": rng.choice((Tempered, DropRate)),
        "types": lambda: Sized(rng.choice(TYPES)),
    }
    fitting = [name for name in FEATURES if name in features and name in makers]
    return makers[rng.choice(fitting)]() if fitting else linear()


def change_attributes(module: nn.Module) -> bool:
    """Change what modules read off themselves, between two calls; whether there was any."""
    found = [part for part in module.modules() if isinstance(part, (Tempered, DropRate))]
    for part in found:
        part.change()
    return bool(found)


#: What is made of a value where it arises, to be read layers later, by feature.
MADE: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    "states": {
        "mask": lambda v: v > 0,
        "counts": lambda v: (v > 0).sum(-1),
        "scalar": lambda v: v.mean(),
        "number": lambda v: (v > 0).sum(),
        "any": lambda v: (v > 0).any(),
        "index": lambda v: v.argmax(-1),
    },
    "infinities": {
        "floor": lambda v: v.masked_fill(v > 0, -torch.inf),
        "least": lambda v: torch.full_like(v, torch.inf),
        "additive": lambda v: torch.zeros_like(v).masked_fill(v > v.mean(), -torch.inf),
    },
}

#: How it is read.
READ: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mask": lambda y, m: y.masked_fill(m, 0.5),
    "counts": lambda y, m: y / (1 + m).unsqueeze(-1),
    "scalar": lambda y, m: y * torch.sigmoid(m),
    "number": lambda y, m: y / (1 + m),
    "any": lambda y, m: torch.where(m, y, -y),
    "index": lambda y, m: y + y.gather(-1, m.unsqueeze(-1)),
    "floor": torch.maximum,
    "least": lambda y, m: torch.minimum(torch.minimum(m, y), y + 1),
    "additive": lambda y, m: y * torch.exp(m),
}


def kinds_of(features: frozenset[str]) -> list[str]:
    """Kinds of values that reach far ahead, of these features."""
    return [kind for name, kinds in MADE.items() if name in features for kind in kinds]


def make(kind: str, value: Tensor) -> Tensor:
    return next(kinds[kind] for kinds in MADE.values() if kind in kinds)(value)
