"""Contenders: the kinds of coarse networks that may be tried, by what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from pararealize.calibration.candidates import Built, build, kinds
from pararealize.calibration.latency import Stand, coarse_plan
from pararealize.calibration.subject import in_levels
from pararealize.cost.predict import timed
from pararealize.errors import CalibrationError
from pararealize.explain.advice import hopeless
from pararealize.ir.calibration import Fitting, called
from pararealize.ir.groups import Group
from pararealize.ir.plan import Piece, Plan

#: Kinds that are timed however late it is.
FIRST = 3


@dataclass(frozen=True)
class Contender:
    """A candidate that may be tried, with its plan, and its seconds after one sweep."""

    built: Built
    plan: Plan
    soonest: float

    @property
    def fits(self) -> bool:
        """Whether it has weights of its own, which are fitted."""
        rows: Iterable[Piece | Group] = (*self.plan.pieces, *self.plan.groups)
        return any(row.coarse_parameters for row in rows)


def contenders(
    stand: Stand,
    plan: Plan,
    options: Fitting,
    progress: Callable[[], None],
    enough: Callable[[], bool],
) -> tuple[dict[str, Contender], dict[str, str]]:
    """All kinds that the subnetworks have, with what they cost as measured, and why others not.

    Each with the levels of corrections that it is tried with. ``enough`` ends it early; where time
    is limited those come first that are usually chosen: copies of blocks, fewer before more of
    them.
    """
    found, left_out = dict[str, Contender](), dict[str, str]()
    every = kinds(stand.subject)
    order = list(every)
    if options.minutes is not None:
        order.sort(key=lambda k: (not every[k].owns_weights, every[k].options.get("depth", 0), k))
    for kind, subject in product(order, in_levels(stand.subject, options)):
        if len(found) >= FIRST and enough():
            left_out[called(kind, subject.levels)] = "no time was left"
            continue
        built = build(subject, kind, options.seed)
        if isinstance(built, str):
            left_out |= {called(kind, subject.levels): built} if built else {}
        else:
            own = coarse_plan(stand, plan, built)
            soonest = timed(own, subject.schedule(1)).parallel_seconds
            found[built.name] = Contender(built, own, soonest)
        progress()
    return found, left_out


def hopeful(
    every: Mapping[str, Contender], options: Fitting
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The kinds to try, and why others are not.

    Where time is limited those come first whose networks are fitted, the fastest before others.

    Raises:
        CalibrationError: only a faster network is wanted, and none can be.

    """
    left_out = dict[str, str]()
    if options.faster:
        slower = [k for k, found in every.items() if found.soonest >= found.plan.serial_seconds]
        if len(slower) == len(every):
            fastest = min(every.values(), key=lambda found: found.soonest)
            raise CalibrationError(hopeless(fastest.plan, fastest.soonest))
        left_out = dict.fromkeys(slower, "even one sweep would be slower than serial")
    chosen = [kind for kind in every if kind not in left_out]
    if options.minutes is not None:
        chosen.sort(key=lambda kind: (not every[kind].fits, every[kind].soonest))
    return tuple(chosen), left_out
