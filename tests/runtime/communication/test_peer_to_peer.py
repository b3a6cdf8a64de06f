"""Peer to peer: gatherings and sums over messages, and ranks that take different steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from local_ranks import all_of, on_ranks
from local_transport import LocalTransport
from pararealize.errors import DisagreementError, PeerError, ShapeError
from pararealize.runtime.communication.peer_to_peer import FEW, added
from pararealize.runtime.communication.transport import TOGETHER


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 5, 4 * FEW + 3])
def test_a_sum_is_the_same_on_all_ranks_to_the_last_bit(ranks: int, size: int) -> None:
    """In one message between two ranks, and by shares that differ in size."""
    rows = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(ranks)]
    found = all_of(ranks, lambda t: t.sum(rows[t.rank]))
    assert all(torch.equal(total, added(rows)) for total in found)


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1 + 2j, 3j]),
        torch.tensor([[1, 2], [3, 2**40]]),
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor([1.0, 2.0**-7], dtype=torch.bfloat16),
        torch.ones(3, 4).t(),
    ],
    ids=["complex", "whole numbers", "no axis", "narrow", "strided"],
)
def test_sums_keep_what_they_are_sums_of(value: torch.Tensor) -> None:
    for total in all_of(3, lambda t: t.sum(value)):
        assert total.dtype == value.dtype
        assert torch.equal(total, 3 * value)


def test_numbers_and_objects_of_any_length_are_gathered() -> None:
    def work(transport: LocalTransport) -> Any:
        words = transport.gather("x" * 1000 * transport.rank)
        return [len(word) for word in words], transport.begin_gather([transport.rank, 7])()

    assert all_of(3, work) == [([0, 1000, 2000], [[0, 7], [1, 7], [2, 7]])] * 3


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_take_different_steps_all_say_who_does_what(ranks: int) -> None:
    """And go on after that, if they want to."""

    def work(transport: LocalTransport) -> Any:
        last, text = transport.rank == ranks - 1, ""
        try:
            transport.gather("a long value") if last else transport.begin_gather([1], "saves")()
        except DisagreementError as error:
            text = str(error)
        return text, transport.gather(transport.rank)

    for text, after in all_of(ranks, work):
        assert "rank 0 saves; rank 1" in text
        assert f"rank {ranks - 1} {TOGETHER}" in text
        assert after == list(range(ranks))


# failures


def failing(transport: LocalTransport, *places: int) -> list[Any]:
    """What a rank sees where those at ``places`` fail, one after another, instead of a step."""
    seen: list[Any] = []
    for place in places:
        try:
            transport.step()
            if transport.rank == place:
                transport.fail(f"rank {place} has no more")
            seen.append(transport.gather(1) if not transport.broken else "failed")
        except PeerError as error:
            seen.append(str(error))
    transport.step()
    return [*seen, transport.gather(transport.rank), transport.epoch]


@pytest.mark.parametrize("places", [(0,), (2, 0, 1), (1, 1, 1, 1)])
def test_failures_one_after_another_are_all_announced_and_got_over(places: tuple[int, ...]) -> None:
    for rank, (*seen, gathered, epoch) in enumerate(all_of(3, lambda t: failing(t, *places))):
        wanted = ["failed" if rank == p else f"rank {p} has no more" for p in places]
        assert seen == wanted
        assert gathered == [0, 1, 2]
        assert epoch == len(places)


def test_messages_of_a_step_that_failed_do_not_reach_the_next_one() -> None:
    """Neither what was sent and is not wanted, nor what was waited for and is sent later."""

    def work(transport: LocalTransport) -> Any:
        one, other = torch.zeros(1), torch.zeros(1)
        if transport.rank == 0:
            transport.send(torch.tensor([1.0]), 1, 5)
            waits = transport.receive(one, 1, 6)
            transport.fail("no more")
        else:
            waits = lambda: None  # noqa: E731
            with pytest.raises(PeerError, match="no more"):
                transport.receive(one, 0, 7)()
        transport.gather(None)
        with pytest.raises(PeerError) if transport.rank == 0 else pytest.raises(ZeroDivisionError):
            waits()
            1 / 0  # noqa: B018
        transport.send(torch.tensor([3.0]), 1 - transport.rank, 5)
        transport.send(torch.tensor([4.0]), 1 - transport.rank, 6)
        transport.receive(other, 1 - transport.rank, 5)()
        assert one.item() == 0
        return other.item()

    assert all_of(2, work) == [3, 3]


def test_a_rank_that_has_made_fewer_calls_leaves_one_out() -> None:
    """It failed in the backward pass; the others had begun the next call when they heard of it."""

    def work(transport: LocalTransport) -> Any:
        transport.step()
        if transport.rank == 0:
            transport.fail("rank 0 has no way back")
        else:
            transport.step()
            with pytest.raises(PeerError, match="no way back"):
                transport.gather(None)
        if transport.rank == 0:
            with pytest.raises(PeerError, match=r"rank 0 of 2 leaves this call out.*no way back"):
                transport.step()
        return transport.step(), transport.gather(transport.rank)

    assert all_of(2, work) == [(3, [0, 1])] * 2


def test_a_call_that_cannot_begin_is_told_to_the_others() -> None:
    def work(transport: LocalTransport) -> Any:
        if transport.rank == 1:
            transport.refuse(ShapeError("[2, 5]"))
        else:
            transport.step()
            with pytest.raises(
                PeerError, match=r"rank 1 of 3 was called as .*ShapeError: \[2, 5\]"
            ):
                transport.gather(None)
        return transport.step()

    assert all_of(3, work) == [2, 2, 2]


def test_a_rank_that_does_not_come_back_is_waited_for_as_long_as_patience_lasts() -> None:
    def work(transport: LocalTransport) -> Any:
        transport.fail("no more")
        if transport.rank == 0:
            transport.gather(None)

    error, none = on_ranks(2, work, patience=0.1)
    assert none is None
    assert isinstance(error, PeerError)
    assert "getting over a failure" in str(error)
