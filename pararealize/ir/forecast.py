"""Forecast: what a network is predicted to take on more and more devices, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from pararealize.ir.methods import Method
from pararealize.ir.plan import Machine


@final
@dataclass(frozen=True)
class Work:
    """What one evaluation of a network takes on one device, for a batch of so many samples."""

    seconds: float
    launches: int
    batch: int
    weights: int
    state: int
    machine: Machine

    @property
    def launching(self) -> float:
        """Seconds that go to launches."""
        return min(self.seconds, self.launches * self.machine.launch_seconds)

    @property
    def busy(self) -> float:
        """Seconds that the device computes or moves."""
        return self.seconds - self.launching


@final
@dataclass(frozen=True)
class Estimate:
    """What a network in ``n`` subnetworks on as many devices is predicted to take.

    ``seconds`` are of one evaluation; ``weak`` those of a network that grows with the devices, and
    ``weak_serial`` what one device takes for it; ``pipeline`` and ``replicas`` those of the same
    devices otherwise used. ``message`` is the largest state in bytes, ``memory`` that of the
    fullest device. ``refused`` says why there is no such network.
    """

    n: int
    seconds: float = 0.0
    coarse_seconds: float = 0.0
    message: int = 0
    memory: int = 0
    pipeline: float = 0.0
    replicas: float | None = None
    weak: float | None = None
    weak_serial: float = 0.0
    refused: str = ""


@final
@dataclass(frozen=True)
class Forecast:
    """Estimates for several numbers of subnetworks of one network."""

    model: str
    inputs: Mapping[str, str]
    method: Method
    machine: Machine
    serial: Work
    layers: int
    training: bool
    estimates: tuple[Estimate, ...]

    @property
    def best(self) -> Estimate | None:
        """The fastest, if any is faster than one device."""
        known = [e for e in self.estimates if not e.refused and e.seconds < self.serial.seconds]
        return min(known, key=lambda e: e.seconds, default=None)


@final
@dataclass(frozen=True)
class Mesh:
    """The best use of so many devices: replicas of the batch, each in so many subnetworks."""

    devices: int
    replicas: int
    n: int
    seconds: float
