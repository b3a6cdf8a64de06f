"""Guess networks: they fit, see neighbours, and take what images, sequences and volumes come."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pararealize.ir.chain import TensorSpec
from pararealize.propagators.guess_networks import ConvolutionGuess, PatchGuess, generic_guess

KINDS = {
    "convolutions": ConvolutionGuess,
    "few convolutions": ConvolutionGuess,
    "patches": PatchGuess,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "target"),
    [((2, 3, 32, 32), (2, 16, s, s)) for s in (32, 16, 8, 4, 1, 11)]
    + [((2, 1, 28, 28), (2, 8, s, s)) for s in (28, 14, 7, 4)]
    + [((2, 3, 64), (2, 5, 16)), ((2, 8), (2, 5)), ((2, 7, 8), (2, 7, 5))],
)
def test_guesses_map_the_input_to_the_state(
    source: tuple[int, ...], target: tuple[int, ...], kind: str
) -> None:
    module = generic_guess(TensorSpec(source), TensorSpec(target), kind)
    assert module is not None
    assert module(torch.randn(source)).shape == target
    is_map = len(target) == 4 or target == (2, 5, 16)
    assert isinstance(module, KINDS[kind]) == is_map


@pytest.mark.parametrize(
    ("source", "target"),
    [((2, 3, 32, 32), (2, 10)), ((2, 8), (2, 3, 4, 4)), ((2, 3, 8, 8), (2, 3, 16, 16))],
)
def test_guesses_no_network_is_known_for(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    assert generic_guess(TensorSpec(source), TensorSpec(target), "convolutions") is None
    indices = TensorSpec(source, torch.int64)
    assert generic_guess(indices, TensorSpec(target), "convolutions") is None


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=3),
    st.integers(1, 70),
)
def test_convolutions_come_to_every_ratio(axes: list[tuple[int, int]], channels: int) -> None:
    """Rounded up factor by factor, a size is what it is divided by their product, rounded up."""
    sizes, ratio = zip(*axes, strict=True)
    source = TensorSpec((2, 1, *sizes))
    reached = tuple(math.ceil(size / part) for size, part in axes)
    guess = ConvolutionGuess(source, TensorSpec((2, channels, *reached)), ratio).eval()
    assert guess(torch.randn(source.shape)).shape == (2, channels, *reached)


@pytest.mark.parametrize("kind", KINDS)
def test_a_guess_of_images_sees_neighbours(kind: str) -> None:
    module = generic_guess(TensorSpec((2, 1, 8, 8)), TensorSpec((2, 64, 4, 4)), kind)
    assert isinstance(module, KINDS[kind])
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    module.eval()(x)[0, :, 1, 1].sum().backward()
    assert x.grad is not None
    assert int((x.grad != 0).sum()) > 4


def widths(channels: int, ratio: tuple[int, ...]) -> list[int]:
    """Channels after every convolution of a guess."""
    sizes = tuple(2 * part for part in ratio)
    source, target = TensorSpec((2, 3, *sizes)), TensorSpec((2, channels, *(2,) * len(ratio)))
    layers = ConvolutionGuess(source, target, ratio).features
    return [layer.out_channels for layer in layers if isinstance(layer, nn.modules.conv._ConvNd)]


@pytest.mark.parametrize(
    ("channels", "ratio", "expected"),
    [
        (256, (1, 1), [64, 64]),
        (256, (4, 4), [16, 16, 32, 32, 64, 64]),
        (512, (8, 8), [16, 16, 32, 32, 64, 64, 128, 128]),
        (128, (4, 4), [16, 16, 16, 16, 32, 32]),  # not narrower than sixteen
        (8, (4, 4), [2] * 6),  # unless the state is
        (512, (6, 2), [21, 21, 42, 42, 128, 128]),
        (256, (7,), [16, 16, 64, 64]),
    ],
)
def test_channels_double_where_the_image_is_halved(
    channels: int, ratio: tuple[int, ...], expected: list[int]
) -> None:
    assert widths(channels, ratio) == expected
