"""Clock: seconds of functions that are compared with each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def wait(device: torch.device) -> None:
    """Wait until a device has done what was asked of it."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def medians(*functions: Callable[[], object], runs: int) -> list[float]:
    """Median seconds of every function; they are run in turns, a first time to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(runs + 1):
        for function, found in zip(functions, times, strict=True):
            begin = time.perf_counter()
            function()
            found.append(time.perf_counter() - begin)
    return [median(found[1:]) for found in times]
