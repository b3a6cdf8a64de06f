"""Chains of residual layers for the tests of multigrid, and an interpreter of its schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from networks import seeded
from pararealize.errors import MethodError
from pararealize.ir.hierarchy import Level, hierarchy
from pararealize.ir.methods import MGRIT
from pararealize.ir.schedule import Schedule

WIDTH, BATCH = 4, 6
#: (longest runs of the slices, factors)
Shape = tuple[list[int], tuple[int, ...]]


@st.composite
def shapes(draw: st.DrawFn, *, least: int = 1, most: int = 7, levels: int = 4) -> Shape:
    """Slices of any lengths, and factors by which they can be coarsened."""
    longest = draw(st.lists(st.integers(1, 6), min_size=least, max_size=most))
    factors = draw(st.lists(st.integers(2, 4), min_size=1, max_size=levels - 1))
    while True:
        try:
            hierarchy(longest, factors)
        except MethodError:
            factors = factors[:-1]
            if not factors:
                longest, factors = [*longest, 2], [2]
        else:
            return longest, tuple(factors)


def options(*guesses: str, most: int = 4) -> st.SearchStrategy[MGRIT]:
    """Options of the cycles; levels and factors come with a shape."""
    return st.builds(
        MGRIT,
        relaxation=st.sampled_from(("F", "FCF", "FCFCF")),
        cycle=st.sampled_from(("V", "F")),
        guess=st.sampled_from(guesses or ("coarse", "coarsest", "full")),
        forward_cycles=st.integers(1, most),
        backward_cycles=st.integers(1, most),
    )


def interpret(
    schedule: Schedule,
    apply: Callable[[str, Any], Any],
    combine: Callable[[str, Sequence[Any]], Any],
    values: dict[str, Any],
) -> dict[str, Any]:
    """Every value of a schedule that is not placed, by the meaning of its tasks."""
    values = dict(values)
    for task in schedule:
        read = [values[name] for name in task.reads]
        if task.op == "apply":
            values[task.value] = apply(task.propagator, read[0])
        else:
            values[task.value] = combine(task.signs, read)
    return values


def signed_sum(signs: str, values: Sequence[Any]) -> Any:
    """What ``combine`` means."""
    terms = [value if sign == "+" else -value for sign, value in zip(signs, values, strict=True)]
    return sum(terms[1:], terms[0])


def levels_of(shape: Shape) -> tuple[Level, ...]:
    return hierarchy(*shape)


class Step(nn.Module):
    """x + h φ(x), normalised and with a mask where asked for."""

    def __init__(self, kind: str, h: float, dropout: float) -> None:
        super().__init__()
        self.h = h
        self.norm = nn.BatchNorm1d(WIDTH, eps=1e-2) if "norm" in kind else nn.Identity()
        self.map = nn.Linear(WIDTH, WIDTH)
        self.act = nn.Identity() if "linear" in kind else nn.Tanh()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.h * self.drop(self.act(self.map(self.norm(x))))


class Chain(nn.Module):
    """A stem, residual steps over the time ``horizon``, and a classifier."""

    def __init__(
        self, depth: int, kind: str = "", dropout: float = 0.0, horizon: float = 2.0
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(3, WIDTH)
        steps = (Step(kind, horizon / depth, dropout) for _ in range(depth))
        self.layers = nn.Sequential(*steps)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


def chain(depth: int, kind: str = "", **options: float) -> Chain:
    """A seeded chain in float64."""
    with seeded(3):
        return Chain(depth, kind, **options).double()


def batch(size: int = BATCH, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(size, 3, generator=generator, dtype=torch.float64)


def cuts(n: int, each: int) -> tuple[str, ...]:
    """Interfaces after every ``each`` layers, the stem with the first slice."""
    return tuple(f"layers.{each * j - 1}" for j in range(1, n))
