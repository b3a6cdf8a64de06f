"""Shape table: sizes inside a network as a function of the shapes of its inputs.

A size that is read at one place and used at another is no state: a subnetwork finds it again by the
shapes of the inputs. For shapes that are new the operations run once on the meta device.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Program
from pararealize.propagators.memory import written_by_call
from pararealize.propagators.meta_run import REFUSALS, MetaRun

#: Shapes of inputs that are remembered.
MOST = 256
#: Methods of tensors, and attributes, that tell of shapes.
METHODS = frozenset({"size", "dim", "ndimension", "numel", "nelement", "__len__"})
ATTRIBUTES = frozenset({"shape", "ndim"})
#: Functions that make sizes of sizes, besides those of ``operator``.
ARITHMETIC: frozenset[Any] = frozenset(
    {
        *(getattr, len, int, float, bool, abs, min, max, sum, divmod, round, tuple, torch.Size),
        *filter(callable, vars(math).values()),  # which torch.fx replaces while it traces
    }
)
#: What sizes are.
SIZES = (int, float, tuple)


def is_size(operation: Operation, known: Container[str]) -> bool:
    """Whether an operation gives a size: reads a shape, or computes with ``known`` sizes alone."""
    call, args = operation.target, operation.args
    method = operation.kind == "method"
    if operation.kind == "context":  # which every subnetwork repeats
        call, method = getattr(call, "call", None), getattr(call, "is_method", False)
        if isinstance(call, ShapeQuery):
            return True
    elif operation.kind not in {"function", "method"}:
        return False
    if not operation.uses:
        return False
    reads = call in METHODS if method else call is getattr and args[1] in ATTRIBUTES
    reads |= call is len
    known_alone = all(name in known for name in operation.uses)
    return reads or (known_alone and (method or _counts(call)))


def _counts(call: Any) -> bool:
    """Whether a function gives sizes of sizes."""
    named = getattr(operator, getattr(call, "__name__", ""), None) is call
    return named or (call.__hash__ is not None and call in ARITHMETIC)


@final
class ShapeTable:
    """Values of a program that depend on shapes alone, by the shapes of its inputs.

    Args:
        program: one mode's operations.
        wanted: the values.
        twin: the network on the meta device; it is run in train and in eval mode.
        partly: whether it ends, without an error, where the network refuses the shapes.

    """

    def __init__(
        self, program: Program, wanted: Iterable[str], twin: nn.Module, *, partly: bool = False
    ) -> None:
        self.wanted = tuple(wanted)
        self._operations = _needed(program, self.wanted)
        self.inputs = tuple(o for o in self._operations if o.kind == "input")
        self._twin, self._partly = twin, partly
        self._known: dict[Any, Mapping[str, Any]] = {}

    def at(self, training: bool, inputs: tuple[Any, ...]) -> Mapping[str, Any]:
        """The values, by name, for the network's mode and the inputs that the table reads."""
        key = training, tuple(map(form_of, inputs))
        found = self._known.get(key)
        if found is None:
            found = self._evaluated(training, inputs)
            if len(self._known) >= MOST:
                self._known = {}
            self._known[key] = found
        return found

    def told(self, inputs: tuple[Any, ...]) -> tuple[str, ...]:
        """Those of the values that are sizes and do not depend on numbers, in both modes."""
        found = set(self.wanted)
        for training in (True, False):
            run = self._run(training, inputs)
            with run.running():
                for operation in self._operations:
                    run.attempt(operation)
            found &= {name for name, value in run.values.items() if isinstance(value, SIZES)}
        return tuple(name for name in self.wanted if name in found)

    def _evaluated(self, training: bool, inputs: tuple[Any, ...]) -> Mapping[str, Any]:
        run = self._run(training, inputs)
        refused = REFUSALS if self._partly else ()
        with run.running(), suppress(*refused):
            for operation in self._operations:
                run.evaluate(operation)
        return {name: run.values[name] for name in self.wanted if name in run.values}

    def _run(self, training: bool, inputs: tuple[Any, ...]) -> MetaRun:
        names = (operation.name for operation in self.inputs)
        return MetaRun(self._twin, training, dict(zip(names, inputs, strict=True)))

    def __deepcopy__(self, memo: dict[int, Any]) -> ShapeTable:
        """The same one: it holds no numbers of any network."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but what it can find again."""
        return {**self.__dict__, "_known": {}}


@final
@dataclass(frozen=True, eq=False)
class ShapeQuery:
    """One value of a table, as a function of the network's mode and its inputs."""

    table: ShapeTable
    name: str

    @property
    def __name__(self) -> str:
        """What error messages call it."""
        return self.name

    def __call__(self, training: bool, *inputs: Any) -> Any:
        """The value."""
        return self.table.at(training, inputs)[self.name]

    def __str__(self) -> str:
        """Equal for the same value of both modes."""
        return f"the size {self.name}"


def form_of(value: Any) -> Any:
    """What of an input decides about shapes: for tensors theirs and the dtype, other values."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(form_of, value))
    if isinstance(value, Mapping):
        return type(value), tuple((k, form_of(v)) for k, v in value.items())
    return type(value), value


def _needed(program: Program, wanted: tuple[str, ...]) -> tuple[Operation, ...]:
    """The values' operations, all that they are computed of, and what writes on that.

    Functions that work in place may change a shape, as ``x.squeeze_()``.
    """
    names, found = set(wanted), []
    for operation in reversed(program.operations):
        if operation.name in names or not names.isdisjoint(written_by_call(operation)):
            names.update(operation.uses)
            found.append(operation)
    return tuple(reversed(found))
