"""Module: what can be compiled, and copies of it to work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from pararealize.errors import NotAModuleError, TraceError
from pararealize.tracing.copying import copy_tree
from pararealize.tracing.wrappers import check_whole

#: Tensors without a shape.
LAZY = (UninitializedParameter, UninitializedBuffer)


def copy_module(model: nn.Module) -> nn.Module:
    """A deep copy to compile, so that the caller's model is never touched.

    Raises:
        NotAModuleError: ``model`` is no module.
        TraceError: it cannot be copied.

    """
    check_module(model)
    return _copied(model, {})


def _copied(model: nn.Module, known: Mapping[int, Any]) -> nn.Module:
    """A copy in which what is ``known`` by its id stands for what it would be copied to."""
    try:
        return copy_tree(model, known)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({error}); compile a freshly built model, "
            "before it holds activations or open handles."
        ) from error


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """A copy to look at, which reads the weights of the model's own memory.

    Nothing may write on them; statistics and all else are the copy's own.

    Raises:
        NotAModuleError: ``model`` is no module.
        TraceError: it cannot be copied.

    """
    check_module(model)
    plain = [p for p in model.parameters() if type(p) is nn.Parameter]
    twins = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in plain}
    for parameter in plain:
        vars(twins[id(parameter)]).update(vars(parameter))
    return _copied(model, twins)


def check_module(model: object) -> None:
    """Raise where there is no network to compile.

    Raises:
        NotAModuleError: ``model`` is no module; says what it is.
        TraceError: it has weights without numbers, or parts of weights.

    """
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else f"{model!r:.60}"
        hint = " Call it first: pararealize(Model(), n=...)." if callable(model) else ""
        raise NotAModuleError(f"expected a torch.nn.Module to compile, found {found}.{hint}")
    check_whole(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "the network is compiled by torch.jit, and has no layers to look into: compile the "
            "module that was scripted, pararealize(model, n) before torch.jit.script(model)."
        )
    tensors = (*model.named_parameters(), *model.named_buffers())
    lazy = next((name for name, t in tensors if isinstance(t, LAZY)), None)
    if lazy is not None:
        raise TraceError(
            f"{lazy!r} has no shape yet, as the module is a lazy one: call the network once before "
            "it is compiled, with torch.no_grad(): model(x)."
        )
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if empty is not None:
        raise TraceError(
            f"{empty!r} is on the meta device and has no numbers: give it some before compiling, "
            "model.to_empty(device='cpu') and then your initialisation or load_state_dict."
        )
