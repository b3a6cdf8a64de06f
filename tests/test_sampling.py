"""Samples of products."""

from itertools import combinations, product

from sampling import pairwise


def test_every_two_values_of_two_factors_meet() -> None:
    factors = [0, 1, 2], ["a", "b"], [True, False], ["x", "y", "z"]
    rows = pairwise(*factors)
    for i, j in combinations(range(4), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(factors[i], factors[j]))
    assert len(set(rows)) == len(rows) < 36 // 3


def test_of_two_factors_all_is_taken() -> None:
    assert pairwise([1, 2], [3, 4]) == [(1, 3), (1, 4), (2, 3), (2, 4)]
