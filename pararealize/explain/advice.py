"""Advice: what to do where a calibration does not give what was asked for."""

from __future__ import annotations

from statistics import mean

from pararealize.ir.calibration import Candidate
from pararealize.ir.coarsening import shortest
from pararealize.ir.plan import Plan

#: Numbers of subnetworks that are looked at.
COUNTS = range(2, 33)
#: Times as fast as serial from which on a network is worth naming, as costs are only estimated.
WORTH = 1.1


def unreached(best: Candidate, n: int, agreement: float, needed: float) -> str:
    """What to do where nothing agrees as often as it has to.

    ``needed`` is the share of the held-out samples that vouches for the ``agreement``.
    """
    row = best.closest
    by_chance = f" ({needed:.2%} of the held-out answers, so that it is not by chance)"
    return (
        f"no coarse network reaches an agreement of {agreement:.2%}"
        f"{by_chance if needed > agreement else ''} with fewer than {n} sweeps: the best "
        f"is {best.name!r} with {row.agreement:.2%} after {row.count}. Ask for less "
        f"(agreement={row.agreement:.3f}), give more data or epochs, take fewer subnetworks, or "
        "accept the best with best=True."
    )


def hopeless(plan: Plan, soonest: float) -> str:
    """Why no kind of coarse network can be faster than serial, and what would be."""
    return (
        f"no coarse network can make {plan.model} faster in {plan.n} subnetworks: one serial "
        f"evaluation takes {plan.serial_seconds * 1e3:.3g} ms, and already one sweep with the "
        f"fastest of them {soonest * 1e3:.3g} ms on {plan.devices} devices. {would_win(plan)}"
    )


def would_win(plan: Plan, sweeps: int = 1) -> str:
    """In a sentence, what would be faster, by the costs of a plan whose coarse networks lose.

    K sweeps of n subnetworks take about K S/n + (K + 1) r (c + m): S is serial, c one coarse
    evaluation, m a message, and r the corrections in a row, n - 1 of them in two levels.
    """
    step, levels = _step(plan), max((group.level for group in plan.groups), default=2)

    def speedup(n: int, deeper: float = 1.0) -> float:
        serial, row = deeper * plan.serial_seconds, shortest(n, levels)[0]
        return serial / (sweeps * serial / n + (sweeps + 1) * row * step)

    count = max(COUNTS, key=speedup)
    gpu = "a GPU, with the step in a CUDA graph"
    if count != plan.n and speedup(count) >= WORTH:
        fewer = "fewer" if count < plan.n else "more"
        return (
            f"What would win: {fewer} subnetworks (n={count}: about {speedup(count):.1f}× by the "
            f"same costs), or {gpu}."
        )
    deep = next((d for d in range(2, 100) if speedup(2, d) >= WORTH and sweeps < 2), None)
    deeper = "" if deep is None else f"a network about {deep} times as deep, or "
    return f"What would win: {deeper}larger layers or inputs, or {gpu}."


def _step(plan: Plan) -> float:
    """Seconds of one coarse evaluation with its message."""
    coarse = [p.coarse_seconds for p in plan.pieces if p.coarse_seconds > 0]
    sizes = [p.interface_bytes for p in plan.pieces[:-1]]
    message = plan.machine.message(max(sizes, default=0))
    return (mean(coarse) if coarse else 0.0) + message
