"""Coarsening: how many steps of one level a step of the next stands for, and where levels end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import Any

from pararealize.errors import MethodError
from pararealize.ir.options import is_count, shown

#: Of a level, the interfaces that its steps lead from and to, the network's two ends among them.
Points = tuple[int, ...]


def check_coarsening(method: Any, factors: int) -> None:
    """Raise where ``coarsening`` is neither one factor nor as many as there are coarse levels.

    A list becomes a tuple.

    Raises:
        MethodError: shows the line to write.

    """
    kind, given = type(method).__name__, method.coarsening
    if isinstance(given, list):
        object.__setattr__(method, "coarsening", tuple(given))
    each = given if isinstance(given, (tuple, list)) else (given,)
    fits = len(each) == factors or isinstance(given, int)
    if not fits or not all(is_count(factor, 2) for factor in each):
        raise MethodError(
            f"{kind}(levels={method.levels}, coarsening={shown(given)}): expected one factor of 2 "
            f"or more, or {factors} of them, one for each coarse level: "
            f"{kind}(levels={method.levels}, coarsening=8)."
        )


def check_groups(method: Any, most: int) -> None:
    """Raise where ``levels`` and ``coarsening`` of corrections do not fit together.

    Raises:
        MethodError: shows the line to write.

    """
    levels, groups = method.levels, method.coarsening
    if levels != "auto" and not is_count(levels, 2, most):
        raise MethodError(
            f"Parareal(levels={shown(levels)}): expected an integer from 2 to {most}, or 'auto', "
            "for example Parareal(levels=3)."
        )
    if groups is not None and levels == 2:
        raise MethodError(
            f"Parareal(levels=2, coarsening={shown(groups)}): with two levels there are no groups: "
            f"write Parareal(levels=3, coarsening={shown(groups)}), or leave coarsening out."
        )
    if groups is not None:
        check_coarsening(method, 1 if levels == "auto" else levels - 2)


def grouped(n: int, levels: int, coarsening: int | Sequence[int] | None) -> tuple[Points, ...]:
    """The points of corrections in levels, of level 2, whose steps are n subnetworks, and so on.

    Steps of a level above are groups of so many neighbours, the last of what is left; without a
    ``coarsening`` they are such that the path of corrections is shortest. A level of one
    step would correct nothing, so that there is none: fewer levels are left.

    >>> grouped(7, 3, 3)
    ((0, 1, 2, 3, 4, 5, 6, 7), (0, 3, 6, 7))

    """
    found = [tuple(range(n + 1))]
    if coarsening is None:
        factors: Sequence[int] = shortest(n, levels)[1]
    else:
        factors = [coarsening] * (levels - 2) if isinstance(coarsening, int) else coarsening
    for factor in factors:
        if len(found[-1]) - 1 <= factor:
            break
        found.append(tuple(dict.fromkeys((*found[-1][::factor], n))))
    return tuple(found)


@cache
def shortest(steps: int, levels: int) -> tuple[int, tuple[int, ...]]:
    """The least number of corrections one after another, and the groups that make it so.

    In groups of c those inside a group, beside the others, are c - 1, and then come those of the
    groups; of several as short, small groups come first.

    >>> shortest(64, 3)
    (14, (8,))

    """
    best: tuple[int, tuple[int, ...]] = (max(steps - 1, 0), ())
    for factor in range(2, steps if levels > 2 else 0):
        above, rest = shortest(ceil(steps / factor), levels - 1)
        found = (factor - 1 + above, (factor, *rest))
        if found[0] < best[0] or (found[0] == best[0] and not best[1]):
            best = found
    return best
