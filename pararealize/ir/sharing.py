"""Sharing: one device on which all subnetworks run side by side, on streams of one graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

from pararealize.errors import MethodError
from pararealize.ir.options import is_number, shown


@final
@dataclass(frozen=True)
class Sharing:
    """What streams of one device cost, and how much of the device one of them takes.

    Small kernels leave most of a device idle, so that those of several streams run side by side;
    large ones share it. Defaults are fitted to what an H200 took for 14 networks and steps, from
    graphs of one stream and of several.

    Attributes:
        beside: by how much a launch takes longer where a graph has several streams.
        wait: seconds in which an event passes from one stream to another.
        share: of the device that a kernel takes while it computes or moves memory; 0 to 1.

    Raises:
        MethodError: a number is out of its range.

    """

    beside: float = 1.28
    wait: float = 6e-6
    share: float = 0.65

    def __post_init__(self) -> None:
        bounds = {"beside": (1.0, 100.0), "wait": (0.0, 1.0), "share": (0.01, 1.0)}
        for name, value in asdict(self).items():
            low, high = bounds[name]
            if not is_number(value) or not low <= value <= high:
                raise MethodError(
                    f"Sharing({name}={shown(value)}): expected a number from {low:g} to {high:g}."
                )
