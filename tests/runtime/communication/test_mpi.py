"""Ranks that are more than the cores they may run on spin for a short while only."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pararealize.runtime.communication.mpi import _is_crowded


class Near:
    """The ranks of one computer; each says on which cores it may run."""

    def __init__(self, cores: Sequence[set[int]]) -> None:
        self.cores, self.size, self.freed = cores, len(cores), False

    def allgather(self, own: set[int]) -> list[set[int]]:
        assert own
        return list(self.cores)

    def Free(self) -> None:
        self.freed = True


@pytest.mark.parametrize(
    ("cores", "crowded"),
    [
        ([{0, 1}, {0, 1}], False),
        ([{0, 1}] * 3, True),
        ([{0}, {1}, {2}], False),  # each is bound to a core of its own
        ([{0}, {0}], True),
    ],
)
def test_cores_are_those_of_all_ranks(cores: list[set[int]], crowded: bool) -> None:
    near = Near(cores)
    assert _is_crowded(near) == crowded
    assert near.freed
