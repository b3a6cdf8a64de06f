"""Shown: what a compiled network prints, explains and shows of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from pararealize.explain.explanation import Explanation
from pararealize.explain.notebook import network_html
from pararealize.ir.plan import Piece, Plan
from pararealize.ir.schedule import Schedule

#: Most subnetworks that have a line each.
LINES = 24


class Shown(nn.Module, ABC):
    """A network that has a plan and a schedule."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """Cuts, coarse choices, costs and predicted time."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The tasks of one call; where sweeps are decided while it runs, of the first stage."""

    def explain(self) -> Explanation:
        """Parameters, cost, memory and messages of every subnetwork, and the predicted speedup.

        It prints as text, notebooks show it as tables, and ``.to_dict()`` is its data.
        """
        return Explanation(self.plan)

    def _repr_html_(self) -> str:
        return network_html(self.plan, self.schedule)

    def __repr__(self) -> str:
        """The subnetworks, a line each, of many the first and the last."""
        plan = self.plan
        lines = [*map(_line, plan.pieces)]
        if len(lines) > LINES:
            more = len(lines) - LINES
            lines[LINES // 2 : -(LINES // 2)] = [f"… {more} more subnetworks"]
        lines += [f"(head) {plan.head}"] if plan.head else []
        head = f"{type(self).__name__}({plan.model}, {self.extra_repr()}, {plan.method}"
        return "\n  ".join([head, *lines]) + "\n)"


def _line(piece: Piece) -> str:
    layers = " … ".join(dict.fromkeys(piece.layers))
    added = [f"{kind} {text}" for kind, text in (("guess", piece.guess),) if text != "none"]
    added += [f"coarse {piece.coarse}"] if piece.coarse != "none" else []
    size = f"depth {piece.depth}, {piece.parameters:,} parameters"
    return f"({piece.index}) {layers}: {'; '.join([size, *added])}"
