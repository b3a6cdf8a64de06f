"""Captured: ways to run a network on one device, side by side, within a time that was given."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from pararealize import Rehearsal
from pararealize.cost.measure import medians
from pararealize.explain.table import Table
from pararealize.runtime.capture.cuda import CudaDevice
from pararealize.runtime.capture.device import Device

#: A call, and what its answer is compared by.
Way = tuple[Callable[[], object], Callable[[], Tensor]]
Put = TypeVar("Put", Tensor, nn.Module)
#: Characters of an error in a row.
SHORT = 60
#: Seconds that one row may take.
LONGEST = 100.0


@dataclass
class Bench:
    """Where rows are measured, in how many rounds, and until when.

    ``tiny`` networks show that everything runs; their times mean nothing.
    """

    kind: str
    tiny: bool
    rounds: int
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> Device:
        """What networks are captured on."""
        return CudaDevice() if self.kind == "cuda" else Rehearsal()

    @property
    def left(self) -> float:
        """Seconds until rows are skipped."""
        return self.seconds - (time.monotonic() - self.started)

    def wait(self) -> None:
        """Wait for the device."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float:
        """MiB of the device that are taken, also by graphs."""
        if self.kind != "cuda":
            return 0.0
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info()
        return (whole - free) / 2**20

    def clean(self) -> None:
        """A row begins: nothing of the last one is left."""
        gc.collect()
        torch.compiler.reset()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def put(self, value: Put) -> Put:
        """A module or tensor on the device."""
        return value.to(self.kind)

    @property
    def name(self) -> str:
        """The device's name."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else "rehearsal on the CPU"


class OutOfTime(BaseException):
    """A row takes longer than it may; what guards single ways lets it through."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """A block that ends after so many seconds, where Python is at work then."""

    def end(*_: object) -> None:
        raise OutOfTime(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def told(error: BaseException) -> str:
    """An error in a few words."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:SHORT]


def measured(bench: Bench, makers: dict[str, Callable[[], Way]], serial: str) -> dict[str, str]:
    """Milliseconds of every way in turns, and errors beside the serial way's answer; or a problem.

    Keys are a way's name, and ``error NAME``, ``made NAME`` (seconds) and ``MiB NAME``.
    """
    ways: dict[str, Way] = {}
    found: dict[str, str] = {}
    for name, make in makers.items():
        try:
            before, begin = bench.memory(), time.perf_counter()
            ways[name] = make()
            bench.wait()
            found[f"made {name}"] = f"{time.perf_counter() - begin:.1f}"
            found[f"MiB {name}"] = f"{bench.memory() - before:.0f}"
        except Exception as error:
            found[name] = told(error)
    calls = [waited(call, bench) for call, _ in ways.values()]
    seconds = medians(*calls, runs=bench.rounds, before=bench.wait) if calls else []
    found |= {n: f"{t * 1e3:.3g}" for n, t in zip(ways, seconds, strict=True)}
    if serial in ways:
        wanted = ways[serial][1]()
        for name, (_, answer) in ways.items():
            found[f"error {name}"] = f"{relative(answer(), wanted):.1e}"
    return found


def relative(found: Tensor, wanted: Tensor) -> float:
    """The error as a relative 2-norm."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def waited(call: Callable[[], object], bench: Bench) -> Callable[[], None]:
    """The call, and the wait for the device."""

    def run() -> None:
        call()
        bench.wait()

    return run


def over(found: dict[str, str], base: str, *names: str) -> str:
    """How many times faster the fastest of some ways is than another one."""
    times = [float(found[n]) for n in names if n in found and found[n][0].isdigit()]
    if not times or not found.get(base, "-")[0].isdigit():
        return "-"
    return f"{float(found[base]) / min(times):.2f}"


def section(
    bench: Bench,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, Callable[[], Sequence[str]]]],
) -> None:
    """Print a table, row by row guarded: what fails or is skipped says so."""
    found: list[tuple[str, ...]] = []
    for name, row in rows:
        if bench.left <= 0:
            found.append((name, f"skipped: the {bench.seconds:.0f} s given are spent"))
            continue
        bench.clean()
        try:
            with at_most(max(min(bench.left, LONGEST), 0.05)):
                found.append((name, *row()))
        except (Exception, OutOfTime) as error:
            found.append((name, told(error)))
    print(Table(f"{title}, {bench.name}", ("network", *columns), found), flush=True)
    print(f"{bench.left:.0f} s left\n", flush=True)


def flat_gradients(network: nn.Module, names: Iterable[str]) -> Tensor:
    """Gradients of some weights as one vector."""
    grads = [network.get_parameter(name).grad for name in names]
    return torch.cat([g.flatten() for g in grads if g is not None])
