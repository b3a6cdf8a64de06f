"""The hierarchy: strides inside slices, then slices joined; what cannot be coarsened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pararealize.errors import MethodError
from pararealize.ir.hierarchy import Level, hierarchy, propagator
from pararealize.ir.target import Target

FINE = tuple(range(5))


@pytest.mark.parametrize(
    ("longest", "factors", "wanted"),
    [
        # strides inside slices only
        ([8] * 4, (8,), [(FINE, 8)]),
        ([8] * 4, (2, 4), [(FINE, 2), (FINE, 8)]),
        ([8] * 4, (4, 4), [(FINE, 4), (FINE, 16)]),  # 4 of 8 layers, then of their 2
        # slices are down to one layer: neighbours become one
        ([4] * 4, (4, 2), [(FINE, 4), ((0, 2, 4), 8)]),
        ([4] * 4, (4, 2, 2), [(FINE, 4), ((0, 2, 4), 8), ((0, 4), 16)]),
        ([1] * 4, (2,), [((0, 2, 4), 2)]),
        ([1] * 4, (2, 2), [((0, 2, 4), 2), ((0, 4), 4)]),
        ([1] * 4, (3,), [((0, 3, 4), 3)]),  # the last interval is shorter
        ([1] * 4, (4,), [((0, 4), 4)]),
        # uneven slices: the longest one decides
        ([2, 5, 1, 3], (4,), [(FINE, 4)]),
        ([2, 5, 1, 3], (4, 2), [(FINE, 4), (FINE, 8)]),
        ([2, 5, 1, 3], (4, 2, 2), [(FINE, 4), (FINE, 8), ((0, 2, 4), 16)]),
        # more than a slice has
        ([4] * 4, (16,), [(FINE, 16)]),
    ],
)
def test_hierarchies(
    longest: list[int], factors: tuple[int, ...], wanted: list[tuple[tuple[int, ...], int]]
) -> None:
    assert hierarchy(longest, factors) == (Level(FINE, 1), *(Level(*each) for each in wanted))


def test_a_factor_larger_than_the_chain_is_refused() -> None:
    with pytest.raises(MethodError) as caught:
        hierarchy([4] * 3, (13,))
    assert str(caught.value) == (
        "coarsening=13 is more than the 12 residual layers that the network has: "
        "write MGRIT(coarsening=4)."
    )
    assert len(hierarchy([4] * 3, (12,))) == 2


def test_a_level_that_would_leave_nothing_is_refused() -> None:
    with pytest.raises(MethodError) as caught:
        hierarchy([1] * 4, (2, 2, 2))
    assert str(caught.value) == (
        "level 4 would leave nothing: level 3 has one layer already. Write MGRIT(levels=3), or a "
        "smaller coarsening."
    )
    assert len(hierarchy([2], (2,))) == 2
    with pytest.raises(MethodError, match="level 3 would leave nothing"):
        hierarchy([2], (2, 2))


@given(
    longest=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    factors=st.lists(st.integers(2, 5), min_size=1, max_size=4),
)
def test_levels_nest_and_get_coarser(longest: list[int], factors: list[int]) -> None:
    try:
        levels = hierarchy(longest, factors)
    except MethodError:
        return
    n = len(longest)
    assert levels[0] == Level(tuple(range(n + 1)), 1)
    assert len(levels) == len(factors) + 1
    for fine, coarse, c in zip(levels, levels[1:], factors, strict=False):
        assert set(coarse.bounds) <= set(fine.bounds)
        assert (coarse.bounds[0], coarse.bounds[-1]) == (0, n)
        assert coarse.bounds == tuple(sorted(set(coarse.bounds)))
        assert coarse.stride == fine.stride * c
        joined = coarse.bounds != fine.bounds
        assert joined == (fine.stride >= max(longest) and fine.steps > 1)
        assert not joined or coarse.steps == -(-fine.steps // c)
        intervals = list(fine.intervals(coarse))
        assert [fine.bounds[first] for first, _ in intervals] == list(coarse.bounds[:-1])
        assert [fine.bounds[last] for _, last in intervals] == list(coarse.bounds[1:])
        assert fine.mirrored().mirrored() == fine
        assert set(coarse.mirrored().bounds) <= set(fine.mirrored().bounds)


def test_propagators_of_levels() -> None:
    found = [propagator(level, 3) for level in (1, 2, 3, 4)]
    assert found == [Target.fine(3), *(Target.coarse(3, level) for level in (2, 3, 4))]
