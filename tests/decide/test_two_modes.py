"""Coarse networks that would answer otherwise than they are trained are told of."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pararealize import MGRIT, Parareal, pararealize
from pararealize.errors import InaccurateWarning
from pararealize.ir.methods import Method
from pararealize.models import odenet, resnet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def told(model: nn.Module, method: Method, x: torch.Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pararealize(model, 3, method=method, example_inputs=(x,))
    return [str(w.message) for w in caught if w.category is InaccurateWarning]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        (Parareal("stepped", "difference"), "'stepped 1'"),
        (Parareal("summed", "difference", guess="coarse"), "'summed'"),
        (Parareal("factored", "difference"), "'factored 0.25'"),
        (Parareal("network", "difference"), ""),
        (Parareal("fine", "difference"), ""),
        (Parareal("stepped", "residual"), ""),
        (Parareal("stepped", "difference", iterations=3), ""),
    ],
)
def test_differences_of_batches_are_told_of_in_training(method: Method, kinds: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    found = told(resnet(29, width=4), method, x)
    assert len(found) == bool(kinds)
    assert all(kinds in text and "eval mode" in text for text in found)
    if kinds:
        assert not told(resnet(29, width=4).eval(), method, x)


def test_networks_without_batch_normalisation_are_quiet() -> None:
    model, x = odenet(12, width=4, in_features=2, classes=3), torch.randn(4, 2)
    assert not told(model, Parareal("stepped", "difference"), x)
    assert not told(model, MGRIT(2, coarse="rediscretized"), x)
