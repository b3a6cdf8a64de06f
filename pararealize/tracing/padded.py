"""Padded: inputs some of whose positions are padding, so that a network shows its masks.

Networks of `transformers` hand their blocks no mask where nothing is to be masked. A program made
of such a call would have none, also for inputs that need one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.propagators.meta_run import REFUSALS
from pararealize.tracing.observation import observe

#: Axes of inputs that may be padded: ``[batch, positions, …]``.
AXES = 2


def showing_masks(
    model: nn.Module, paths: Sequence[str], tensors: Mapping[str, Any], others: Mapping[str, Any]
) -> dict[str, Any]:
    """The tensors that are given, or padded ones where these have it hand its blocks more tensors.

    With them in place of absent ones a program serves both.
    """
    given, other = dict(tensors), {k: _padded(model, v) for k, v in tensors.items()}
    if all(other[name] is value for name, value in given.items()):
        return given
    try:
        plain, masked = (
            observe(model, paths, {**others, **each}, training=False) for each in (given, other)
        )
    except REFUSALS:  # the network's own, of inputs that are no such thing
        return given
    counts = [sum(len(call.taken) for call in seen.calls) for seen in (plain, masked)]
    alike = [call.path for call in plain.calls] == [call.path for call in masked.calls]
    return other if alike and counts[1] > counts[0] else given


def _padded(model: nn.Module, value: Any) -> Any:
    """The value with padding in the last half of its positions; itself where it has none."""
    if not isinstance(value, Tensor) or value.dim() < AXES or value.shape[1] < AXES:
        return value
    if value.is_floating_point() or value.is_complex():
        whole = value.numel() and bool((value == 1).all())  # a mask of factors
        return _filled(value, 0) if whole else value
    if value.dtype == torch.bool:
        return _filled(value, not bool(value.all()) and not bool(value.any()))
    is_mask = bool(((value == 0) | (value == 1)).all())
    return _filled(value, *((0,) if is_mask else _paddings(model)))


def _filled(value: Tensor, *numbers: float) -> Tensor:
    """The last half of the positions with each of the numbers in turn."""
    padded, half = value.clone(), value.shape[1] // 2
    for i, number in enumerate(numbers):
        padded[:, half + i :: len(numbers)] = number
    return padded


def _paddings(model: nn.Module) -> list[int]:
    """Numbers that may stand for no word: 0, and what configurations and tables say."""
    found: list[Any] = [0]
    for module in model.modules():
        config = getattr(module, "config", None)
        found += [getattr(config, "pad_token_id", None), getattr(module, "padding_idx", None)]
    return list(dict.fromkeys(number for number in found if type(number) is int))
