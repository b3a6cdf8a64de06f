"""Captured: calls that a graph launches, without Python between kernels, to be timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from pararealize.errors import CaptureWarning
from pararealize.runtime.capture.cuda import CudaDevice
from pararealize.runtime.capture.device import Device

#: A call is recorded so many times in a row, so that what launching a graph takes counts little.
REPEATS = 8


def capturing(device: torch.device) -> Device | None:
    """What records graphs on a device of torch; nothing does but on CUDA devices."""
    return CudaDevice() if device.type == "cuda" else None


def recorded(call: Callable[[], Any], device: Device) -> Callable[[], None]:
    """What does a call :data:`REPEATS` times by a graph, on one stream, and waits for its end.

    Raises:
        MethodError: a graph is being recorded already.

    Warns:
        CaptureWarning: the call cannot be recorded; it is made as Python makes it.

    """

    def in_a_row() -> None:
        for _ in range(REPEATS):
            call()

    graph, run = device.recording(), in_a_row
    graph.warm(in_a_row)
    try:
        graph.capture(in_a_row)
        run = graph.replay
    except RuntimeError as error:
        warnings.warn(CaptureWarning(f"timed without a graph: {error}"), stacklevel=2)

    def ended() -> None:
        run()
        device.wait()

    return ended
