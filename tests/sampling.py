"""Samples: of products of parameters, of their cases, and of examples of laws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest

#: Cases of one list up to which all are taken, and how many lie between two that are, beyond.
SHORT, STRIDE = 8, 5


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with a value of each factor, so that every pair of values stands in one of them."""
    rows = list(product(*(range(len(factor)) for factor in factors)))
    missing = {pair for row in rows for pair in _pairs(row)}
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(_pairs(row) & missing))
        missing -= _pairs(best)
        chosen.append(best)
    return [tuple(f[i] for f, i in zip(factors, row, strict=True)) for row in sorted(chosen)]


def _pairs(row: Sequence[int]) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(row), 2))


def examples(count: int) -> int:
    """As many examples, of 20 that other laws have by default; fewer where those have fewer."""
    from hypothesis import settings  # noqa: PLC0415  the process that hands out tests has none

    return max(1, count * settings.default.max_examples // 20)


def sampled(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """The tests of a sample, of each function one case or more unless it is marked ``rest``."""
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("rest") is None:
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {item for cases in functions.values() for item in _sample_of(cases)}


def _sample_of(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Cases of one function: every value of what is combined, of a long list every fifth."""
    if cases[0].get_closest_marker("whole") is not None:
        return cases
    chosen = cover([list(enumerate(_values(case))) for case in cases])
    if len(chosen) == len(cases) > SHORT:
        return cases[::STRIDE]
    return [cases[i] for i in chosen] or cases


def _values(case: pytest.Item) -> list[str]:
    """What identifiers of a case are made of: a product may be one of parameters or a list."""
    return case.name.partition("[")[2].rstrip("]").split("-")


def cover(rows: Sequence[Sequence[Any]]) -> list[int]:
    """Positions of rows in which every value occurs, those first that have the most new ones."""
    missing = {value for row in rows for value in row}
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda i: len(missing & set(rows[i])))
        missing -= set(rows[best])
        chosen.append(best)
    return sorted(chosen)
