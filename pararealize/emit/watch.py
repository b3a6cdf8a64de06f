"""AttributeWatch: whether attributes that a program took over still have the values that it has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from pararealize.errors import StaleError
from pararealize.ir.reading import Read
from pararealize.runtime.communication.transport import Transport
from pararealize.tracing.reading import PLAIN, snapshot


@final
class AttributeWatch:
    """Compares attributes of a network's modules with what they were when it was traced.

    On ranks each looks at the modules that it holds, and tells the others before it raises.
    """

    def __init__(
        self, root: nn.Module, reads: Sequence[Read], transport: Transport | None = None
    ) -> None:
        self._root, self._transport = root, transport
        by_path: dict[str, list[Read]] = {}
        for read in reads:
            by_path.setdefault(read.path, []).append(read)
        self._reads = [(p.split(".") if p else [], found) for p, found in by_path.items()]

    def check(self) -> None:
        """Raise where one has changed.

        Raises:
            StaleError: names the module, the attribute, both values, and what to write.

        """
        for names, reads in self._reads:
            module: nn.Module | None = self._root
            for name in names:
                module = module._modules.get(name) if module is not None else None
            if module is None:
                continue  # another rank has it
            for read in reads:
                if read.mode is None or read.mode is self._root.training:
                    value = _value(module, read.name)
                    now = value if isinstance(value, PLAIN) else snapshot(value)
                    if now is not read.value and now != read.value:
                        raise self._stale(_advice(module, read, now))

    def _stale(self, advice: str) -> StaleError:
        error = StaleError(advice)
        if self._transport is not None:
            self._transport.refuse(error)
        return error

    def __deepcopy__(self, memo: dict[int, Any]) -> AttributeWatch:
        """A watch of the copied network; transports are not copied."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin._root = copy.deepcopy(self._root, memo)
        return twin


def _value(module: nn.Module, name: str) -> Any:
    """An attribute of the module, or what torch says of its modes."""
    if name.startswith("torch."):
        return getattr(torch, name.removeprefix("torch."))()
    return getattr(module, name, None)


def _advice(module: nn.Module, read: Read, now: object) -> str:
    kind = type(module).__name__
    again = "compile it again: net = pararealize(net.to_serial(), n)"
    what = f"{read} was {read.value!r:.60} when the network was compiled and is {now!r:.60}"
    if read.mode is not None:
        modes = ("train" if now else "eval", "train" if read.mode else "eval")
        what = f"{read.path} is in {modes[0]} mode, and the network in {modes[1]} mode"
    made = f"{what}: what {kind}.forward made of it is part of the program."
    if not read.path:
        return f"{made} To change it, {again}."
    return (
        f"{made} To change it between calls, have {kind} called whole: pararealize(model, n, "
        f"leaf_modules=[{read.path!r}]); or {again}."
    )
