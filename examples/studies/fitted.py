"""Fitted: networks whose first and last layers are as wide as the examples ask for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pararealize.errors import DataError
from studies.labelled import Examples


def fitted(make: Callable[[], nn.Module], examples: Examples) -> Callable[[], nn.Module]:
    """Networks as ``make`` makes them, for the channels and the classes of the examples.

    The first convolution and the last linear layer are drawn anew where they differ.
    """

    def made() -> nn.Module:
        net = make()
        channels, classes = examples.train_inputs.shape[1], examples.classes
        named = dict(net.named_modules())
        first = next((n for n, m in named.items() if isinstance(m, nn.Conv2d)), None)
        last = next((n for n, m in reversed(named.items()) if isinstance(m, nn.Linear)), None)
        if first is not None and named[first].in_channels != channels:
            net.set_submodule(first, _convolution(named[first], channels))
        if last is not None and named[last].out_features != classes:
            bias = named[last].bias is not None
            net.set_submodule(last, nn.Linear(named[last].in_features, classes, bias=bias))
        _check(net, examples)
        return net

    return made


def _convolution(given: nn.Module, channels: int) -> nn.Conv2d:
    assert isinstance(given, nn.Conv2d)
    return nn.Conv2d(
        channels,
        given.out_channels,
        given.kernel_size,  # type: ignore[arg-type]  # two numbers
        stride=given.stride,  # type: ignore[arg-type]
        padding=given.padding,  # type: ignore[arg-type]
        bias=given.bias is not None,
    )


@torch.no_grad()
def _check(net: nn.Module, examples: Examples) -> None:
    """One example goes through."""
    shape = list(examples.train_inputs.shape[1:])
    training = net.training
    try:
        net.eval()(examples.test_inputs[:1])
    except (RuntimeError, ValueError) as error:
        raise DataError(f"this {type(net).__name__} takes no images {shape}: {error}") from error
    net.train(training)
