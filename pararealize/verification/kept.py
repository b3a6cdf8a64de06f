"""Kept: a network and the generators of random numbers, put back as they were after a run."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.propagators.stubs import is_librarys
from pararealize.runtime.effects.containers import contained
from pararealize.runtime.effects.generators import NUMPY, PYTHON, kept, put_back, state_of
from pararealize.runtime.effects.keeping import all_kept
from pararealize.runtime.effects.statistics import frozen_statistics, is_torchs
from pararealize.tracing.hooks import held, reaches

#: What a module keeps values in, besides buffers.
CONTAINERS = (list, dict, set, deque)


def devices_of(model: nn.Module) -> tuple[torch.device, ...]:
    """The devices besides the CPU on which a network may draw random numbers."""
    tensors = (p for module in model.modules() for p in module._parameters.values())
    found = {p.device for p in tensors if p is not None}
    return tuple(device for device in found if device.type not in {"cpu", "meta"})


def streams(devices: Iterable[torch.device]) -> list[Tensor]:
    """States of torch's generators, of the CPU and of devices."""
    return [torch.get_rng_state(), *map(state_of, devices)]


def set_streams(devices: Iterable[torch.device], states: Iterable[Tensor]) -> None:
    """Set torch's generators as :func:`streams` found them."""
    first, *others = states
    torch.set_rng_state(first)
    for device, state in zip(devices, others, strict=True):
        put_back(device, state)


def other_streams() -> tuple[Any, ...]:
    """States of Python's generator, and of NumPy's where it is in use."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (random.getstate(),)
    name, keys, *rest = numpy.random.get_state()
    return random.getstate(), (name, keys.tobytes(), *rest)


def same_streams(devices: Iterable[torch.device]) -> AbstractContextManager[None]:
    """A block after which every generator of random numbers is where it was."""
    return kept((PYTHON, NUMPY, *devices))


@contextmanager
def unmoved(root: nn.Module, *, training: bool, graded: bool = False) -> Iterator[None]:
    """A block in a mode, after which the network is what it was: modes, buffers and attributes.

    Weights ask for no gradients meanwhile, so that a forward pass keeps no activations, but where
    it takes derivatives, ``graded``, while code
    that asks whether gradients are enabled hears what it heard when it was traced. The user's hooks
    do not run, but for those that reach what the network may read: others may write on what is not
    the network's, and belong to calls of layers as a whole, which are what is not in question.
    """
    modules = list(root.modules())
    modes = [module.training for module in modules]
    tensors = (p for module in modules for p in module._parameters.values() if p is not None)
    wanted = () if graded else dict.fromkeys(tensors)
    weights = [p for p in wanted if p.requires_grad and p.is_leaf]
    root.train(training)
    try:
        for weight in weights:
            weight.requires_grad_(False)
        with all_kept(root), frozen_statistics(modules, marks=False), _few_hooks(root, modules):
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _few_hooks(root: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    """A block in which few hooks run: of torch, which compute weights, and those of consequence.

    These are a library's, which collect what its modules give and may be registered in the first
    call, and such as reach what the network may read.
    """
    listened = any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    known = held(root) if listened else frozenset[int]()
    kept: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for module in modules:
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            kept.append((hooks, dict(hooks)))
            if hooks:
                left = {k: hook for k, hook in hooks.items() if _matters(hook, module, known)}
                hooks.clear()
                hooks.update(left)
    try:
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)


def _matters(hook: Any, module: nn.Module, known: frozenset[int]) -> bool:
    of_torch = str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch.")
    return of_torch or is_librarys(hook, module) or reaches(hook, known)


def _identities(container: Any) -> list[Any]:
    """What is in a container, by identity."""
    found = contained(container)
    if isinstance(found, dict):
        return [(key, id(value)) for key, value in found.items()]
    return list(map(id, found))


def contents(modules: Iterable[tuple[str, nn.Module]]) -> dict[tuple[str, str], Any]:
    """What plain attributes, containers and buffers of modules are, to see whether they change."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in modules:
        for name, buffer in module._buffers.items():
            found[path, name] = (id(buffer), None if buffer is None else buffer._version)
        if is_torchs(module):
            continue
        for name, value in module.__dict__.items():
            if name.startswith("_forward") or name in {"_modules", "_buffers", "_parameters"}:
                continue
            if isinstance(value, CONTAINERS):
                found[path, name] = _identities(value)
            else:
                plain = isinstance(value, (int, float, str))
                found[path, name] = value if plain else id(value)
    return found
