"""Waits: a long one is told of once, with who waits for whom in which task; patience ends it."""

from __future__ import annotations

import warnings

import pytest

from local_transport import LocalGroup
from pararealize.errors import WaitingWarning
from pararealize.runtime.communication import waiting
from pararealize.runtime.communication.message import Message
from pararealize.runtime.communication.waiting import LONG, Wait


class Clock:
    """Seconds as the test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(("peer", "whom"), [(1, "rank 1"), (-1, "the other ranks")])
def test_a_long_wait_is_told_of_once(monkeypatch: pytest.MonkeyPatch, peer: int, whom: str) -> None:
    clock, transport = Clock(monkeypatch), LocalGroup(3, patience=99).member(0)
    transport.task = Message("u2.1", 1, 0, 4)
    wait = Wait(transport, peer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clock.now += LONG - 1
        assert not wait.is_over()
    clock.now += 2
    with pytest.warns(WaitingWarning) as told:
        assert not wait.is_over()
    text = str(told[0].message)
    assert f"rank 0 of 3 has waited 30 s for {whom} (state u2.1 from rank 1 to rank 0)" in text
    assert "gives up after 99 s" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not wait.is_over()
        clock.now += 99
        assert wait.is_over()


def test_a_short_patience_ends_before_anything_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    wait = Wait(LocalGroup(2, patience=5).member(0), 1)
    clock.now += 4
    assert not wait.is_over()
    clock.now += 2
    assert wait.is_over()
    assert wait.seconds == 6
