"""Memory: what a check takes on every rank, and what is free, before a rank is killed for it."""

from __future__ import annotations

from pathlib import Path

from pararealize.cli.terminal import Printer
from pararealize.errors import PararealizeError

GIB = 2**30
#: Bytes of a process that has imported torch.
PROCESS = 400 * 2**20
#: Copies of the weights in float64 that a comparison holds at once: the model as loaded (half), the
#: network and what it is compared with, a copy of either to train a step, and their gradients.
COPIES = 6.5


def comparison(parameters: int, activations: int = 0) -> int:
    """Bytes of a process that compares two networks of so many parameters in float64.

    ``activations`` are bytes of one evaluation in float32, as a plan knows them.
    """
    return int(PROCESS + COPIES * 8 * parameters + 2 * 2 * activations)


def free() -> int | None:
    """Bytes that new processes may take, of the machine and of this container; where known."""
    found = [size for size in (_of_machine(), _of_group()) if size is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    lines = _text("/proc/meminfo").splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _of_group() -> int | None:
    """What the control group allows beyond what is taken; file pages can be given back."""
    most, taken = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    pages = [
        int(line.split()[1])
        for line in _text("/sys/fs/cgroup/memory.stat").splitlines()
        if line.startswith("inactive_file ")
    ]
    if not most.isdigit() or not taken.isdigit():
        return None
    return int(most) - int(taken) + sum(pages)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def say_or_refuse(needed: int, ranks: int, say: Printer) -> None:
    """Say what so many processes take together.

    Raises:
        PararealizeError: less is free; says how much, and what to do.

    """
    available, whole = free(), needed * ranks
    each = f"about {needed / GIB:.1f} GiB on each of {ranks} ranks" if ranks > 1 else ""
    said = each or f"about {needed / GIB:.1f} GiB"
    if available is not None and whole > available:
        fewer = int(available / needed)
        way = f"write --ranks {fewer}" if 1 <= fewer < ranks else "take a smaller input or model"
        raise PararealizeError(
            f"this check takes {said}, and {available / GIB:.1f} GiB are free: a process would be "
            f"killed. {way[0].upper()}{way[1:]}, or a machine with more memory."
        )
    rest = "" if available is None else f"; {available / GIB:.1f} GiB are free"
    say(f"Memory: {said}{rest}.")
