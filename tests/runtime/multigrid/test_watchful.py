"""When cycles are enough."""

from __future__ import annotations

import math

import pytest

from pararealize.ir.methods import MGRIT
from pararealize.runtime.multigrid.convergence import doubt


@pytest.mark.parametrize(
    ("residuals", "tolerance", "enough", "reason"),
    [
        ([], None, True, ""),
        ([0.1], None, True, ""),
        ([0.1, 0.01], None, True, ""),
        ([0.6], None, False, "a residual of 60% is above 50%"),
        ([0.1, 0.2], None, False, "residuals grow (1.0e-01 → 2.0e-01)"),
        ([1e-9, 2e-9], None, True, ""),  # rounding may grow
        ([math.nan], None, False, "a residual is not finite"),
        ([0.1, math.inf], None, False, "a residual is not finite"),
        ([0.1], 0.01, False, "a residual of 1.0e-01 is above 1.0e-02"),
        ([0.1, 0.001], 0.01, True, ""),
    ],
)
def test_verdicts(
    residuals: list[float], tolerance: float | None, enough: bool, reason: str
) -> None:
    found = doubt(MGRIT(tolerance=tolerance), residuals)
    assert (not found, found) == (enough, reason)
