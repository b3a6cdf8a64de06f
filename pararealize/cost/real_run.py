"""Real run: values of operations whose shapes numbers decide, on the inputs that are given.

How long a packed sequence is, which words an expert gets, or what a loss without a kernel on the
meta device gives: no shape tells it. The program runs once, as far as such an operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Program
from pararealize.propagators.compiled import takes_derivatives
from pararealize.runtime.effects.generators import kept
from pararealize.runtime.values.pytree import leaves_of, tensors_of

#: ``measure(call, args, kwargs)``: a call's result and what it costs.
Measure = Callable[[Callable[..., Any], Any, Any], Any]


@final
class RealRun:
    """One run of a program on real inputs; the network's weights and statistics stay as they are.

    Args:
        program: the operations.
        model: the network.
        inputs: its arguments by name.
        training: the mode that it is run in.

    """

    def __init__(
        self, program: Program, model: nn.Module, inputs: Mapping[str, Any], *, training: bool
    ) -> None:
        self._program, self._inputs, self._training = program, inputs, training
        self._model = model
        self._twin: nn.Module | None = None
        self._values: dict[str, Any] = {}
        self._rest: Iterator[Operation] = iter(program)

    @property
    def is_possible(self) -> bool:
        """Whether the numbers of an input are known."""
        return any(isinstance(leaf, Tensor) for leaf in leaves_of(dict(self._inputs)))

    @property
    def is_structured(self) -> bool:
        """Whether lists of tensors are given, as images with their boxes: no others would fit."""
        return any(tensors_of(v) for v in self._inputs.values() if not isinstance(v, Tensor))

    def measured(self, operation: Operation, measure: Measure) -> Any:
        """What ``measure`` says of the operation."""
        if self._twin is None:
            self._twin = copy.deepcopy(self._model).train(self._training)
        graded = takes_derivatives(self._program)
        with torch.set_grad_enabled(graded), kept():
            for each in self._rest if operation.name not in self._values else ():
                if each.name == operation.name:
                    break
                self._values[each.name] = self._result(each)
            call, args, kwargs = self._call(operation)
            found = measure(call, args, kwargs)
        self._values[operation.name] = found[0]
        return found

    def _result(self, operation: Operation) -> Any:
        call, args, kwargs = self._call(operation)
        return call(*args, **kwargs)

    def _call(self, operation: Operation) -> tuple[Callable[..., Any], Any, Any]:
        args, kwargs = operation.map_refs(lambda ref: self._values[ref.name])
        target: Any = operation.target
        assert self._twin is not None
        twin = self._twin
        match operation.kind:
            case "input" | "attribute" | "training":
                return partial(self._read, operation, twin), (), {}
            case "network" | "context":
                args = (twin, *args)
            case "module":
                target = twin.get_submodule(target)
            case "method":
                target, args = getattr(args[0], target), args[1:]
        return target, args, kwargs

    def _read(self, operation: Operation, twin: nn.Module) -> Any:
        """An argument, a weight or a mode."""
        if operation.kind == "training":
            return self._training
        if operation.kind == "attribute":
            return attrgetter(operation.target)(twin)
        default = operation.args[0] if operation.args else None
        return copy.deepcopy(self._inputs.get(operation.target, default))
