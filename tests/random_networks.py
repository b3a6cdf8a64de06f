"""Random networks: layers in a row, and values that reach far ahead of where they were made."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import seeded
from random_features import READ, kinds_of, make, special
from random_layers import WIDTH, layer, linear

BATCH, LENGTH, SIDE, TOKENS = 4, 6, 8, 7
DOMAINS = ("features", "sequence", "tokens", "signal", "image")
SHAPES = {
    "features": (WIDTH,),
    "sequence": (LENGTH, WIDTH),
    "signal": (WIDTH, SIDE),
    "image": (WIDTH, SIDE, SIDE),
}


@dataclass(frozen=True)
class Sample:
    """A random network, the same one wherever it is built; a smaller depth has the same start.

    ``features`` are those of :data:`random_features.FEATURES` that it may have.
    """

    seed: int
    depth: int = 8
    features: frozenset[str] = frozenset()

    def random(self, purpose: str) -> Random:
        return Random(f"{purpose} {self.seed}")


@dataclass(frozen=True)
class Join:
    """How an earlier value comes in again: that of layer ``source``, 0 being the stem's.

    ``how`` is add, cat, write (an addition in place), gate, other (the second input), shift (the
    keyword input), input (the network's first one), flags (truth values as an input), or what
    :data:`random_features.READ` does with what was made of the earlier value.
    """

    how: str
    source: int = 0


class RandomNetwork(nn.Module):
    """Layers, each followed by the joining of another value or none; in float64."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        rng = sample.random("network")
        domain = rng.choice(DOMAINS)
        self.reads_tokens, self.domain = domain == "tokens", domain.replace("tokens", "sequence")
        if self.reads_tokens:
            self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.writes_input = not self.reads_tokens and rng.random() < 0.05
        self.stem = linear(self.domain, rng)
        self.answer = rng.choice(("tensor", "tensor", "tuple", "dict"))
        self.final = rng.choice(("linear", "none", "mean"))
        self.tied = self.reads_tokens and rng.random() < 0.5
        self.head = nn.Linear(WIDTH, 3)
        self.layers, self.mixes = nn.ModuleList(), nn.ModuleDict()
        self.made: dict[int, list[str]] = {}  # of which values what is made for later layers
        self.joins: list[Join | None] = []
        self._grow(sample, rng)

    def _grow(self, sample: Sample, rng: Random) -> None:
        pooled, sizes = 0, [0]  # how often each value has been pooled
        extra, has = sample.random("features"), sample.features
        for i in range(sample.depth):
            new = layer(
                self.domain, rng, may_pool=self.domain in {"image", "signal"} and not pooled
            )
            same = [old for old in self.layers if isinstance(old, type(new))]
            new = rng.choice(same) if same and rng.random() < 0.1 else new
            if has and extra.random() < 0.3:
                new = special(has, extra, lambda: linear(self.domain, extra))
            if isinstance(new, nn.Linear) and rng.random() < 0.1:
                _tie(new, self.layers)
            elif isinstance(new, nn.Linear) and "ties" in has and extra.random() < 0.4:
                _tie(new, self.layers[:1] if extra.random() < 0.5 else self.layers)
            self.layers.append(new)
            pooled += "Pool" in type(new).__name__
            self.joins.append(self._join(rng, sizes, pooled))
            if has and extra.random() < 0.3:
                self.joins[-1] = self._far_join(extra, has, sizes, pooled) or self.joins[-1]
            if self.joins[-1] is not None and self.joins[-1].how == "cat":
                self.mixes[str(i)] = linear(self.domain, rng, 2 * WIDTH)
            sizes.append(pooled)

    def _join(self, rng: Random, sizes: list[int], pooled: int) -> Join | None:
        """A value of the present size, often one from far back."""
        fitting = [j for j, size in enumerate(sizes) if size == pooled]
        if not fitting or rng.random() < 0.7:
            return None
        how = rng.choice(("add", "add", "cat", "cat", "write", "gate", "other", "shift", "input"))
        if how in {"other", "input"} and (pooled or (how == "input" and self.reads_tokens)):
            return None
        return Join(how, rng.choice(fitting))

    def _far_join(
        self, rng: Random, has: frozenset[str], sizes: list[int], pooled: int
    ) -> Join | None:
        """Something made of a value of the present size, or truth values that are an input."""
        kinds = kinds_of(has) + (["flags"] if "inputs" in has and not pooled else [])
        fitting = [j for j, size in enumerate(sizes) if size == pooled]
        if not kinds or not fitting:
            return None
        join = Join(rng.choice(kinds), rng.choice(fitting))
        if join.how != "flags":
            self.made.setdefault(join.source, []).append(join.how)
        return join

    def forward(
        self,
        x: Tensor,
        other: Tensor | None = None,
        *,
        shift: Any = None,
        flags: Tensor | None = None,
    ) -> Any:
        if self.writes_input:
            x.mul_(0.5)
        values = [self.stem(self.embedding(x) if self.reads_tokens else x)]
        made = {(how, 0): make(how, values[0]) for how in self.made.get(0, ())}
        for i, (module, join) in enumerate(zip(self.layers, self.joins, strict=True)):
            y = module(values[-1])
            if join is not None and (join.how in READ or join.how == "flags"):
                held = flags if join.how == "flags" else made[join.how, join.source]
                y = y if held is None else READ.get(join.how, READ["mask"])(y, held)
            elif join is not None:
                y = self._joined(join, y, values[join.source], x, other, shift, i)
            values.append(y)
            made |= {(how, i + 1): make(how, y) for how in self.made.get(i + 1, ())}
        return self._answer(values[-1], values[len(values) // 2])

    def _joined(
        self, join: Join, y: Tensor, value: Tensor, x: Tensor, other: Any, shift: Any, i: int
    ) -> Tensor:
        if join.how == "cat":
            axis = -1 if self.domain == "sequence" else 1
            return self.mixes[str(i)](torch.cat([y, value], axis))
        if join.how == "write":
            return y.add_(value)
        if join.how == "gate":
            return y * torch.sigmoid(value)
        term = {"input": x, "other": other, "shift": shift}.get(join.how, value)
        return y if term is None else y + term

    def _answer(self, y: Tensor, hidden: Tensor) -> Any:
        if self.final == "mean":
            y = y.flatten(1) if self.domain == "features" else y.flatten(2).mean(-1)
        elif self.final == "linear" and self.domain in {"features", "sequence"}:
            y = functional.linear(y, self.embedding.weight) if self.tied else self.head(y)
        if self.answer == "tuple":
            return y, hidden
        return {"y": y, "more": [hidden.mean()]} if self.answer == "dict" else y


def _tie(new: nn.Linear, layers: nn.ModuleList) -> None:
    old = [module for module in layers if isinstance(module, nn.Linear)]
    if old:
        new.weight = old[-1].weight


def build(sample: Sample) -> RandomNetwork:
    """The network, without a weight of zero or one."""
    with seeded(sample.seed):
        network = RandomNetwork(sample).double()
        perturb(network)
    return network


def perturb(module: nn.Module) -> None:
    """Move every weight and statistic a little."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.01 * torch.rand_like(tensor))


def inputs(sample: Sample, model: RandomNetwork) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Arguments of one call; the second and the keyword one are sometimes left out."""
    rng = sample.random("inputs")
    generator = torch.Generator().manual_seed(sample.seed)

    def normal() -> Tensor:
        shape = (BATCH, *SHAPES[model.domain])
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    tokens = torch.randint(TOKENS, (BATCH, LENGTH), generator=generator)
    args = [tokens if model.reads_tokens else normal()]
    args += [normal()] if rng.random() < 0.5 else []
    scalar = torch.rand((), dtype=torch.float64, generator=generator)
    kwargs = {"shift": scalar} if rng.random() < 0.5 else {}
    if "inputs" in sample.features and rng.random() < 0.7:
        shape = (BATCH, *SHAPES[model.domain])
        kwargs["flags"] = torch.rand(shape, generator=generator) < 0.5
    return args, kwargs
