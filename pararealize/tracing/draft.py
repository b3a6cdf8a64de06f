"""Draft: what a trace saw of a forward, in order, before anything of it is removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from torch import fx

from pararealize.propagators.shape_guards import ShapeGuards


@final
@dataclass(frozen=True, eq=False)
class Recorded:
    """A node as it was written; ``torch.fx`` empties those that it removes."""

    node: fx.Node
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@final
@dataclass(frozen=True)
class Entered:
    """The forward of the module at a path begins."""

    path: str


@final
@dataclass(frozen=True)
class Left:
    """The forward of the module at a path ends."""

    path: str


Event = Recorded | Entered | Left


@final
@dataclass(frozen=True, eq=False)
class Draft:
    """The events of one trace.

    Attributes:
        whole: the modules that were called without looking into them, as the trace was told.
        constants: the arguments that always have one value.
        tensors: names of the arguments that are known to be tensors.
        guards: what the shapes of the arguments decided.

    """

    whole: Mapping[str, str]
    constants: Mapping[str, Any]
    tensors: frozenset[str]
    events: list[Event] = field(default_factory=list)
    guards: ShapeGuards | None = None

    def record(self, node: fx.Node) -> None:
        """Note a node that was just written."""
        self.events.append(Recorded(node, node.op, node.target, node.args, node.kwargs))

    @contextmanager
    def within(self, path: str) -> Iterator[None]:
        """Note that the forward of a module runs."""
        self.events.append(Entered(path))
        try:
            yield
        finally:
            self.events.append(Left(path))
