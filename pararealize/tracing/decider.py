"""Decider: what the sizes that a forward branches on are, for the inputs that it is traced for.

The operations that were recorded so far run on the meta device, each once, when it is first asked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from pararealize.ir.chain import TensorSpec
from pararealize.ir.guard import Guard
from pararealize.ir.program import Operation, Program
from pararealize.propagators.meta_run import REFUSALS, MetaRun, on_meta
from pararealize.propagators.shape_guards import ShapeGuards, shapes_of
from pararealize.propagators.shape_table import ShapeTable, is_size
from pararealize.runtime.effects.statistics import is_torchs
from pararealize.runtime.values.pytree import map_tensors
from pararealize.tracing.copying import without_data
from pararealize.tracing.places import here
from pararealize.tracing.writes import is_foreign


class UndecidedError(Exception):
    """The value does not depend on shapes alone, or no shapes are known."""


@final
class Decider:
    """Answers what a size is, and remembers that this decided.

    Args:
        model: the network that is traced.
        given: its arguments, by name.
        operation_of: makes an operation of a node.

    """

    def __init__(
        self,
        model: nn.Module,
        given: Mapping[str, Any],
        operation_of: Callable[[fx.Node], Operation],
    ) -> None:
        self._model, self._given, self._operation_of = model, given, operation_of
        self._run: MetaRun | None = None
        self._twice: MetaRun | None = None
        self._done = 0
        self._operations: list[Operation] = []
        self._last: fx.Node | None = None
        self._sizes: set[str] = set()
        self._fixed: set[str] = set()
        self._guards: dict[tuple[str, Any], Guard] = {}
        self.runs, self.asked_in_vain = False, False

    def told(self, node: fx.Node, ask: Callable[[Any], Any]) -> Any:
        """What is asked of a node's value.

        Raises:
            UndecidedError: shapes do not tell.

        """
        if not self._given:
            self.asked_in_vain = True
            raise UndecidedError
        self._advance(node.graph)
        assert self._run is not None
        value, name = self._run.values.get(node.name), node.name
        shaped = isinstance(value, (Tensor, tuple, list)) and ask is len
        if value is None or not (shaped or name in self._sizes or name in self._fixed):
            raise UndecidedError
        if isinstance(value, Tensor) and not shaped:
            raise UndecidedError
        outcome = ask(value)
        if name not in self._fixed:
            self._guards[name, ask] = Guard(name, ask, outcome, *here())
        return outcome

    def is_fixed(self, node: fx.Node) -> bool:
        """Whether a value depends on no input, is a shape, or the same for another batch."""
        self._advance(node.graph)
        value = None if self._run is None else self._run.values.get(node.name)
        self.asked_in_vain |= not self._given
        known = node.name in self._fixed or isinstance(value, tuple)
        return known or (node.name in self._sizes and value == self._in_twice_the_batch(node.name))

    def _in_twice_the_batch(self, name: str) -> Any:
        """A size for twice as many samples; ``None`` if it is then unknown."""
        assert self._run is not None
        if self._twice is None:
            self._twice = MetaRun(self._run.twin, self._run.training, {})
        run, new = self._twice, self._operations[self._done :]
        with self._still(run, new):
            for operation in new:
                if operation.kind == "input":
                    given = map_tensors(_doubled, self._run.given[operation.name])
                    run.given = {**run.given, operation.name: given}
                run.attempt(operation)
        self._done = len(self._operations)
        return run.values.get(name)

    def guards(self) -> ShapeGuards | None:
        """All that was decided, if anything was."""
        if not self._guards or self._run is None:
            return None
        guards = tuple(self._guards.values())
        names = dict.fromkeys(guard.value for guard in guards)
        program = Program(tuple(self._operations))
        table = ShapeTable(program, names, self._run.twin, partly=True)
        found = ShapeGuards(guards, table, shapes_of(self._given))
        if not any(isinstance(value, TensorSpec) for value in self._given.values()):
            found.broken(self._model.training, self._given)  # known from now on
        return found

    def _advance(self, graph: fx.Graph) -> None:
        """Evaluate what has been recorded since the last time."""
        if not self._given:
            return
        if self._run is None:
            self._run = MetaRun(without_data(self._model), self._model.training, {})
        if not (new := self._new(graph)):
            return
        with self._still(self._run, new):
            for operation in new:
                self._sort(operation)
                with suppress(*REFUSALS):
                    self._prepare(operation, self._run)
                self._run.attempt(operation)

    @contextmanager
    def _still(self, run: MetaRun, operations: Sequence[Operation]) -> Iterator[None]:
        """A block in which nothing is recorded, and so many operations are evaluated."""
        self.runs = True
        try:
            with run.running(plain=all(self._is_plain(o, run) for o in operations)):
                yield
        finally:
            self.runs = False

    def _is_plain(self, operation: Operation, run: MetaRun) -> bool:
        """Whether an operation is one of torch's own, which leave nothing in the network."""
        if operation.kind == "module":
            return is_torchs(run.twin.get_submodule(operation.target))
        if operation.kind == "function":
            return not is_foreign(operation.target)
        return operation.kind not in {"network", "context"}

    def _new(self, graph: fx.Graph) -> list[Operation]:
        """The operations that were recorded since the last time."""
        found = []
        node = next(iter(graph.nodes), None) if self._last is None else self._last.next
        while node is not None and node.op != "root":
            found.append(self._operation_of(node))
            self._last, node = node, node.next
        self._operations += found
        return found

    def _sort(self, operation: Operation) -> None:
        if is_size(operation, self._sizes):
            self._sizes.add(operation.name)
        fixed = operation.kind == "attribute" or bool(operation.uses)
        if fixed and operation.kind != "input" and self._fixed.issuperset(operation.uses):
            self._fixed.add(operation.name)

    def _prepare(self, operation: Operation, run: MetaRun) -> None:
        if operation.kind == "input":
            name = str(operation.target)
            default = operation.args[0] if operation.args else None
            fixed = name.rpartition("_")[0]  # torch.fx numbers those that have one value
            found = self._given.get(name, self._given.get(fixed, default))
            run.given = {**run.given, operation.name: on_meta(found)}
        if operation.kind == "attribute" and not hasattr(run.twin, operation.target):
            value = operator.attrgetter(operation.target)(self._model)  # a constant of the trace
            setattr(run.twin, operation.target, on_meta(value))


def _doubled(tensor: Tensor) -> Tensor:
    shape = [2 * size if axis == 0 else size for axis, size in enumerate(tensor.shape)]
    return torch.empty(shape, dtype=tensor.dtype, device="meta")
