"""Streams: each rank draws what one process would have drawn at its place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from local_transport import LocalGroup
from pararealize.errors import RankError
from pararealize.runtime.communication import random_streams as streams
from pararealize.runtime.communication.random_streams import (
    BLOCK,
    Draw,
    RandomStreams,
    words_between,
)

KINDS: dict[str, Callable[[int], Tensor]] = {
    "dropout": lambda size: functional.dropout(torch.ones(size), 0.3),
    "dropout in float64": lambda size: functional.dropout(torch.ones(size).double(), 0.7),
    "rand": torch.rand,
    "rand in float64": lambda size: torch.rand(size, dtype=torch.float64),
    "randn": lambda size: torch.randn(size + 16),  # fewer than 16 keep half a pair for later
    "randn in float64": lambda size: torch.randn(size + 16, dtype=torch.float64),
    "bernoulli": lambda size: torch.bernoulli(torch.full((size,), 0.3)),
    "randperm": torch.randperm,
    "integers": lambda size: torch.randint(0, 7, (size,)),
    "exponential": lambda size: torch.empty(size).exponential_(),
}


@pytest.fixture(autouse=True)
def same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def skipped(before: Tensor, words: int) -> Tensor:
    """The state so many words later."""
    generator = torch.Generator()
    generator.set_state(before)
    streams._skip(generator, words)
    return generator.get_state()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 15, 33, 623, 625, 5000])
@pytest.mark.parametrize("drawn", [0, 1, 600, BLOCK, 2000])
def test_skipping_the_words_between_two_states_leads_from_one_to_the_other(
    kind: str, size: int, drawn: int
) -> None:
    torch.rand(drawn)
    before = torch.get_rng_state()
    KINDS[kind](size)
    after = torch.get_rng_state()
    words = words_between(before, after)
    assert torch.equal(skipped(before, words), after)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_words_are_counted_one_by_one(before: int, between: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.rand(before)
        first = torch.get_rng_state()
        torch.rand(between)
        assert words_between(first, torch.get_rng_state()) == between


def test_counting_moves_no_random_numbers() -> None:
    before = torch.get_rng_state()
    torch.rand(9)
    after = torch.get_rng_state()
    words_between(before, after)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_seed_set_on_the_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_BLOCKS", 50)
    before = torch.get_rng_state()
    torch.manual_seed(7)
    with pytest.raises(RankError, match="sets PyTorch's random seed while the network runs"):
        words_between(before, torch.get_rng_state())


# streams


DRAWS = (Draw("a", 0, own=False), Draw("g", 0, own=True), Draw("b", 0, own=False))
SIZES = {"a": 3, "g": 700, "b": 1000}


def one_call(given: RandomStreams, key: int, order: tuple[str, ...] = ("a", "g", "b")) -> dict:
    given.begin(key)
    found = {}
    for value in order:
        with given.drawing(value):
            found[value] = torch.rand(SIZES.get(value, 5))
    given.end()
    return found


def alone(draws: tuple[Draw, ...] = DRAWS) -> RandomStreams:
    return RandomStreams(draws, LocalGroup(1).member(0))


def test_the_network_draws_as_without_streams_and_own_draws_move_nothing() -> None:
    given = alone()
    wanted_a, wanted_b, wanted_next = torch.rand(3), torch.rand(1000), torch.rand(4)
    torch.manual_seed(0)
    found = one_call(given, 1)
    assert torch.equal(found["a"], wanted_a)
    assert torch.equal(found["b"], wanted_b)
    assert torch.equal(found["g"][:1000], wanted_b[:700])
    assert torch.equal(torch.rand(4), wanted_next)


def test_once_learned_a_call_draws_the_same_as_while_it_was_learned() -> None:
    given = alone()
    begin = torch.get_rng_state()
    wanted = one_call(given, 1)
    end = torch.get_rng_state()
    torch.set_rng_state(begin)
    found = one_call(given, 1)
    assert all(torch.equal(found[value], wanted[value]) for value in wanted)
    assert torch.equal(torch.get_rng_state(), end)


def test_every_step_draws_other_numbers() -> None:
    given = alone()
    first, second = one_call(given, 1), one_call(given, 1)
    assert not torch.equal(first["a"], second["a"])


def test_kinds_of_calls_are_learned_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    given = alone()
    one_call(given, 1)
    monkeypatch.setitem(SIZES, "a", 50)
    begin = torch.get_rng_state()
    found = one_call(given, 2)
    torch.set_rng_state(begin)
    assert torch.equal(found["a"], torch.rand(50))
    assert torch.equal(found["b"], torch.rand(1000))


def test_other_tasks_and_networks_that_never_draw_are_left_alone() -> None:
    given = alone(())
    begin = torch.get_rng_state()
    found = one_call(given, 1, ("a",))
    torch.set_rng_state(begin)
    assert torch.equal(found["a"], torch.rand(3))
    given = alone()
    given.begin(1)
    begin = torch.get_rng_state()
    torch.rand(9)
    moved = torch.get_rng_state()
    with given.drawing("u1.0"):
        pass
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(begin, moved)


def test_ranks_learn_from_each_other_where_they_start() -> None:
    """Threads share the random state, so that each task is a critical section of both."""
    draws = (Draw("a", 0, own=False), Draw("b", 1, own=False), Draw("c", 0, own=False))
    group, begin = LocalGroup(2, patience=30), torch.get_rng_state()
    wanted = [torch.rand(size) for size in (3, 1000, 40, 2)]
    found: dict[tuple[str, int], Tensor] = {}
    problems: list[BaseException] = []

    def calls(rank: int) -> None:
        given = RandomStreams(draws, group.member(rank))
        for i in range(2):
            gate.wait()  # both begin at the same state
            if rank == 0:
                torch.set_rng_state(begin)
            gate.wait()
            given.begin(1)
            gate.wait()
            for draw in draws:
                # the first call of a kind learns: ranks go one after another by themselves
                if draw.rank == rank:
                    with given.drawing(draw.value):
                        found[draw.value, i] = torch.rand({"a": 3, "b": 1000, "c": 40}[draw.value])
                if i:
                    gate.wait()
            gate.wait()
            given.end()
            gate.wait()
            if rank == 0:
                found["next", i] = torch.rand(2)

    def work(rank: int) -> None:
        try:
            calls(rank)
        except BaseException as error:
            problems.append(error)
            gate.abort()

    gate = threading.Barrier(2, timeout=30)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for i in range(2):
        for value, numbers in zip(("a", "b", "c", "next"), wanted, strict=True):
            assert torch.equal(found[value, i], numbers), (value, i)


def test_an_earlier_state_of_the_same_block_is_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "MOST_BLOCKS", 3)
    torch.manual_seed(0)
    torch.rand(5)
    early = torch.get_rng_state()
    torch.rand(95)
    with pytest.raises(RankError, match="sets PyTorch's random seed"):
        streams.words_between(torch.get_rng_state(), early)
