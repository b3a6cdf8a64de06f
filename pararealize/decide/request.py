"""Request: what the user asked the compiler for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from pararealize.errors import CutError, MethodError, RankError
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.options import is_count, shown
from pararealize.ir.plan import Machine, Tracing
from pararealize.runtime.monitoring.progress import Lines, Progress


@dataclass(frozen=True)
class Request:
    """What to compile a network into; ``given`` are the inputs of one call, if any are known.

    Raises:
        CutError, MethodError: an option has a value that it cannot take.

    """

    n: int | str
    method: Method
    given: Mapping[str, Any] | None
    machine: Machine
    interfaces: Sequence[str] | None = None
    cost: str = "predicted"
    chunks: int | None = None
    devices: tuple[torch.device, ...] = ()
    tracing: Tracing = field(default_factory=Tracing)
    verify: bool = True
    progress: Progress = field(default_factory=partial(Lines, shown=False), compare=False)

    def __post_init__(self) -> None:
        n = self.n
        if not (n == "auto" if isinstance(n, str) else is_count(n, 1)):
            raise CutError(
                f"n={shown(n)}: expected a number of subnetworks of 1 or more, or 'auto': "
                "pararealize(model, n=4)."
            )
        if not isinstance(self.method, (Parareal, MGRIT)):
            raise MethodError(f"method={self.method!r}: expected Parareal(...) or MGRIT(...).")
        if not isinstance(self.cost, str) or self.cost not in {"predicted", "measured"}:
            raise MethodError(f"cost={self.cost!r}: expected 'predicted' or 'measured'.")
        if self.chunks in {None, 1}:
            return
        if isinstance(self.method, MGRIT):
            raise MethodError(
                f"chunks={self.chunks}: the states of MGRIT travel whole: leave chunks out."
            )
        if self.method.tolerance is not None:
            raise MethodError(
                f"chunks={self.chunks}: where a tolerance decides on sweeps, states travel whole: "
                "leave chunks out, or the tolerance."
            )

    def for_places(self, places: int, *, ranks: bool) -> Request:
        """The request for so many ranks, or devices of one process.

        Raises:
            RankError: subnetworks or devices are fewer than the places.

        """
        if ranks and len(self.devices) not in {0, places}:
            raise RankError(
                f"{len(self.devices)} devices for {places} ranks: give one for each rank, "
                "or none to leave the model where it is."
            )
        if places == 1 and not ranks:
            return self
        if isinstance(self.n, int) and self.n < places:
            raise RankError(
                f"{self.n} subnetworks cannot lie on {places} ranks or devices, which would leave "
                f"{places - self.n} without work: write pararealize(model, n={places}, ...), or "
                f"use {self.n}."
            )
        return replace(self, n=self.n if isinstance(self.n, int) else places)

    @property
    def count(self) -> int | None:
        """The number of subnetworks, where the request says it."""
        if isinstance(self.n, int):
            return self.n
        if self.interfaces is not None:
            return len(self.interfaces) + 1
        return self.method.subnetworks if isinstance(self.method, Parareal) else None


def check_chunks(chunks: Any, comm: Any) -> None:
    """Raise where a number of slices is none, or no ranks are there to pass them on.

    Raises:
        MethodError: says what was found.

    """
    if chunks is not None and (comm is None or not isinstance(chunks, int) or chunks < 1):
        raise MethodError(
            f"chunks={chunks!r}: expected a number of slices of 1 or more, for networks on ranks: "
            "pararealize(model, n, comm=comm, chunks=4)."
        )
