"""Notebook: what a notebook shows of a plan, a schedule, a report or a calibration."""

from __future__ import annotations

from pararealize.explain.calibrated import choice, sweeps_table
from pararealize.explain.explain import parts
from pararealize.explain.gantt import of_plan, of_schedule
from pararealize.explain.html import page_html
from pararealize.explain.svg import svg
from pararealize.explain.table import Table
from pararealize.ir.calibration import Calibration
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule
from pararealize.runtime.monitoring.report import Jump, Report

#: Most interfaces that have a column each.
COLUMNS = 8


def plan_html(plan: Plan) -> str:
    """The tables and sentences of an explanation."""
    return page_html(parts(plan))


def schedule_html(schedule: Schedule) -> str:
    """The tasks of a schedule by rank and step, as a picture."""
    return svg(of_schedule(schedule))


def network_html(plan: Plan, schedule: Schedule) -> str:
    """The predicted schedule as a picture, and the explanation of the plan."""
    picture = svg(of_plan(plan, schedule)) if plan.n > 1 else ""
    return f"<div>{picture}{plan_html(plan)}</div>"


def calibration_html(found: Calibration) -> str:
    """What every number of sweeps reaches, and what was chosen."""
    sentence = choice(found)
    return page_html((sweeps_table(found), sentence[0].upper() + sentence[1:]))


def report_html(report: Report) -> str:
    """Relative jumps by sweep and interface, and what else the report says."""
    tables = [
        by_sweep(name, jumps)
        for name, jumps in (("jumps", report.jumps), ("residuals of adjoints", report.adjoints))
        if jumps
    ]
    notes = [line for line in str(report).splitlines() if line[:1].isalpha()]
    kept = [line for line in notes if not line.startswith(("sweep", "adjoints"))]
    return page_html((*tables, *kept))


def by_sweep(what: str, jumps: tuple[Jump, ...]) -> Table:
    """One row a sweep or cycle (on each level): relative jumps, and the largest of them."""
    places = sorted({jump.interface for jump in jumps if jump.level == 1})
    single = len(places) <= COLUMNS
    names = [f"interface {place}" for place in places] if single else []
    rows = []
    for level, sweep in sorted({(jump.level, jump.sweep) for jump in jumps}):
        found = {j.interface: j.relative for j in jumps if (j.level, j.sweep) == (level, sweep)}
        cells = [f"{found[p]:.1e}" if p in found else "" for p in places] if single else []
        name = f"{sweep}" if level == 1 else f"{sweep} (level {level})"
        rows.append((name, f"{max(found.values()):.1e}", *cells))
    return Table(f"relative {what}", ("sweep", "largest", *names), rows)
