"""Generic networks between shapes: they fit, are linear where asked, or do not exist."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from state_shapes import INDICES, MAPS, VECTORS, pairs, state

from pararealize.ir.chain import State, TensorSpec
from pararealize.propagators.generic import (
    LowRank,
    Resize,
    generic_coarse,
)


@pytest.mark.parametrize(
    ("source", "target"), [*pairs(MAPS), *pairs(VECTORS), *((m, v) for m in MAPS for v in VECTORS)]
)
def test_coarse_networks_map_one_shape_to_the_other(
    source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    module = generic_coarse(state(source), state(target), bias=False)
    assert module is not None
    x = torch.randn(source)
    assert module(x).shape == target
    torch.testing.assert_close(module(3 * x), 3 * module(x), rtol=1e-4, atol=1e-5)
    assert not module(torch.zeros(source)).any()


@pytest.mark.parametrize("target", [(2, 6), (2, 3)])
@pytest.mark.parametrize("source", [(2, 6), (2, 8, 3, 3)])
def test_coarse_networks_to_vectors_are_linear(
    source: tuple[int, ...], target: tuple[int, ...]
) -> None:
    module = generic_coarse(state(source), state(target), bias=False)
    assert module is not None
    x, y = torch.randn(source), torch.randn(source)
    torch.testing.assert_close(module(x - 2 * y), module(x) - 2 * module(y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [(2, 4, 8, 8), (2, 8, 4, 4)])
def test_biases_are_as_asked(target: tuple[int, ...]) -> None:
    source = state((2, 4, 8, 8))
    with_bias = generic_coarse(source, state(target), bias=True)
    assert with_bias is not None
    assert any("bias" in name for name, _ in with_bias.named_parameters())
    without = generic_coarse(source, state(target), bias=False)
    assert without is not None
    assert not any("bias" in name for name, _ in without.named_parameters())


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 8), (2, 5, 8), (2, 3, 2, 4, 4)])
def test_equal_shapes_skip(shape: tuple[int, ...]) -> None:
    module = generic_coarse(state(shape), state(shape), bias=False)
    assert module is not None
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    x = torch.randn(shape)
    assert torch.equal(module(x), x)


def test_other_batches_fit() -> None:
    module = generic_coarse(state((2, 4, 8, 8)), state((2, 6, 4, 4)), bias=True)
    assert module is not None
    assert module(torch.randn(7, 4, 8, 8)).shape == (7, 6, 4, 4)
    assert module(torch.randn(1, 4, 16, 16)).shape == (1, 6, 8, 8)


@pytest.mark.parametrize(
    ("source", "target", "unread"),
    [
        (state((2, 8), (2, 8), (2, 5)), state((2, 8)), 2),
        (state((2, 4, 8, 8), (2, 6, 4, 4)), state((2, 4, 8, 8)), 1),
        (state((2, 8), (2, 5), (2, 8)), state((2, 3), (2, 8)), 1),
        (state((2, 5, 4), (2, 5, 6)), state((2, 5, 6)), 1),
        ((*state((2, 8)), *INDICES), state((2, 8)), 0),
    ],
)
def test_every_leaf_is_read_where_that_is_asked(source: State, target: State, unread: int) -> None:
    """What made a leaf that nothing reads would get no gradient."""
    counts = []
    for reads_all in (False, True):
        module = generic_coarse(source, target, bias=False, reads_all=reads_all)
        assert module is not None
        given = [torch.randn(spec.shape, requires_grad=True) for spec in source]
        answer = module(*given)
        leaves = answer if isinstance(answer, tuple) else (answer,)
        assert [leaf.shape for leaf in leaves] == [spec.shape for spec in target]
        total = torch.stack([leaf.square().sum() for leaf in leaves]).sum()
        grads = torch.autograd.grad(total, given, allow_unused=True)
        counts.append(sum(grad is None for grad in grads))
    fixed = sum(not spec.dtype.is_floating_point for spec in source)
    assert counts == [unread + fixed, fixed]


def test_tuples_go_leaf_by_leaf() -> None:
    module = generic_coarse(state((2, 8), (2, 4, 8, 8)), state((2, 3), (2, 4, 4, 4)), bias=False)
    assert module is not None
    a, b = module(torch.randn(2, 8), torch.randn(2, 4, 8, 8))
    assert (a.shape, b.shape) == ((2, 3), (2, 4, 4, 4))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (state((2, 8)), state((2, 4, 8, 8))),
        ((), state((2, 8))),
        (INDICES, state((2, 4))),
        (state((2, 4)), INDICES),
        (state((3, 5, 4)), state((15, 4))),
        (state((2, 4)), state((8,))),
    ],
)
def test_shapes_no_network_is_known_for(source: State, target: State) -> None:
    assert generic_coarse(source, target, bias=False) is None


def test_low_rank_is_a_quarter_of_the_narrower_side() -> None:
    module = LowRank(TensorSpec((2, 32)), TensorSpec((2, 16)), bias=False)
    assert module.compress.out_features == 4
    assert LowRank(TensorSpec((2, 3)), TensorSpec((2, 3)), bias=False).compress.out_features == 1


@given(st.integers(1, 12), st.integers(1, 12))
def test_resizing_reaches_every_size(before: int, after: int) -> None:
    x = torch.ones(1, 1, before, before)
    y = Resize((before, before), (after, after))(x)
    assert y.shape == (1, 1, after, after)
    assert torch.equal(y, torch.ones_like(y))


def test_resizing_halves_other_sizes_too() -> None:
    assert Resize((8, 8), (4, 4))(torch.ones(1, 1, 6, 6)).shape == (1, 1, 3, 3)
    assert Resize((4,), (8,))(torch.ones(1, 1, 3)).shape == (1, 1, 6)
