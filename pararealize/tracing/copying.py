"""Copying: a module tree as ``copy.deepcopy`` does it, but fast for a thousand plain layers."""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.runtime.effects.containers import OWN, tensors_inside
from pararealize.runtime.effects.generators import (
    NUMPY,
    PYTHON,
    begin_alike,
    global_generators,
    kept,
    other_generators,
)
from pararealize.tracing.rebinding import rebind

#: Values that a copy may share.
ATOMS = (int, float, complex, bool, str, bytes, type(None))


def copy_tree(module: nn.Module, known: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy: sharing inside the tree is kept, nothing is shared with the original.

    But for what is ``known`` by its id, for which that stands.
    """
    memo: dict[int, Any] = {**detached_results(module), **shared(), **(known or {})}
    with collection_paused():
        copied: nn.Module = _copy_module(module, memo)
        rebind(module, copied, memo)
    return copied


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and no storage, on the meta device."""
    memo: dict[int, Any] = {
        key: weight.to("meta") for key, weight in detached_results(module).items()
    }
    memo |= shared()
    parameters = module.named_parameters(remove_duplicate=False)
    for tensor in (*(p for _, p in parameters), *module.buffers()):
        twin = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin
    copied = copy.deepcopy(module, memo)
    rebind(module, copied, memo)
    return copied


def without_data(module: nn.Module) -> nn.Module:
    """A copy of the module on the meta device, to be evaluated there; no weight is read."""
    copied = without_gradients(meta_copy(module))
    for part in copied.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.momentum is None:
            part.momentum = 0.0  # a cumulative average reads its count, which has no data
    return copied


def without_gradients(module: nn.Module) -> nn.Module:
    """The copy with weights that ask for none: torch's counter cannot follow those it meets."""
    for part in module.modules():
        scripted = isinstance(part, torch.jit.ScriptModule)
        for parameter in () if scripted else part._parameters.values():
            if parameter is not None:
                parameter.requires_grad_(False)
    return module


def shared() -> dict[int, Any]:
    """A memo of what copies share: the generators that ``random.seed`` and NumPy's seed.

    ``copy.deepcopy`` of a method of NumPy's, ``self.draw = np.random.rand``, would copy its state.
    """
    return {id(each): each for each in global_generators()}


@contextmanager
def collection_paused() -> Iterator[None]:
    """Do not look for garbage: what is made inside stays, and every look scans all of it."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Compile in no mode of the caller's, and move none of their or the model's random numbers.

    Weights copied in inference mode could not be trained. Numbers by which layers may be left
    out are the same in every process, so that all ranks find the same costs.
    """
    generators = other_generators(model.modules()) or (PYTHON, NUMPY)
    with collection_paused(), kept(generators), torch.inference_mode(False), torch.enable_grad():
        begin_alike()
        yield


def _copy_module(module: nn.Module, memo: dict[int, Any]) -> Any:
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        return _copy_scripted(module, memo)
    if not _is_plain(type(module)):
        return copy.deepcopy(module, memo)
    twin = object.__new__(type(module))
    memo[id(module)] = twin
    twin.__dict__.update({key: _copy_value(v, memo) for key, v in module.__dict__.items()})
    return twin


def _copy_scripted(module: nn.Module, memo: dict[int, Any]) -> Any:
    """A copy of a scripted module; a usual one would hand its gradients on to the original."""
    with torch.no_grad():
        twin = copy.deepcopy(module, memo)
    for own, wanted in zip(twin.parameters(), module.parameters(), strict=True):
        own.requires_grad_(wanted.requires_grad)
    return twin


def _is_plain(kind: type) -> bool:
    """Whether the class leaves copying to Python's default, which is to copy ``__dict__``."""
    hooks = ("__deepcopy__", "__copy__", "__getstate__", "__reduce__", "__getnewargs__")
    own = all(getattr(kind, h, None) is getattr(nn.Module, h, None) for h in hooks)
    restores = getattr(kind, "__setstate__", None) is nn.Module.__setstate__
    return own and (restores or kind.__module__.startswith("torch.nn.modules."))


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in ATOMS or (kind is tuple and all(type(v) in ATOMS for v in value)):
        return value
    if isinstance(value, nn.Module):
        return _copy_module(value, memo)
    if kind is dict and id(value) not in memo:
        twin: dict[Any, Any] = {}
        memo[id(value)] = twin
        twin.update({k: _copy_value(v, memo) for k, v in value.items()})
        return twin
    if id(value) in memo:
        return memo[id(value)]
    if not isinstance(value, Tensor) and hasattr(value, "__len__") and len(value) == 0:
        # A module without hooks has a dozen of these; others may hold the same one.
        return memo.setdefault(
            id(value), OrderedDict() if kind is OrderedDict else copy.copy(value)
        )
    return copy.deepcopy(value, memo)


def detached_results(root: nn.Module) -> dict[int, Tensor]:
    """A memo that lets ``copy.deepcopy`` copy such tensors, which it refuses to: detached.

    ``nn.utils.weight_norm`` makes a weight anew before every call; others keep an activation.
    """
    attributes = (
        value for m in root.modules() for name, value in m.__dict__.items() if name not in OWN
    )
    kept = (tensor for v in attributes for tensor in tensors_inside(v) if not tensor.is_leaf)
    return {id(value): value.detach().clone() for value in kept}
