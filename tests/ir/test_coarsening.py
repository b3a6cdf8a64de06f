"""Coarsening: where levels end, the shortest path, and what is refused."""

from itertools import pairwise

import pytest

from pararealize.errors import MethodError
from pararealize.ir.coarsening import grouped, shortest
from pararealize.ir.methods import MGRIT, Parareal


def path(n: int, *factors: int) -> int:
    """Corrections one after another: all but the first of every group, and of the last level."""
    length = 0
    for factor in factors:
        length, n = length + min(factor, n) - 1, -(-n // factor)
    return length + n - 1


@pytest.mark.parametrize("n", [4, 6, 7, 18, 20, 32, 64])
def test_the_path_is_as_short_as_any_grouping_makes_it(n: int) -> None:
    assert shortest(n, 2) == (n - 1, ())
    least, (factor,) = shortest(n, 3)
    assert least == path(n, factor) == min(path(n, c) for c in range(2, n))
    least, factors = shortest(n, 4)
    pairs = [path(n, a, b) for a in range(2, n) for b in range(2, n)]
    assert least == path(n, *factors) == min([shortest(n, 3)[0], *pairs])


@pytest.mark.parametrize(
    ("n", "levels", "coarsening", "ends"),
    [
        (6, 3, 2, (0, 2, 4, 6)),
        (7, 3, 3, (0, 3, 6, 7)),
        (9, 3, None, (0, 3, 6, 9)),
        (8, 3, (7,), (0, 7, 8)),
    ],
)
def test_groups_are_neighbours_and_the_last_is_what_is_left(
    n: int, levels: int, coarsening: int | tuple[int, ...] | None, ends: tuple[int, ...]
) -> None:
    points = Parareal(levels=levels, coarsening=coarsening).points(n)
    assert points == (tuple(range(n + 1)), ends)


@pytest.mark.parametrize(
    ("n", "levels", "coarsening", "left"),
    [
        (1, 3, None, 2),
        (2, 3, None, 2),
        (3, 3, 3, 2),
        (3, 5, 2, 3),
        (4, 3, 9, 2),
        (8, 4, (2, 4), 3),
        (8, 9, 2, 4),
        (6, 7, None, 4),
    ],
)
def test_a_level_of_one_step_is_none(
    n: int, levels: int, coarsening: int | tuple[int, ...] | None, left: int
) -> None:
    points = grouped(n, levels, coarsening)
    assert len(points) + 1 == left
    assert all(len(each) > 2 for each in points[1:])
    assert all(set(above) < set(below) for below, above in pairwise(points))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"levels": 1}, r"Parareal\(levels=1\): expected an integer from 2"),
        ({"levels": 2.0}, r"Parareal\(levels=2.0\)"),
        ({"levels": True}, r"levels=True\): expected an integer from 2 to 64, or .auto."),
        ({"levels": "three"}, r"Parareal\(levels='three'\)"),
        ({"levels": 2, "coarsening": 4}, r"write Parareal\(levels=3, coarsening=4\)"),
        ({"levels": 3, "coarsening": 1}, r"levels=3, coarsening=1\): expected one factor"),
        ({"levels": 3, "coarsening": True}, "expected one factor of 2 or more"),
        ({"levels": 3, "coarsening": (2, 2)}, r"coarsening=\(2, 2\)\): expected one factor"),
        ({"levels": 4, "coarsening": (2,)}, "or 2 of them"),
        ({"levels": 4, "coarsening": (2, 2.0)}, "expected one factor"),
    ],
)
def test_what_is_no_grouping_is_refused(options: dict[str, object], found: str) -> None:
    with pytest.raises(MethodError, match=found):
        Parareal(**options)  # type: ignore[arg-type]


def test_both_methods_take_one_factor_or_as_many_as_there_are_levels() -> None:
    assert Parareal(levels=4, coarsening=[3, 2]).coarsening == (3, 2)  # type: ignore[arg-type]
    assert MGRIT(levels=3, coarsening=[3, 2]).factors == (3, 2)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="or 2 of them"):
        MGRIT(levels=3, coarsening=(2,))
