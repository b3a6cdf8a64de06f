"""Groups: how corrections run in levels, as a table and in sentences."""

from __future__ import annotations

from pararealize.explain.table import Table
from pararealize.ir.groups import Group
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan


def groups_table(plan: Plan) -> list[Table]:
    """The groups of every level and their coarse networks; none where there are two levels."""
    if not plan.groups:
        return []
    columns = ("level", "#", "subnetworks", "coarse", "parameters", "ms")
    rows = list(map(_row, plan.groups))
    return [Table("corrections in levels", columns, rows, left=("subnetworks", "coarse"))]


def _row(group: Group) -> tuple[str, ...]:
    named = (str(group.level), str(group.index), group.members)
    if group.coarse == "none":
        return *named, "–", "", ""
    if group.coarse == "fine":
        return *named, "its subnetworks in a row", "", ""
    return *named, group.coarse, f"{group.coarse_parameters:,}", f"{group.coarse_seconds * 1e3:.3f}"


def in_levels(plan: Plan) -> list[str]:
    """How corrections run in levels, and where fewer levels are left than were asked for."""
    method = plan.method
    if not isinstance(method, Parareal) or plan.n == 1 or method.levels == 2:
        return []
    points = method.points(plan.n)
    said = []
    if isinstance(method.levels, int) and len(points) + 1 < method.levels:
        said.append(
            f"Of levels={method.levels} there are {len(points) + 1}: "
            f"{_count(len(points[-1]) - 1)} would be one group, which corrects nothing."
        )
    if points[1:]:
        counts = " and then ".join(f"{len(ends) - 1} groups" for ends in points[1:])
        said.append(
            f"Corrections run in {len(points) + 1} levels: inside groups of subnetworks side by "
            f"side, then from group to group ({counts})."
        )
    if points[1:] and method.levels == "auto" and plan.calibration is None:
        said.append(
            "They were chosen (levels='auto') as predicted to be faster by a tenth or more than "
            "corrections one after another, which levels=2 asks for."
        )
    return said


def _count(steps: int) -> str:
    return f"{steps} subnetworks or groups" if steps > 1 else "one subnetwork"
