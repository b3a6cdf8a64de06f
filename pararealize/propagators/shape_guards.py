"""Shape guards: whether inputs take the way that a program took when it was traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from pararealize.ir.guard import Guard
from pararealize.ir.program import Operation
from pararealize.propagators.shape_table import ShapeTable


@final
class ShapeGuards:
    """What shapes decided in one mode's program.

    Args:
        guards: the decisions, in the network's order.
        table: the sizes that they were made on.
        shapes: of the inputs that the network was compiled with, for a message.

    """

    def __init__(self, guards: Sequence[Guard], table: ShapeTable, shapes: str) -> None:
        self.guards, self.table, self.shapes = tuple(guards), table, shapes
        self._right: Mapping[str, Any] | None = None

    def broken(self, training: bool, given: Mapping[str, Any]) -> str:
        """What is wrong with the inputs, by the names of the arguments; empty where nothing is."""
        inputs = tuple(given.get(o.target, _default(o)) for o in self.table.inputs)
        found = self.table.at(training, inputs)
        if found is self._right:
            return ""
        for guard in self.guards:
            if guard.value in found and not guard.holds(found[guard.value]):
                return self._advice(guard, found[guard.value], inputs)
        self._right = found
        return ""

    def _advice(self, guard: Guard, value: Any, inputs: tuple[Any, ...]) -> str:
        names = (str(operation.target) for operation in self.table.inputs)
        given = shapes_of(dict(zip(names, inputs, strict=True)))
        now = guard.ask(value)
        verb = "branches" if guard.ask is bool else "loops"
        return (
            f"the network {verb} on a size at {guard.place} ({guard.code}), which is {now!r} for "
            f"{given} and was {guard.outcome!r} for {self.shapes}, for which it was compiled: "
            "compile another network for these shapes, pararealize(model, n, example_inputs=(x,)), "
            "or have the module that asks called whole, leaf_modules=[...]."
        )


def _default(operation: Operation) -> Any:
    return operation.args[0] if operation.args else None


def shapes_of(given: Mapping[str, Any]) -> str:
    """The shapes of inputs, for a message."""
    tensors = (f"{k} {list(v.shape)}" for k, v in given.items() if hasattr(v, "shape"))
    return ", ".join(tensors) or "these inputs"
