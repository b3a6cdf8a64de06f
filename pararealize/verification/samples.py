"""Samples: real inputs of a network, as given or of the shapes that were inferred."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cost.profile import random_like
from pararealize.ir.chain import Profile, TensorSpec
from pararealize.ir.program import FIXED, Program
from pararealize.runtime.values.pytree import map_tensors, tensors_of


def samples(
    program: Program, profile: Profile, given: Mapping[str, Any] | None, model: nn.Module
) -> dict[str, Any]:
    """The network's inputs by the names of their operations; random numbers where none are given.

    Whole numbers lie below the size of the smallest table that the network looks numbers up in.
    """
    found: dict[str, Any] = {}
    for operation in program.inputs:
        default = operation.args[0] if operation.args else None
        value = (given or {}).get(operation.target, operation.kwargs.get(FIXED, default))
        if value is None and not operation.args:
            value = profile.inputs[operation.name]
        found[operation.name] = map_tensors(_plain, _made(value, model))
    return found


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _made(value: Any, model: nn.Module) -> Any:
    """A value with tensors in place of what only says their shapes."""
    if type(value) in {tuple, list}:
        return type(value)(_made(item, model) for item in value)
    if not isinstance(value, TensorSpec):
        return value
    tensor = random_like(value, model)
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        return tensor
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return tensor if not tables else torch.randint_like(tensor, min(tables))


def rows(inputs: Mapping[str, Any]) -> int:
    """The size of the first axis that all tensors share, or 0."""
    tensors = tensors_of(list(inputs.values()))
    sizes = {t.shape[0] if t.dim() and t.layout == torch.strided else 0 for t in tensors}
    return sizes.pop() if len(sizes) == 1 else 0


def last_rows(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The last ``count`` rows of all tensors, the last one first; all inputs where there are none.

    In another order than they were given, they are not what a container still holds of them.
    """
    if not count:
        return dict(inputs)
    return {k: map_tensors(lambda t: t[-count:].flip(0), v) for k, v in inputs.items()}


def call_of(
    model: nn.Module, program: Program, inputs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """The inputs as arguments of the network's ``forward``, in tensors of its own.

    What has its default is left out: code around a forward may ask what it is given.
    """
    call = inspect.signature(model.forward).bind_partial()
    names = {o.target.lstrip("*"): o.name for o in program.inputs}
    for name, parameter in call.signature.parameters.items():
        if name in names:
            value = inputs[names[name]]
            if value is parameter.default:
                continue
            if value is None and parameter.kind in {
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            }:
                continue
            call.arguments[name] = map_tensors(torch.clone, value)
    return call
