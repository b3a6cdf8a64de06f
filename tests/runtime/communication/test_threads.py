"""Local ranks: threads that send, gather and fail like processes do."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch

from local_ranks import on_ranks as on
from local_transport import LocalGroup, LocalTransport
from pararealize.errors import PeerError, ShapeError
from pararealize.runtime.communication.transport import together


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def taken(transport: LocalTransport, size: int, peer: int, tag: int = 0) -> list[float]:
    into = torch.zeros(size, dtype=torch.float64)
    transport.receive(into, peer, tag)()
    return into.tolist()


def test_members_know_their_place() -> None:
    member = LocalGroup(3, patience=5).member(1)
    assert (member.rank, member.size) == (1, 3)


def test_a_message_arrives_whether_it_is_asked_for_before_or_after() -> None:
    group = LocalGroup(2, patience=5)
    one, other = group.member(0), group.member(1)
    early = torch.zeros(2, dtype=torch.float64)
    wait = other.receive(early, 0, 5)
    one.send(numbers(1, 2), 1, 5)
    wait()
    assert early.tolist() == [1, 2]
    one.send(numbers(3, 4), 1, 5)
    assert taken(other, 2, 0, 5) == [3, 4]


def test_a_receive_waits_for_its_message() -> None:
    def work(transport: LocalTransport) -> Any:
        if transport.rank == 0:
            first = taken(transport, 1, 1)
            transport.send(numbers(first[0] + 1), 1, 0)
            return first
        transport.send(numbers(7), 0, 0)
        return taken(transport, 1, 0)

    assert on(2, work) == [[7], [8]]


def test_messages_of_one_tag_keep_their_order() -> None:
    group = LocalGroup(2, patience=5)
    for i in range(20):
        group.member(0).send(numbers(i), 1, 3)
    assert [taken(group.member(1), 1, 0, 3)[0] for _ in range(20)] == list(range(20))


def test_tags_peers_and_directions_do_not_mix() -> None:
    group = LocalGroup(3, patience=5)
    a, b, c = (group.member(rank) for rank in range(3))
    a.send(numbers(1), 2, 0)
    a.send(numbers(2), 2, 1)
    b.send(numbers(3), 2, 0)
    c.send(numbers(4), 0, 0)
    assert taken(c, 1, 0, 1) == [2]
    assert taken(c, 1, 1, 0) == [3]
    assert taken(a, 1, 2, 0) == [4]
    assert taken(c, 1, 0, 0) == [1]


def test_what_is_sent_may_change_afterwards() -> None:
    group, sent = LocalGroup(2, patience=5), numbers(1)
    group.member(0).send(sent, 1, 0)
    sent.zero_()
    assert taken(group.member(1), 1, 0) == [1]


def test_messages_and_bytes_are_counted() -> None:
    group = LocalGroup(2, patience=5)
    member = group.member(0)
    member.send(numbers(1, 2, 3), 1, 0)
    member.send(torch.ones(2, dtype=torch.bfloat16), 1, 1)
    assert (member.sent_messages, member.sent_bytes) == (2, 28)


def test_objects_travel() -> None:
    group, value = LocalGroup(2, patience=5), {"a": [1, None], "b": "text"}
    group.member(0).send_object(value, 1, 9)
    group.member(0).send_object("", 1, 9)
    assert group.member(1).receive_object(0, 9) == value
    assert group.member(1).receive_object(0, 9) == ""


def test_a_gathering_is_by_rank_and_rounds_do_not_mix() -> None:
    def work(transport: LocalTransport) -> Any:
        return [transport.gather((i, transport.rank)) for i in range(10)]

    wanted = [[(i, rank) for rank in range(3)] for i in range(10)]
    assert on(3, work) == [wanted] * 3


def test_gatherings_may_overlap() -> None:
    def work(transport: LocalTransport) -> Any:
        first = transport.begin_gather([transport.rank, 1])
        second = transport.begin_gather([transport.rank, 2])
        return second(), first()

    assert on(2, work) == [([[0, 2], [1, 2]], [[0, 1], [1, 1]])] * 2


def test_a_sum_is_over_all_ranks_and_leaves_its_terms() -> None:
    def work(transport: LocalTransport) -> Any:
        mine = numbers(transport.rank, 1)
        total = transport.sum(mine)
        total += 0.0
        return total.tolist(), mine.tolist()

    assert on(3, work) == [([3, 3], [rank, 1]) for rank in range(3)]


def test_the_sum_of_one_rank_is_a_copy() -> None:
    mine = numbers(1, 2)
    total = LocalGroup(1).member(0).sum(mine)
    total.zero_()
    assert mine.tolist() == [1, 2]


def test_an_exchange_without_problems_is_a_gathering() -> None:
    assert on(3, lambda t: t.exchange(t.rank * 2)) == [[0, 2, 4]] * 3


def test_a_problem_of_one_rank_is_raised_on_all() -> None:
    def work(transport: LocalTransport) -> Any:
        problem = ShapeError("too small") if transport.rank == 1 else None
        return transport.exchange(problem=problem)

    first, own, last = on(3, work)
    assert isinstance(own, ShapeError)
    for error in (first, last):
        assert isinstance(error, PeerError)
        assert str(error) == "rank 1 of 3 could not go on: ShapeError: too small"


def test_together_all_come_out_of_a_block_or_all_raise() -> None:
    def work(transport: LocalTransport) -> Any:
        with together(transport):
            if transport.rank == 0:
                raise ShapeError("too small")
        return "came out"

    own, other = on(2, work)
    assert isinstance(own, ShapeError)
    assert isinstance(other, PeerError)
    assert on(2, lambda t: together(t).__enter__()) == [None, None]


def test_together_without_ranks_raises_as_it_is() -> None:
    with pytest.raises(ShapeError, match="too small"), together(None):
        raise ShapeError("too small")


@pytest.mark.parametrize("waits", ["receive", "gather"])
def test_a_failure_wakes_those_who_wait(waits: str) -> None:
    begun = threading.Event()

    def work(transport: LocalTransport) -> Any:
        if transport.rank == 1:
            begun.wait(30)
            return transport.fail("rank 1 stopped")
        if waits == "gather":
            wait = transport.begin_gather([1])
        else:
            wait = transport.receive(numbers(0), 1, 0)
        begun.set()
        return wait()

    error, _ = on(2, work)
    assert isinstance(error, PeerError)
    assert str(error) == "rank 1 stopped"


def test_a_message_sent_before_the_failure_still_arrives() -> None:
    group = LocalGroup(2, patience=5)
    group.member(1).send(numbers(4), 0, 0)
    group.member(1).fail("rank 1 stopped")
    assert taken(group.member(0), 1, 1) == [4]
    with pytest.raises(PeerError, match="rank 1 stopped"):
        taken(group.member(0), 1, 1)


def test_patience_ends() -> None:
    member = LocalGroup(2, patience=0.05).member(0)
    with pytest.raises(PeerError, match=r"rank 0 of 2 waited 0 s for rank 1 .*did not answer"):
        taken(member, 1, 1)
    with pytest.raises(PeerError, match="did not answer"):
        member.gather(1)


def test_only_one_rank_at_a_time_is_alone() -> None:
    inside, most = [], []

    def work(transport: LocalTransport) -> None:
        for _ in range(50):
            with transport.alone():
                inside.append(transport.rank)
                most.append(len(inside))
                inside.remove(transport.rank)

    assert on(3, work) == [None] * 3
    assert max(most) == 1


def test_copies_are_the_same_line_and_pickles_are_refused() -> None:
    member = LocalGroup(2, patience=5).member(0)
    assert copy.deepcopy(member) is member
    with pytest.raises(PeerError, match=r"cannot be pickled.*net\.save"):
        pickle.dumps(member)
