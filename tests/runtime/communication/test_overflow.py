"""Overflow: a gradient that is not finite on one rank is so on all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from local_ranks import all_of
from local_transport import LocalTransport
from pararealize.runtime.communication.overflow import Overflow, is_half


def spread(transport: LocalTransport, gradients: list[float | None]) -> list[Any]:
    net = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in gradients)
    for parameter, value in zip(net, gradients, strict=True):
        parameter.grad = None if value is None else torch.tensor([1.0, value])
    Overflow(net, transport).spread()
    return [None if p.grad is None else p.grad.tolist() for p in net]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_all_gradients_are_infinite_where_one_is_not_finite(bad: float) -> None:
    def work(transport: LocalTransport) -> Any:
        return spread(transport, [2.0, None, bad if transport.rank == 1 else 3.0])

    wanted = [[math.inf] * 2, None, [math.inf] * 2]
    assert all_of(3, work) == [wanted] * 3


def test_finite_gradients_stay() -> None:
    def work(transport: LocalTransport) -> Any:
        return spread(transport, [] if transport.rank == 0 else [2.0, 1e38])

    assert all_of(2, work) == [[], [[1.0, 2.0], [1.0, pytest.approx(1e38)]]]


def test_half_precision_is_seen() -> None:
    half, single = torch.ones(1, dtype=torch.float16), torch.ones(1)
    assert is_half([single, half])
    assert not is_half([single, single.bfloat16()])
    with torch.autocast("cpu", torch.float16):
        assert is_half([single])
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_half([single])
