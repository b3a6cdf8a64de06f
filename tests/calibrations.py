"""What a calibration may have found, and the cells of its tables."""

from __future__ import annotations

from pararealize.explain.table import Table
from pararealize.ir.calibration import Calibration, Candidate, Certificate, Fit, Region, Sweeps

#: Fast and good enough, slower and better, and one that does not agree as often as is wanted.
FAST = Candidate(
    "identity",
    (Fit(1, "identity", 0, 0.2, None), Fit(2, "identity", 0, 0.5, 0.25)),
    (Sweeps(0, 0.25, 0.5, 0.001), Sweeps(1, 0.5, 0.25, 0.002), Sweeps(2, 0.96875, 0.125, 0.003)),
)
GOOD = Candidate(
    "thinned 1",
    (Fit(1, "thinned 1", 1000, 0.125, None), Fit(2, "thinned 1", 1234, 0.0625, 0.03125)),
    (Sweeps(0, 0.75, 0.5, 0.0015), Sweeps(1, 1.0, 0.125, 0.0035)),
)
POOR = Candidate("mean", (Fit(2, "mean", 0, None, None),), (Sweeps(1, 0.125, 9.0, 0.001),))
REGION = Region(1, (0.0,), (1.0,), 2.0)
CERTIFICATE = Certificate(2, {1: 1.0}, 0.0625, "warn", 1.5, (REGION,), 0.984375, 0.875, 0.03125)
FOUND = Calibration(
    *("identity", 2, 1040, 260, 12.5, 0.0045),
    (FAST, GOOD, POOR),
    CERTIFICATE,
    0.9,
)


def rows(table: Table) -> list[list[str]]:
    """The cells of a table, line by line."""
    return [line.split() for line in table.text(120).splitlines()]
