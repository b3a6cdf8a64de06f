"""Fingerprints tell tensors apart, and roundings of one tensor not."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pararealize.errors import DisagreementError
from pararealize.runtime.communication.fingerprint import (
    EVERY,
    FIRST,
    check_same_batch,
    fingerprint,
    is_compared,
    other,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = drawn(16, 3, 8, 8)
TOKENS = torch.arange(60).reshape(6, 10)

#: Two tensors that a rank may not take for the other.
DIFFERENT = [
    (X, drawn(16, 3, 8, 8, seed=1)),
    (X, X.flip(0)),
    (X, 1.05 * X),
    (X, -X),
    (X, torch.zeros_like(X)),
    (TOKENS, TOKENS + 1),
    (TOKENS > 7, TOKENS > 30),
    (X.to(torch.complex64), 1j * X),
    (torch.tensor(math.inf), torch.tensor(1e30)),
]

#: The same numbers, as they are found elsewhere.
ALIKE = [
    (X, X.clone(memory_format=torch.channels_last)),
    (X, X.to(torch.bfloat16)),
    (X, X * (1 + 1e-5)),
    (X, X.double().requires_grad_()),
    (torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf])),
    (torch.full((9,), 1e38), torch.full((9,), 1e38)),
    (torch.zeros(0), torch.zeros(0)),
]


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_other_tensors_are_noticed(one: Tensor, two: Tensor) -> None:
    assert other([fingerprint([one]), fingerprint([one]), fingerprint([two])]) == 2


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_roundings_are_not(one: Tensor, two: Tensor) -> None:
    assert other([fingerprint([one]), fingerprint([two])]) is None


def test_a_rank_that_compares_nothing_is_not_compared() -> None:
    assert other([fingerprint([X]), 0]) is None


def test_random_batches_are_told_apart() -> None:
    """Sums are as near in one of a hundred pairs, and norms as well in one of ten of those."""
    found = [fingerprint([drawn(8, 10, seed=i)]) for i in range(1001)]
    missed = sum(other(pair) is None for pair in pairwise(found))
    assert missed <= 4


def test_fingerprints_are_integers_of_63_bits() -> None:
    for tensor in (X, -X, torch.full((9,), 3e38), torch.zeros(2), -1e38 * torch.ones(4)):
        assert 0 < fingerprint([tensor]) < 2**63


def test_the_first_calls_are_compared_and_then_some() -> None:
    calls = [call for call in range(1, 4 * EVERY + 1) if is_compared(call)]
    assert calls[:FIRST] == list(range(1, FIRST + 1))
    assert len(calls) == FIRST + 4


def test_other_inputs_are_named() -> None:
    with pytest.raises(DisagreementError, match="rank 1 was called with other inputs"):
        check_same_batch([fingerprint([X]), fingerprint([2 * X])])
