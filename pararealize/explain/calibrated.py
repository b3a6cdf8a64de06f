"""Calibrated: what a calibration found, as tables and sentences."""

from __future__ import annotations

from pararealize.explain.table import Table
from pararealize.ir.calibration import Calibration, Candidate, Certificate, Sweeps
from pararealize.ir.plan import Plan
from pararealize.ir.shares import interval

#: What a network does with answers that its certificate doubts.
ABOVE = {
    "report": "net.report names doubtful ones",
    "warn": "the network warns of doubtful ones",
    "exact": "where one is doubtful the network sweeps on until all are the serial network's",
}


def best(candidate: Candidate, wanted: float | None) -> Sweeps:
    """The fastest sweeps that agree as wanted, or else those that agree most; one at least."""
    fastest = None if wanted is None else candidate.fastest(wanted)
    return fastest or candidate.closest


def sweeps_table(calibration: Calibration) -> Table:
    """The network on held-out samples after so many sweeps; an arrow marks those it takes."""
    sweeps = calibration.chosen.sweeps
    return Table(
        f"calibrated, on {calibration.held_out:,} held-out samples",
        ("sweeps", "agreement", "mean relative error", "predicted ms"),
        [
            (f"{k.count}", f"{k.agreement:.2%}", f"{k.error:.1e}", f"{k.seconds * 1e3:.3f}")
            for k in sweeps
        ],
        marked=[i for i, row in enumerate(sweeps) if row.count == calibration.iterations],
    )


def sentences(plan: Plan) -> list[str]:
    """How the network was calibrated, how its time is known, and what its certificate is worth."""
    found = plan.calibration
    if found is None:
        return []
    by = "From its parts as measured there" if found.measured else "By its machine's rates"
    where = "one device" if plan.machine.sharing is not None else f"{plan.devices} devices"
    return [
        f"Calibrated in {found.seconds:.1f} s on {found.samples:,} samples, tested on "
        f"{found.held_out:,} others: {choice(found)} {by} it is predicted to be "
        f"{found.serial_seconds / found.reached.seconds:.2f}× as fast as serial on {where}; "
        "pararealize check measures on this machine.",
        *([] if found.certificate is None else [certificate(found.certificate)]),
    ]


def choice(found: Calibration) -> str:
    """Which kind of coarse network was chosen, and why."""
    row, wanted, needed = found.reached, found.wanted, found.required
    low, high = interval(row.agreement, found.held_out)
    sweeps = f"{row.count} sweep{'' if row.count == 1 else 's'}"
    said = (
        f"with {found.name!r} coarse networks and {sweeps} {row.agreement:.2%} of the answers are "
        f"the serial network's (of all such data {low:.2%} to {high:.2%}, with 95% confidence)"
    )
    if wanted is None or needed is None:
        return f"{said}.{_left_out(found)}"
    if row.agreement < wanted:
        return (
            f"{said}, less than the {wanted:.2%} asked for, and nothing compared comes closer."
            f"{_left_out(found)}"
        )
    asked = f"{said}, {wanted:.2%} were asked for"
    if row.agreement < needed:
        return f"{asked}, which take {needed:.2%} of so many samples to be sure.{_left_out(found)}"
    others = [best(c, needed) for c in found.candidates]
    good = [other for other in others if other.agreement >= needed]
    if len(found.candidates) == 1:
        return f"{asked}.{_left_out(found)}"
    fastest = row.seconds <= min(other.seconds for other in good)
    why = "the fastest" if fastest else "on fewer samples the fastest"
    tried = "kinds and levels" if len({c.levels for c in found.candidates}) > 1 else "kinds"
    return (
        f"{asked}; {why} of the {len(good)} {tried} that reach it, of {len(found.candidates)}."
        f"{_left_out(found)}"
    )


def _left_out(found: Calibration) -> str:
    """Which kinds were not tried, those of one reason together."""
    kinds: dict[str, list[str]] = {}
    for kind, reason in found.left_out.items():
        kinds.setdefault(reason, []).append(kind)
    said = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in kinds.items())
    return f" Not tried: {said}." if said else ""


def certificate(found: Certificate) -> str:
    """What the certificate of every answer is worth, as measured."""
    reasons = [f"the estimate is above {found.limit:.1e}"]
    if found.regions:
        reasons.append("a state is unlike those calibrated with")
    if found.margin is not None:
        more = ", more where the estimate is above the median" if found.usual else ""
        reasons.append(f"its two best scores are within {found.margin:.2g} of each other{more}")
    if found.unsure is not None:
        reasons.append(f"the mean entropy of its answers is above {found.unsure:.2g} nats")
    return (
        f"Certificate: estimated errors cover {found.coverage:.1%} of the true ones and rank them "
        f"with correlation {found.correlation:.2f} (held out); an answer is doubtful where "
        f"{' or '.join(reasons)}, {found.doubted:.1%} of them; "
        f"{ABOVE[found.above]}."
    )
