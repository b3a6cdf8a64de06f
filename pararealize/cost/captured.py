"""Captured: seconds of calls where a graph launches them, without Python between kernels."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from pararealize.errors import CaptureWarning
from pararealize.runtime.capture.cuda import CudaDevice
from pararealize.runtime.capture.device import Device

#: A call is recorded so many times in a row, so that what launching a graph takes counts little.
REPEATS = 8


def captured_seconds(
    calls: Sequence[Callable[[], Any]], device: Device, *, runs: int
) -> list[float]:
    """Median seconds of calls in graphs, each by itself on one stream, without gradients.

    Raises:
        MethodError: a graph is being recorded already.

    Warns:
        CaptureWarning: a call cannot be recorded; it is timed as Python makes it.

    """
    with torch.no_grad():
        return [_seconds(call, device, runs) for call in calls]


def capturing(device: torch.device) -> Device | None:
    """What records graphs on a device of torch; nothing does but on CUDA devices."""
    return CudaDevice() if device.type == "cuda" else None


def _seconds(call: Callable[[], Any], device: Device, runs: int) -> float:
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
    times = []
    for _ in range(runs + 1):
        device.wait()
        begin = time.perf_counter()
        run()
        device.wait()
        times.append(time.perf_counter() - begin)
    return median(times[1:]) / REPEATS
