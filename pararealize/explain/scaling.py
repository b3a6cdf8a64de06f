"""Scaling: a forecast as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pararealize.explain.explain import size
from pararealize.explain.table import Table
from pararealize.ir.forecast import Estimate, Forecast, Mesh
from pararealize.ir.methods import Method, Parareal

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


def named(method: Method) -> str:
    """A method in a few words, as options of the command line say it."""
    if isinstance(method, Parareal):
        levels = f", {method.levels} levels" if method.levels not in {2, "auto"} else ""
        return f"parareal, {method.iterations} sweep{'s' * (method.iterations != 1)}{levels}"
    by = "/".join(map(str, dict.fromkeys(method.factors)))
    return f"MGRIT, {method.levels} levels by {by}"


def compared(found: Sequence[Forecast]) -> Table:
    """Speedups of several methods on more and more devices, the best of every method marked."""
    counts = [e.n for e in found[0].estimates]
    rows = [(named(each.method), *(_speedup(each, e) for e in each.estimates)) for each in found]
    first = found[0]
    title = f"speedups by method: {first.model}, {first.layers} layers"
    best = fastest(found)
    marked = [i for i, each in enumerate(found) if each is best]
    columns = ("", *(f"n = {n}" for n in counts))
    return Table(title, columns, rows, left=("",), marked=marked)


def _speedup(found: Forecast, e: Estimate) -> str:
    return "–" if e.refused else f"{found.serial.seconds / e.seconds:.2f}×"


def fastest(found: Sequence[Forecast]) -> Forecast | None:
    """The forecast with the fastest network, if any is faster than one device."""
    known = [(each.best.seconds, i) for i, each in enumerate(found) if each.best is not None]
    return found[min(known)[1]] if known else None


def choice(found: Sequence[Forecast]) -> list[str]:
    """What to take of several methods, in sentences."""
    best = fastest(found)
    if best is None or best.best is None:
        return ["None of these is faster than one device."]
    speedup = best.serial.seconds / best.best.seconds
    what = f"{named(best.method)}, n = {best.best.n}"
    said = [f"Fastest of {len(found)} methods: {what}: {speedup:.2f}×."]
    kinds = {type(each.method) for each in found}
    if len(kinds) > 1:
        said.append(
            "Speeds alone: parareal corrects with networks that are trained with the others, one "
            "sweep being enough where they are; MGRIT keeps the weights, and is as exact as its "
            "cycles and coarsening make it (explain() and net.report measure that)."
        )
    return said


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
            "More levels go on, of parareal and of MGRIT (--sweeps 1 --levels 5)."
        )
    return said
