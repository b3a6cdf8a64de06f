"""Parameter-free maps: they fit, or do not exist."""

import pytest
import torch
from state_shapes import MAPS, VECTORS, pairs, state
from torch import Tensor, nn

from pararealize.ir.chain import State, TensorSpec
from pararealize.propagators.parameter_free import ParameterFree, has_identity, identity


@pytest.mark.parametrize(
    ("source", "target"),
    [*pairs(MAPS), *pairs(VECTORS), ((2, 5, 8), (2, 5, 8)), ((2, 6, 4, 4), (2, 4))],
)
def test_the_identity_has_no_parameters(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    module = identity(state(source), state(target))
    assert isinstance(module, ParameterFree)
    assert not list(module.parameters())
    x = torch.randn(source)
    assert module(x).shape == target
    assert not module(torch.zeros(source)).any()
    if source == target:
        assert torch.equal(module(x), x)


def test_the_identity_cuts_and_pads_channels() -> None:
    x = torch.randn(2, 4, 3, 3)
    wide, narrow = (
        identity(state((2, 4, 3, 3)), state((2, 6, 3, 3))),
        identity(state((2, 4, 3, 3)), state((2, 1, 3, 3))),
    )
    assert wide is not None
    assert narrow is not None
    assert torch.equal(wide(x)[:, :4], x)
    assert not wide(x)[:, 4:].any()
    assert torch.equal(narrow(x), x[:, :1])


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (state((2, 5, 8)), state((2, 5, 4))),
        (state((2, 8)), state((2, 4, 2, 2))),
        (state((2, 8)), state((2, 8), (2, 8))),
        (state((3, 5, 4)), state((15, 4))),
    ],
)
def test_shapes_without_identity(source: State, target: State) -> None:
    assert identity(source, target) is None


def test_the_identity_of_tuples() -> None:
    module = identity(state((2, 4), (2, 3, 4, 4)), state((2, 6), (2, 3, 2, 2)))
    assert isinstance(module, nn.Module)
    shapes: list[Tensor] = list(module(torch.ones(2, 4), torch.ones(2, 3, 4, 4)))
    assert [tuple(leaf.shape) for leaf in shapes] == [(2, 6), (2, 3, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
def test_no_mask_or_index_is_mapped(dtype: torch.dtype) -> None:
    """Neither to numbers nor of them, also of one shape; beside others they are zero."""
    numbers, others = TensorSpec((2, 4, 8, 8)), TensorSpec((2, 4, 8, 8), dtype)
    for source, target in ((numbers, others), (others, numbers)):
        assert not has_identity((source,), (target,))
        assert identity((source,), (target,)) is None
    assert has_identity((others,), (others,))
    module = identity((numbers, numbers), (others, numbers))
    assert module is not None
    x = torch.randn(2, 4, 8, 8)
    mask, same = module(x, x)
    assert mask.dtype == dtype
    assert not mask.any()
    assert torch.equal(same, x)
    assert not has_identity((others, numbers), (numbers, others))
