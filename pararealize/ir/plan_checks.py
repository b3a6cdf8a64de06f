"""Plan checks: whether the entries of a saved plan, which have the right types, fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pararealize.ir.calibration import ABOVE, Calibration

if TYPE_CHECKING:
    from pararealize.ir.plan import Plan

#: Numbers that may be anything that a measurement can give.
MEASURED = ("error",)


def check_plan(plan: Plan) -> None:
    """Raise where a plan says what no network can be.

    Raises:
        ValueError: names the entry.

    """
    if not plan.pieces:
        raise ValueError("$.pieces: no subnetwork at all")
    for number, piece in enumerate(plan.pieces, start=1):
        where = f"$.pieces[{number - 1}]"
        if piece.index != number:
            raise ValueError(f"{where}.index: {piece.index} in the place of {number}")
        if piece.depth < 1:
            raise ValueError(f"{where}.depth: {piece.depth} layers")
        _check_numbers(piece, where)
    _check_numbers(plan, "$")
    for i, group in enumerate(plan.groups):
        _check_numbers(group, f"$.groups[{i}]")
        if not 1 <= group.first <= group.last <= plan.n or group.level < 3:
            raise ValueError(f"$.groups[{i}]: subnetworks {group.first} … {group.last}")
    for i, stack in enumerate(plan.stacks):
        _check_numbers(stack, f"$.stacks[{i}]")
    if plan.calibration is not None:
        _check_numbers(plan.calibration, "$.calibration")
        for entry, problem in _calibration_problems(plan.calibration, plan.n):
            raise ValueError(f"$.calibration.{entry}: {problem}")


def _check_numbers(data: Any, where: str) -> None:
    for field in fields(data):
        value = getattr(data, field.name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and field.name not in MEASURED and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{where}.{field.name}: {value!r:.40} is no amount of anything")


def _calibration_problems(found: Calibration, n: int) -> Iterator[tuple[str, str]]:
    kinds = {candidate.name: candidate for candidate in found.candidates}
    if found.name not in kinds:
        yield "kind", f"{found.name!r:.40} is none of {sorted(kinds)}"
        return
    counts = [sweeps.count for sweeps in kinds[found.name].sweeps]
    if found.iterations not in counts:
        yield "iterations", f"{found.iterations} sweeps, measured were {counts}"
    certificate = found.certificate
    if certificate is None:
        return
    if not 1 <= certificate.sweeps <= found.iterations:
        yield "certificate.sweeps", f"{certificate.sweeps} of 1 to {found.iterations}"
    if certificate.above not in ABOVE:
        yield "certificate.above", f"{certificate.above!r:.40} is none of {ABOVE}"
    numbers = list(certificate.weights)
    if not all(1 <= j <= n for j in numbers) or max(numbers, default=0) < certificate.sweeps:
        yield "certificate.weights", f"for interfaces {numbers} of 1 to {n}"
    for i, region in enumerate(certificate.regions):
        if not 1 <= region.interface <= n:
            yield f"certificate.regions[{i}].interface", f"{region.interface} of 1 to {n}"
