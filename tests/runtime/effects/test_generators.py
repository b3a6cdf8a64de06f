"""Generators that modules hold as methods, and those behind the functions of Python and NumPy."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pararealize.runtime.effects import functions
from pararealize.runtime.effects.generators import global_generators, other_generators
from pararealize.tracing.copying import copy_tree


class Drawing(nn.Module):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw()


@pytest.mark.parametrize("draw", [np.random.rand, np.random.random_sample, random.random])
def test_a_copy_draws_what_seeds_say(draw: Callable[[], float]) -> None:
    """``copy.deepcopy`` of a method of NumPy's takes a state of its own with it."""
    x, copied = torch.ones(1), copy_tree(Drawing(draw))
    before = random.getstate(), np.random.get_state()
    found = []
    for module in (Drawing(draw), copied):
        random.seed(5)
        np.random.seed(5)
        found.append(module(x).item())
    random.setstate(before[0])
    np.random.set_state(before[1])
    assert found[0] == found[1]


@pytest.mark.parametrize("own", [np.random.default_rng(3), random.Random(3)])
def test_the_generator_of_a_method_is_found(own: random.Random) -> None:
    assert other_generators([Drawing(own.random)])[2:] == (own,)
    assert not set(map(id, other_generators([Drawing(np.random.rand)]))) & set(
        map(id, global_generators())
    )


def test_plain_attributes_are_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that every module has are dictionaries and flags, of no code and no generator."""
    asked: list[object] = []
    may_run = functions._may_run
    monkeypatch.setattr(functions, "_may_run", lambda v: (asked.append(v), may_run(v))[1])
    module = nn.Linear(2, 2)
    module.own, module.helper = random.Random(3), np.tanh  # type: ignore[assignment]
    assert list(functions.functions_of(module))
    assert len(asked) == 2
    assert module.own in other_generators([Drawing(module.own.random)])
