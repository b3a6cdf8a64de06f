"""Roomy: a function that calls many others without mapping memory for each of them."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

#: Slots of 8 bytes: as many as a chunk of the interpreter's stack of frames has, 16 KiB.
SLOTS = 2048


def roomy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a frame that no chunk of the usual size holds.

    CPython keeps frames in chunks: a call for which the last one has no room maps a new one, and
    its return unmaps it. Layers called from a frame that ends near the end of a chunk do so one by
    one, each with page faults: 480 convolutions took 30 instead of 18 ms, or did not, as the
    caller's depth would have it. A frame that needs a chunk of its own gets one with room for a
    thousand slots more (``push_chunk`` in CPython's ``pystate.c``), where its calls fit.
    """
    assert isinstance(function, FunctionType)
    code = function.__code__
    function.__code__ = code.replace(co_stacksize=code.co_stacksize + SLOTS)
    return function
