"""Uncut: modules that are called whole for what they are, whatever their forward does."""

from __future__ import annotations

import sys

import torch
from torch import nn

from pararealize.runtime.effects.generators import holds_generator


def compiled(module: nn.Module) -> nn.Module | None:
    """The network inside ``torch.compile(network)``; ``None`` where a module is no such wrapper.

    Importing torch's compiler takes longer than importing torch. Where nobody has imported it,
    nothing is compiled by it.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is None or not isinstance(module, compiler.OptimizedModule):
        return None
    inner: nn.Module = module._orig_mod
    return inner


def uncut(model: nn.Module) -> dict[str, str]:
    """Paths of modules that a trace does not look into, and why."""
    return {**_hooked(model), **_drawing(model), **_scripted(model)}


def _hooked(model: nn.Module) -> dict[str, str]:
    """Containers with hooks, which only run where the container is called."""
    registries = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        name: f"{type(module).__name__} has hooks, which run where it is called"
        for name, module in model.named_modules()
        if name and module._modules and any(getattr(module, r) for r in registries)
    }


def _drawing(model: nn.Module) -> dict[str, str]:
    """Modules with generators of their own, whose numbers a trace would keep."""
    return {
        name: f"{type(module).__name__} draws from a generator of its own"
        for name, module in model.named_modules()
        if name and holds_generator(module)
    }


def _scripted(model: nn.Module) -> dict[str, str]:
    """Modules that are no Python code any more."""
    return {
        name: "It is compiled by torch.jit or torch.compile, and can only be called"
        for name, module in model.named_modules()
        if name and (isinstance(module, torch.jit.ScriptModule) or compiled(module) is not None)
    }
