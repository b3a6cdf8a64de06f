"""Watchful: whether cycles have converged, and what to do where they have not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pararealize.ir.mgrit import MGRIT

#: Relative residuals below this are rounding, and may grow.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Verdict:
    """Whether the cycles so far are enough; ``reason`` says why not."""

    enough: bool
    reason: str = ""


def judge(method: MGRIT, residuals: Sequence[float], tolerance: float | None) -> Verdict:
    """Whether a solve may stop, from the largest relative residual of every cycle so far.

    It may not where a residual is not finite, is above ``method.guard``, or has grown, nor while
    it is above the tolerance.
    """
    if not residuals:
        return Verdict(enough=True)
    last = residuals[-1]
    if not math.isfinite(last):
        return Verdict(enough=False, reason="a residual is not finite")
    if len(residuals) > 1 and last > max(residuals[-2], ROUNDING):
        return Verdict(enough=False, reason=f"residuals grow ({residuals[-2]:.1e} → {last:.1e})")
    if last > method.guard:
        return Verdict(enough=False, reason=f"a residual of {last:.0%} is above {method.guard:.0%}")
    if tolerance is not None and last > tolerance:
        return Verdict(enough=False, reason=f"a residual of {last:.1e} is above {tolerance:.1e}")
    return Verdict(enough=True)
