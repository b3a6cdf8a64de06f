"""Meta run: a program's operations on the meta device, where tensors have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import nn

from pararealize.ir.chain import TensorSpec
from pararealize.ir.program import Operation
from pararealize.propagators.quick_shapes import QuickShapes
from pararealize.runtime.effects.containers import Contents
from pararealize.runtime.effects.generators import kept
from pararealize.runtime.effects.statistics import is_torchs
from pararealize.runtime.values.pytree import map_tensors

#: How operations refuse to run on tensors without numbers.
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


@final
class MetaRun:
    """Evaluates operations one after another; no random number of the caller's is drawn.

    Args:
        twin: the network on the meta device.
        training: the mode that it is run in.
        given: the network's arguments, by the names of their operations.

    """

    def __init__(self, twin: nn.Module, training: bool, given: Mapping[str, Any]) -> None:
        self.twin, self.training, self.given = twin, training, given
        self.values: dict[str, Any] = {}

    @contextmanager
    def running(self, *, plain: bool = False) -> Iterator[None]:
        """A block in which operations can be evaluated; what they leave elsewhere is undone.

        Those of torch alone are ``plain``, and leave nothing.
        """
        own = (module for module in self.twin.modules() if not is_torchs(module))
        held = [] if plain else [Contents(module) for module in own]
        self.twin.train(self.training)
        try:
            with torch.no_grad(), torch.device("meta"), QuickShapes(), kept():
                yield
        finally:
            for contents in held:
                contents.restore()

    def evaluate(self, operation: Operation) -> Any:
        """The operation's value, of the values before it, and keep it."""
        self.values[operation.name] = value = self._value(operation)
        return value

    def can(self, operation: Operation) -> bool:
        """Whether all that the operation reads is known."""
        return all(name in self.values for name in operation.uses)

    def attempt(self, operation: Operation) -> None:
        """Keep the operation's value where it can be had without numbers."""
        if self.can(operation):
            with suppress(*REFUSALS):
                self.evaluate(operation)

    def _value(self, operation: Operation) -> Any:
        args, kwargs = operation.map_refs(lambda ref: self.values[ref.name])
        target = operation.target
        match operation.kind:
            case "input":
                return on_meta(self.given[operation.name])
            case "attribute":
                return on_meta(attrgetter(target)(self.twin))
            case "training":
                return self.training
            case "network" | "context":
                target = partial(target, self.twin)
            case "module":
                target = self.twin.get_submodule(target).forward
            case "method":
                target, args = getattr(args[0], target), args[1:]
        return target(*args, **kwargs)


def on_meta(value: Any) -> Any:
    """The same with tensors without numbers, also where only a specification is known of one."""
    if isinstance(value, TensorSpec):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return map_tensors(lambda tensor: torch.empty_like(tensor, device="meta"), value)
