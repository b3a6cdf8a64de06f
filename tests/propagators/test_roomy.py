"""Calls that map no memory, however deep they are made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from pararealize.propagators.compiled import with_own_stack_chunk

resource = pytest.importorskip("resource", reason="page faults are counted on Unix alone")

CALLS = 200
DEPTHS = range(1, 300)


def layer(x: int) -> int:
    """A frame of its own, as a layer's."""
    return _inner(x)


def _inner(x: int) -> int:
    return x + 1


def plain(x: int) -> int:
    for _ in range(CALLS):
        x = layer(x)
    return x


def deep(depth: int, function: Callable[..., Any]) -> Any:
    """What a function makes of 0, called so many frames deeper."""
    return function(0) if depth == 0 else deep(depth - 1, function)


def faults(depth: int, function: Callable[..., Any]) -> int:
    """The fewest page faults of three calls."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        deep(depth, function)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found)


def test_no_depth_makes_calls_map_memory() -> None:
    large = FunctionType(plain.__code__, plain.__globals__)
    assert with_own_stack_chunk(large) is large
    assert deep(3, large) == CALLS
    assert max(faults(depth, large) for depth in DEPTHS) < CALLS / 4


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or not sys.platform.startswith("linux"),
    reason="other interpreters and systems keep frames otherwise",
)
def test_without_it_some_depth_does() -> None:
    """Else there is nothing left to be roomy for, and the module can go."""
    assert max(faults(depth, plain) for depth in DEPTHS) >= CALLS
