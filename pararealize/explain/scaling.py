"""Scaling: a forecast as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pararealize.explain.explain import size
from pararealize.explain.table import Table
from pararealize.ir.forecast import Estimate, Forecast, Mesh

#: A relative difference below which two times are the same to a prediction.
CLOSE = 0.05


def strong(found: Forecast) -> Table:
    """One network on more and more devices."""
    serial = found.serial.seconds
    columns = ("n", "ms", "speedup", "efficiency", "coarse", "message", "memory")
    rows = [_strong_row(e, serial) for e in found.estimates]
    title = f"strong scaling: {found.model}, {found.layers} layers, {serial * 1e3:.3g} ms serial"
    best = [i for i, e in enumerate(found.estimates) if e is found.best]
    return Table(title, (*columns, "pipeline", "replicas"), rows, marked=best)


def _strong_row(e: Estimate, serial: float) -> tuple[str, ...]:
    if e.refused:
        return (str(e.n), "–")
    speedup = serial / e.seconds
    return (
        str(e.n),
        f"{e.seconds * 1e3:.3g}",
        f"{speedup:.2f}×",
        f"{speedup / e.n:.0%}",
        f"{e.coarse_seconds / e.seconds:.0%}",
        size(e.message) if e.message else "–",
        size(e.memory),
        f"{serial / e.pipeline:.2f}×",
        "–" if e.replicas is None else f"{serial / e.replicas:.2f}×",
    )


def weak(found: Forecast) -> Table | None:
    """A network that grows with the devices; ``None`` where the method is for one depth."""
    known = [e for e in found.estimates if e.weak]
    if not known:
        return None
    rows = [
        (
            str(e.n),
            f"{e.weak_serial * 1e3:.3g}",
            f"{(e.weak or 0) * 1e3:.3g}",
            f"{e.weak_serial / (e.weak or 1):.2f}×",
        )
        for e in known
    ]
    base = next((e.n for e in found.estimates if e.n > 2 and not e.refused), 0)
    title = f"weak scaling: n subnetworks like those of n = {base}"
    return Table(title, ("n", "serial ms", "ms", "speedup"), rows)


def mesh(found: Sequence[Mesh], serial: float) -> Table:
    """The best mesh of replicas and subnetworks for so many devices."""
    rows = [
        (
            *map(str, (m.devices, m.replicas, m.n)),
            f"{m.seconds * 1e3:.3g}",
            f"{serial / m.seconds:.2f}×",
        )
        for m in found
    ]
    columns = ("devices", "replicas", "n", "ms", "speedup")
    return Table("together with data parallelism, one batch", columns, rows)


def verdict(found: Forecast) -> list[str]:
    """What pays, in sentences."""
    serial, best = found.serial.seconds, found.best
    refused = [e for e in found.estimates if e.refused]
    said = [f"n = {e.n}: {e.refused}" for e in refused[:1]]
    if best is None:
        return [*said, "Parallel depth does not pay here: no n is faster than one device."]
    said.append(f"Best: n = {best.n}, {serial / best.seconds:.2f}× faster than one device.")
    rivals = {"Pipelining": best.pipeline}
    if best.replicas is not None:
        rivals["Data parallelism"] = best.replicas
    faster = {k: v for k, v in rivals.items() if v < best.seconds * (1 - CLOSE)}
    for name, seconds in faster.items():
        gain = best.seconds / seconds
        said.append(f"{name} on as many devices is {gain:.2f}× faster than that for this batch.")
    if not faster:
        said.append("Neither pipelining nor data parallelism is faster on as many devices.")
    if best.replicas is None:
        samples = f"{found.serial.batch} sample" + "s" * (found.serial.batch != 1)
        said.append(f"Data parallelism cannot use {best.n} devices for {samples}.")
    limit = [e for e in found.estimates if not e.refused and e.n > best.n]
    if limit:
        said.append(
            "Beyond it the corrections, which are made one after another, take more than the "
            "subnetworks save: with two levels that is at about the square root of the depth. "
            "MGRIT with more levels goes on (--mgrit levels=3)."
        )
    return said
