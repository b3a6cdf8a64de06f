"""Occasions: ranks that come together for different things say so, all of them."""

from __future__ import annotations

from typing import Any

import pytest

from local_ranks import all_of, on_ranks
from local_transport import LocalTransport
from pararealize.errors import DisagreementError
from pararealize.runtime.communication.occasions import CALLS, READS, agree, begin


def test_numbers_of_all_ranks_are_known_where_all_do_the_same() -> None:
    def work(transport: LocalTransport) -> Any:
        return agree(transport, "saves to best", transport.rank, 7)

    assert all_of(3, work) == [[(0, 7), (1, 7), (2, 7)]] * 3


def test_a_rank_alone_agrees_with_itself() -> None:
    assert agree(None, "saves to best", 1, 2) == [(1, 2)]


PAIRS = [
    ("saves to best", f"{CALLS}x [2]", "without `if rank == 0:`"),
    ("saves to best", "saves to last", "do different things"),
    ("goes back through call 3", "goes back through call 4", "loss.backward() on every rank"),
    (
        "clips gradients to a 2.0-norm of 1.0",
        "clips gradients to a 2.0-norm of 2.0",
        "equally often and in the same order",
    ),
    (f"{CALLS}x [2]", f"{CALLS}x [3]", "with the same batch"),
    (READS, f"{CALLS}x [2]", "Write report = net.report on every rank, and then `if rank == 0:"),
    ("saves to best", READS, "Write report = net.report on every rank, and then `if rank == 0:"),
    (READS, "goes back through call 4", "each rank knows the jumps of its own interfaces"),
]


@pytest.mark.parametrize(("one", "other", "advice"), PAIRS)
def test_every_rank_names_what_each_does(one: str, other: str, advice: str) -> None:
    def work(transport: LocalTransport) -> None:
        agree(transport, other if transport.rank == 1 else one)

    errors = on_ranks(3, work)
    assert all(isinstance(error, DisagreementError) for error in errors)
    text = str(errors[0])
    assert all(str(error) == text for error in errors)
    assert advice in text
    for rank, said in enumerate((one, other, one)):
        assert f"rank {rank}" in text
        assert said.removeprefix(CALLS) in text


def test_ranks_count_calls_alike_after_a_mistake() -> None:
    """One has begun a call that the others have not."""

    def work(transport: LocalTransport) -> int:
        last = transport.rank == 1
        transport.steps = 5 + last
        with pytest.raises(DisagreementError):
            begin(transport, f"{CALLS}x" if last else "goes back through call 5")()
        return transport.steps

    assert all_of(2, work) == [6, 6]
