"""Ranks calibrate with the same batches, or none does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from local_ranks import on_ranks
from local_transport import LocalTransport
from pararealize.calibration.alike import alike
from pararealize.errors import CalibrationError, PeerError


def batches(count: int, scale: float = 1.0) -> Iterator[dict[str, Any]]:
    return ({"x": scale * torch.arange(1.0 + i, 5.0 + i)} for i in range(count))


def broken() -> Iterator[dict[str, Any]]:
    yield from batches(1)
    raise CalibrationError("batch 2 holds a NaN")


def results(data: Callable[[int], Any]) -> list[Any]:
    def work(transport: LocalTransport) -> int:
        return len(list(alike(data(transport.rank), transport)))

    return on_ranks(2, work)


def test_equal_batches_are_passed_on() -> None:
    assert results(lambda _: batches(3)) == [3, 3]
    assert len(list(alike(batches(2), None))) == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda rank: batches(3, 1.0 + rank), "rank 1 has another batch 1"),
        (lambda rank: batches(3 - rank), "rank 1 has 2 batches"),
        (lambda rank: reversed([*batches(3)]) if rank else batches(3), "another batch 1"),
    ],
)
def test_other_batches_are_refused_on_all_ranks(data: Callable[[int], Any], words: str) -> None:
    for error in results(data):
        assert isinstance(error, CalibrationError)
        assert words in str(error)


def test_a_batch_that_one_rank_cannot_read_ends_all() -> None:
    one, other = results(lambda rank: broken() if rank else batches(3))
    assert isinstance(one, PeerError)
    assert isinstance(other, CalibrationError)
    assert "batch 2 holds a NaN" in str(one)
