"""AttributeWatch: whether what a program took over of its network is still what it was."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from pararealize.errors import StaleError
from pararealize.ir.reading import GLOBAL, Read
from pararealize.tracing.reading import PLAIN, snapshot


@dataclass(frozen=True)
class Change:
    """An attribute, of a module of class ``kind``, that was ``read`` and is another one ``now``."""

    read: Read
    kind: str
    now: object

    @property
    def what(self) -> str:
        """Both values, in a sentence without an end."""
        read, now = self.read, self.now
        if read.mode is None:
            return f"{read} was {read.value!r:.60} when the network was compiled and is {now!r:.60}"
        modes = ("train" if now else "eval", "train" if read.mode else "eval")
        return f"{read.path} is in {modes[0]} mode, and the network in {modes[1]} mode"

    @property
    def whole(self) -> str:
        """What to write where it changes often; of the network itself, nothing."""
        if not self.read.path:
            return ""
        return (
            f"have {self.kind} called whole: pararealize(model, n, "
            f"leaf_modules=[{self.read.path!r}])"
        )

    def error(self, reason: str) -> StaleError:
        """What is raised where the network cannot be compiled again by itself, for a reason."""
        made = f"what {self.kind}.forward made of it is part of the program"
        again = "compile it again: net = pararealize(net.to_serial(), n)"
        advice = f"{self.whole}; or {again}" if self.whole else again
        return StaleError(f"{self.what}: {made}, and {reason}. To change it, {advice}.")


@final
class AttributeWatch:
    """Compares attributes of a network's modules with what they were when it was traced.

    And looks for hooks on modules that were ``entered``: they run where such a module is called,
    and the program calls what is in it. On ranks each looks at the modules that it holds.
    """

    def __init__(self, root: nn.Module, reads: Sequence[Read], entered: Sequence[str] = ()) -> None:
        self._root = root
        by_path: dict[str, list[Read]] = {}
        for read in reads:
            by_path.setdefault(read.path, []).append(read)
        self._reads = [(p.split(".") if p else [], found) for p, found in by_path.items()]
        here = ((path, self._found(path.split("."))) for path in entered)
        self._entered = {path: module for path, module in here if module is not None}

    def change(self) -> Change | None:
        """The first that has changed, if any has."""
        for names, reads in self._reads:
            if (module := self._found(names)) is None:
                continue  # another rank has it
            for read in reads:
                if read.mode is None or read.mode is self._root.training:
                    value = _value(module, read.name)
                    now = value if isinstance(value, PLAIN) else snapshot(value)
                    if now is not read.value and now != read.value:
                        return Change(read, type(module).__name__, now)
        return None

    def _found(self, names: Sequence[str]) -> nn.Module | None:
        module: nn.Module | None = self._root
        for name in names:
            module = module._modules.get(name) if module is not None else None
        return module

    def unheard(self) -> list[str]:
        """Modules that have hooks now which the program does not call, each told once."""
        found = [path for path, module in self._entered.items() if _has_hooks(module)]
        for path in found:
            del self._entered[path]
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> AttributeWatch:
        """A watch of the copied network."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin._root = copy.deepcopy(self._root, memo)
        twin._entered = copy.deepcopy(self._entered, memo)
        return twin


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _value(module: nn.Module, name: str) -> Any:
    """An attribute of the module, a global, or what torch says of its modes."""
    if GLOBAL in name:
        home, _, own = name.partition(GLOBAL)
        return vars(sys.modules[home]).get(own) if home in sys.modules else None
    if name.startswith("torch."):
        return getattr(torch, name.removeprefix("torch."))()
    return getattr(module, name, None)
