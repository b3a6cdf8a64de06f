"""Sums and differences of states, leaf by leaf; batches cut and joined."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pararealize.errors import ShapeError
from pararealize.runtime.values.combine import combine, cut, join

A, B, C = (torch.arange(6.0).reshape(2, 3) * k + k for k in (1, 2, 5))


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(-9, 9)), min_size=1, max_size=5))
def test_signs_are_those_of_the_terms(terms: list[tuple[str, int]]) -> None:
    signs = "".join(sign for sign, _ in terms)
    values = [torch.full((2,), float(value)) for _, value in terms]
    expected = sum(value if sign == "+" else -value for sign, value in terms)
    assert torch.equal(combine(signs, *values), torch.full((2,), float(expected)))


def test_states_of_several_leaves() -> None:
    state = combine("+-", (A, {"b": B, "c": [C]}), (B, {"b": A, "c": [C]}))
    assert torch.equal(state[0], A - B)
    assert torch.equal(state[1]["b"], B - A)
    assert not state[1]["c"][0].any()


def test_leaves_that_cannot_be_corrected_come_from_the_first() -> None:
    index, mask = torch.tensor([1, 2]), torch.tensor([True, False])
    state = combine("+-+", (A, index, mask, 3), (B, index + 1, ~mask, 4), (C, index, mask, 5))
    assert torch.equal(state[0], A - B + C)
    assert state[1] is index
    assert state[2] is mask
    assert state[3] == 3


def test_terms_are_not_changed() -> None:
    before = A.clone()
    combine("-+", A, B)
    assert torch.equal(A, before)


def test_gradients_reach_every_term() -> None:
    terms = [torch.ones(2, requires_grad=True) for _ in range(3)]
    combine("+-+", *terms).sum().backward()
    assert [float(t.grad.sum()) for t in terms if t.grad is not None] == [2.0, -2.0, 2.0]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 1), ()])
def test_nothing_is_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"shape \[2, 3\] meets .*example_inputs=\(x,\)"):
        combine("+-", A, torch.ones(shape))


def test_structures_must_agree() -> None:
    with pytest.raises(ShapeError, match="different structure"):
        combine("+-", (A, B), A)
    with pytest.raises(ShapeError, match="different structure"):
        combine("+-", (A, B), (A, B, C))


# parts of a batch


@given(st.integers(1, 9), st.integers(1, 5))
def test_cut_parts_are_as_equal_as_can_be_and_join_again(batch: int, parts: int) -> None:
    value = torch.arange(float(batch * 2)).reshape(batch, 2)
    pieces = cut(value, parts)
    sizes = [len(piece) for piece in pieces]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert torch.equal(join(pieces), value)


def test_states_of_several_leaves_are_cut_alike() -> None:
    state = (A, {"b": torch.tensor([7, 8])})
    first, second = cut(state, 2)
    assert torch.equal(first[0], A[:1])
    assert torch.equal(second[0], A[1:])
    assert first[1]["b"].tolist() == [7]
    assert second[1]["b"].tolist() == [8]
    joined = join([first, second])
    assert torch.equal(joined[0], A)
    assert joined[1]["b"].tolist() == [7, 8]


def test_parts_are_views_and_joining_copies() -> None:
    state = torch.arange(4.0)
    first, second = cut(state, 2)
    joined = join([first, second])
    state[0] = 9
    assert first[0] == 9
    assert joined[0] == 0


def test_gradients_pass_through_cutting_and_joining() -> None:
    x = torch.arange(1.0, 6.0).double().requires_grad_()
    first, *others = cut(x, 3)
    (join([2 * first, *others]) ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [8.0, 16.0, 6.0, 8.0, 10.0]
