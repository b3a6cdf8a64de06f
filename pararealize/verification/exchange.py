"""Exchange: what layers are given and give, between a network and the program beside it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.runtime.values.pytree import tensors_of

#: What needs no look inside.
PLAINEST = (Tensor, nn.Parameter, int, float, bool, type(None))


class RefusedError(Exception):
    """The network itself raises an error on the inputs at hand."""


class PartedError(Exception):
    """Values that both share were written on: each needs its own."""


def quick_tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, without asking what else there may be where it is plain."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and all(type(v) in PLAINEST for v in value):
        return [v for v in value if isinstance(v, Tensor)]
    if type(value) is tuple and len(value) == 2 and value[1] == {}:  # arguments of a layer
        return quick_tensors(tuple(value[0]))
    return tensors_of(value)


def given_to(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments to compare; whether ``None`` was passed or left out is the same."""
    return (*args, *(kwargs[name] for name in sorted(kwargs) if kwargs[name] is not None))


def own_copy(tensor: Tensor, given: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A layer's result on memory of the program's own: a copy, or a view of its argument."""
    for theirs, mine in given:
        if tensor is theirs:
            return mine
        strided = tensor.layout == theirs.layout == torch.strided
        base = theirs if theirs._base is None else theirs._base  # a tensor has no truth value
        if strided and tensor._is_view() and tensor._base is base:
            offset = tensor.storage_offset() - theirs.storage_offset() + mine.storage_offset()
            if mine.stride() == theirs.stride() and offset >= 0:
                return mine.as_strided(tensor.shape, tensor.stride(), offset)
    return tensor.detach().clone()


def answer(root: nn.Module, call: inspect.BoundArguments) -> Any:
    """The network's answer, without the root's own hooks.

    Raises:
        RefusedError: the network raises an error.

    """
    try:
        return root.forward(*call.args, **call.kwargs)
    except Exception as error:
        text = str(error).strip().partition("\n")[0].rstrip(".")
        raise RefusedError(f"raises {type(error).__name__}: {text}") from error
