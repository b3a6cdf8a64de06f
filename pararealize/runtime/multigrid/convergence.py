"""Convergence: residuals of the level equations, and whether cycles may stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pararealize.ir.hierarchy import Cycles
from pararealize.ir.methods import MGRIT
from pararealize.runtime.monitoring.report import Jump, norms
from pararealize.runtime.multigrid.solve import Solve, SolverSetup
from pararealize.runtime.values.combine import difference
from pararealize.runtime.values.infinities import finite_part


def residuals(
    setting: SolverSetup, solved: Solve, cycles: Cycles, *, alike: bool
) -> tuple[Jump, ...]:
    """The residual of every watched equation, its norm also relative to the state.

    Or ``alike`` to the largest of all: adjoints may vanish on the way, and add nothing to the
    gradient where they do.
    """
    watches, values = setting.local(cycles).watches, solved.values
    mine = [i for i, (_, rank) in enumerate(watches) if rank in setting.ranks]
    pairs = [(values[r, w.new], values[r, w.old]) for w, r in (watches[i] for i in mine)]
    found = norms(_differences(pairs) + [new for new, _ in pairs])
    if not all(map(math.isfinite, found)):  # infinities that are carried are no residuals
        found = norms([difference(*pair) for pair in pairs] + [finite_part(n) for n, _ in pairs])
    numbers = [0.0] * (2 * len(watches))
    for k, i in enumerate(mine):
        numbers[2 * i], numbers[2 * i + 1] = found[k], found[k + len(mine)]
    agreed = solved.messages.agree(numbers)
    scales = agreed[1::2]
    if alike:
        scales = [max(scales, default=0.0)] * len(scales)
    sizes = zip(agreed[::2], scales, strict=True)
    return tuple(
        Jump(watch.sweep, watch.interface, size, size / scale if scale else 0.0, watch.level)
        for (watch, _), (size, scale) in zip(watches, sizes, strict=True)
    )


def _differences(pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    """New less old; of plain tensors of one kind all at once."""
    kinds = {
        (v.shape, v.dtype, v.device) if type(v) is Tensor and v.is_floating_point() else None
        for pair in pairs
        for v in pair
    }
    if len(kinds) != 1 or None in kinds:
        return [difference(new, old) for new, old in pairs]
    news, olds = zip(*pairs, strict=True)
    return list(torch._foreach_sub(news, olds))


def by_cycle(jumps: Sequence[Jump]) -> list[float]:
    """The largest relative residual of level 1 in every cycle."""
    found: dict[int, list[float]] = {}
    for jump in jumps:
        if jump.level == 1:
            found.setdefault(jump.sweep, []).append(jump.relative)
    return [float(np.max(found[sweep])) for sweep in sorted(found)]  # NaN where any is


#: Relative residuals below this are rounding, and may grow.
ROUNDING = 1e-5


def doubt(method: MGRIT, residuals: Sequence[float]) -> str:
    """Why a solve may not stop, by the largest relative residual of every cycle so far; or nothing.

    It may not where a residual is not finite, is above ``method.guard``, or has grown, nor while
    it is above the tolerance.
    """
    last = residuals[-1] if residuals else 0.0
    if not math.isfinite(last):
        return "a residual is not finite"
    if len(residuals) > 1 and last > max(residuals[-2], ROUNDING):
        return f"residuals grow ({residuals[-2]:.1e} → {last:.1e})"
    if last > method.guard:
        return f"a residual of {last:.0%} is above {method.guard:.0%}"
    if method.tolerance is not None and last > method.tolerance:
        return f"a residual of {last:.1e} is above {method.tolerance:.1e}"
    return ""
