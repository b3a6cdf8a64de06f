"""Script: the events of a draft one after another, with the values of a run for its nodes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from pararealize.tracing.draft import Draft, Event, Recorded
from pararealize.tracing.shapes import ShapesOnly, leaves_in


@final
class Script:
    """What is to happen next; what a trace notes and no run shows is computed on the way.

    Args:
        model: the network, whose attributes nodes read.
        draft: the events.
        shapes: knows the tensors of the run.
        given: the network's arguments by name.

    """

    def __init__(
        self, model: nn.Module, draft: Draft, shapes: ShapesOnly, given: Mapping[str, Any]
    ) -> None:
        self.model, self.draft, self.shapes, self.given = model, draft, shapes, given
        self.position = 0
        self.values: dict[fx.Node, Any] = {}
        self.left_behind: dict[str, str] = {}

    def next(self) -> Event | None:
        """The next event that a run shows, or ``None`` at the end."""
        with torch._C.DisableTorchFunction():
            while self.position < len(self.draft.events):
                event = self.draft.events[self.position]
                if not isinstance(event, Recorded) or not self._is_noted(event):
                    return event
                self.position += 1
        return None

    def give(self, node: fx.Node, value: Any) -> None:
        """Go on, with the value that the next event gave."""
        self.values[node] = value
        self.position += 1

    def mapped(self, value: Any) -> Any:
        """Recorded arguments with values in place of nodes."""
        return fx.node.map_arg(value, self.values.__getitem__)

    def look_behind(self, event: Event | None, operands: Sequence[Any]) -> None:
        """Find constants that stand for values of the trace, by what a call is given for them.

        A trace that reads what a hook has left in a container finds there what another call left.
        """
        assert isinstance(event, Recorded)
        leaves = leaves_in((event.args, dict(event.kwargs)))
        for leaf, own in zip(leaves, operands, strict=False):
            constant = isinstance(leaf, fx.Node) and leaf.op == "get_attr"
            if constant and isinstance(own, Tensor) and not isinstance(own, nn.Parameter):
                known = self.values.items()
                made = (n for n, value in known if value is own and n.op != "get_attr")
                first = next(made, None)
                if first is not None:
                    self.left_behind[leaf.name], self.values[leaf] = first.name, own

    def _is_noted(self, event: Recorded) -> bool:
        """Whether the event is no call on a tensor; its value is then known."""
        match event.op:
            case "call_module" | "output":
                return False
            case "placeholder":
                self.values[event.node] = self._argument(event)
                return True
            case "get_attr":
                self.values[event.node] = attrgetter(event.target)(self.model)
                return True
        args, kwargs = self.mapped((event.args, dict(event.kwargs)))
        picks = event.target is operator.getitem and not isinstance(args[0], Tensor)
        packs = isinstance(event.target, type)  # a named tuple or a dataclass that holds values
        noted = event.target is getattr or picks or packs
        if not noted and self.shapes.knows((args, kwargs)):
            return False
        self.values[event.node] = self._computed(event, args, kwargs)
        return True

    def _computed(self, event: Recorded, args: Any, kwargs: Any) -> Any:
        if event.target is getattr:
            return self.shapes.attribute(*args)
        if event.op == "call_method":
            return self.shapes.quietly(getattr(args[0], event.target), *args[1:], **kwargs)
        return self.shapes.quietly(event.target, *args, **kwargs)

    def _argument(self, event: Recorded) -> Any:
        """An argument of the network; ``torch.fx`` numbers those that have one value."""
        name = str(event.target)
        fixed = name.rpartition("_")[0]
        return self.given.get(name, self.given.get(fixed, *event.args[:1]))
