"""Samples of products of parameters: every two values of two of them meet, not all of all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


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
