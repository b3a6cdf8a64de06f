"""Samples of products."""

from itertools import combinations, product

import pytest

from pararealize.coarse.registry import KINDS
from sampling import cover, pairwise, sampled


def test_every_two_values_of_two_factors_meet() -> None:
    factors = [0, 1, 2], ["a", "b"], [True, False], ["x", "y", "z"]
    rows = pairwise(*factors)
    for i, j in combinations(range(4), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(factors[i], factors[j]))
    assert len(set(rows)) == len(rows) < 36 // 3


def test_of_two_factors_all_is_taken() -> None:
    assert pairwise([1, 2], [3, 4]) == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_every_value_is_covered() -> None:
    rows = [list(enumerate(row)) for row in product("abc", "xy", "12")]
    chosen = cover(rows)
    assert {value for i in chosen for value in rows[i]} == {value for row in rows for value in row}
    assert len(chosen) == 3
    assert cover([[], []]) == []


def test_no_function_kind_engine_or_number_of_ranks_is_left_out(
    request: pytest.FixtureRequest,
) -> None:
    """Of what is not marked ``rest``; where the whole suite was collected, its ranks too."""
    items = request.session.items
    kept = sampled(items)
    assert kept <= set(items)
    functions = {item.nodeid.partition("[")[0] for item in items}
    marked = {i.nodeid.partition("[")[0] for i in items if i.get_closest_marker("rest")}
    assert functions - marked <= {item.nodeid.partition("[")[0] for item in kept}
    names = {item.name for item in kept if "test_ranks" in item.nodeid}
    if not names:
        pytest.skip("only a part of the suite was collected")
    for place in ("2-", "3-", "4-", "@mpi", "@gloo"):
        assert any(place in name for name in names), place
    cases = " ".join(item.name for item in kept)
    assert not [kind.name for kind in KINDS if kind.name not in cases]
