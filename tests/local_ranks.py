"""Ranks that are threads of this process, for tests of what a rank does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from local_transport import LocalGroup, LocalTransport
from pararealize.errors import PeerError

#: Seconds that a thread waits for a message, on a busy machine.
PATIENCE = 30.0


def on_ranks(
    size: int, work: Callable[[LocalTransport], Any], patience: float = PATIENCE
) -> list[Any]:
    """What ``work`` returned or raised on every rank."""
    group, found = LocalGroup(size, patience), dict.fromkeys(range(size))

    def run(rank: int) -> None:
        try:
            found[rank] = work(group.member(rank))
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return [found[rank] for rank in range(size)]


def all_of(size: int, work: Callable[[LocalTransport], Any]) -> list[Any]:
    """What ``work`` returned on every rank; the cause is raised where one failed."""

    def reporting(transport: LocalTransport) -> Any:
        try:
            return work(transport)
        except BaseException as error:
            transport.fail(f"rank {transport.rank}: {error!r}")
            raise

    found = on_ranks(size, reporting)
    errors = [each for each in found if isinstance(each, BaseException)]
    for error in sorted(errors, key=lambda each: isinstance(each, PeerError)):
        raise error
    return found
