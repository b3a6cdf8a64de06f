"""Reading: note which attributes a network's ``forward`` reads while it is traced."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from pararealize.errors import TraceError
from pararealize.ir.program import Program
from pararealize.ir.reading import Read
from pararealize.propagators import meta_run

#: Values that a program takes over as they are.
PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, Enum)
#: How deep the attributes of objects, as configurations are, are looked into.
DEPTH = 4

#: What code asks torch about its modes.
QUESTIONS = ("is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled")
#: Who may ask: packages that mean to go on either way.
OURS = ("torch.", "pararealize.", "_pytest", "contextlib")

#: Attributes read, by module and name, with the network's mode and the value.
Found = dict[tuple[int, str, bool | None], Any]


@contextmanager
def reads_noted(root: nn.Module) -> Iterator[Found]:
    """A block in which attributes of the network's modules that this thread reads are noted.

    As ``torch.fx`` does for ``__call__``, it puts a function in ``nn.Module`` meanwhile.
    """
    found: Found = {}
    modules = {id(module) for module in root.modules()}
    own, thread = set(dir(nn.Module)) | set(nn.Module().__dict__), threading.get_ident()
    own.discard("training")

    def noting(self: nn.Module, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in own or name[:2] == "__" or id(self) not in modules:
            return value
        if threading.get_ident() == thread and _is_watched(self, name, value):
            mode = root.__dict__["training"] if name == "training" else None
            found[id(self), name, mode] = snapshot(value)
        return value

    def asked(name: str, question: Callable[..., bool]) -> Callable[..., bool]:
        def answer(*args: Any) -> bool:
            asker = _asker(modules) if threading.get_ident() == thread else None
            if asker not in {None, id(root)}:
                raise TraceError(f"it asks torch.{name}(), which a graph does not ask again")
            if asker is not None:
                found[asker, f"torch.{name}", None] = question(*args)
            return question(*args)

        return answer

    before = nn.Module.__dict__.get("__getattribute__")
    questions = {name: getattr(torch, name) for name in QUESTIONS}
    for name, question in questions.items():
        setattr(torch, name, asked(name, question))
    setattr(nn.Module, "__getattribute__", noting)  # noqa: B010  for mypy
    try:
        yield found
    finally:
        for name, question in questions.items():
            setattr(torch, name, question)
        if before is None:
            del nn.Module.__getattribute__
        else:
            setattr(nn.Module, "__getattribute__", before)  # noqa: B010


@contextmanager
def unnoted(found: Found) -> Iterator[None]:
    """A block whose reads are no part of a program: a ``train()`` that looks at its own mode."""
    before = dict(found)
    try:
        yield
    finally:
        found.clear()
        found.update(before)


def _asker(modules: set[int]) -> int | None:
    """The module whose code asks, unless it is torch or this package that does."""
    frame = sys._getframe(2)
    if str(frame.f_globals.get("__name__", "")).startswith(OURS):
        return None
    while frame is not None and frame.f_globals.get("__name__") != meta_run.__name__:
        names = frame.f_code.co_varnames[:1]
        owner = id(frame.f_locals.get(names[0])) if names else 0
        if owner in modules:
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _is_watched(module: nn.Module, name: str, value: Any) -> bool:
    """Plain values, and objects that hold some; no weights, modules, methods or functions."""
    if isinstance(value, (*PLAIN, tuple, list, dict)):
        return True
    own = object.__getattribute__(module, "__dict__")
    return name in own and not isinstance(value, (Tensor, nn.Module)) and not callable(value)


def snapshot(value: Any, depth: int = DEPTH) -> Any:
    """A value as plain data that can be compared: an object by what its attributes hold."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (Tensor, Proxy)):  # which stands for one while a network is traced
        return Tensor.__name__
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple(snapshot(v, depth - 1) for v in value) if depth else ()
    if isinstance(value, Mapping):
        items = value.items() if depth else ()
        return "dict", tuple((k, snapshot(v, depth - 1)) for k, v in items)
    attributes = getattr(value, "__dict__", None)
    if attributes is None or isinstance(value, nn.Module) or not depth:
        return type(value).__name__
    return type(value).__name__, snapshot(attributes, depth - 1)


def looks_at_modes(root: nn.Module, found: Found) -> bool:
    """Whether a trace of one mode may be another in the other mode.

    It is where code read a flag ``training``, and where a module does more than set that flag when
    its mode changes.
    """
    kinds = {type(module) for module in root.modules()}
    changes = any(k.train is not nn.Module.train or k.eval is not nn.Module.eval for k in kinds)
    return changes or any(name == "training" for _, name, _ in found)


def reads_of(found: Found, root: nn.Module, train: Program, evaluate: Program) -> tuple[Read, ...]:
    """What was read by modules that the programs look into.

    Where one program serves both modes, mode flags are operations of it.
    """
    paths = {id(module): path for path, module in root.named_modules()}
    whole = {o.target for o in (*train, *evaluate) if o.kind == "module"}
    inside = tuple(f"{path}." for path in whole)
    reads = []
    for (key, name, mode), value in found.items():
        path = paths[key]
        flag = name == "training"
        if path in whole or path.startswith(inside) or (flag and (train is evaluate or not path)):
            continue
        reads.append(Read(path, name, value, mode if flag else None))
    return tuple(reads)
