"""Passage: the way of one state between two ranks, of its adjoint, and of that one's derivative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pararealize.runtime.communication.endpoint import Call
from pararealize.runtime.communication.message import Message
from pararealize.runtime.values.form import Form


@dataclass(frozen=True)
class Passage:
    """A state on its way (``order`` 0), its adjoint on the way back (1), its derivative (2), ….

    Odd orders go from the message's target to its source.
    """

    call: Call
    message: Message
    form: Form
    order: int = 0

    @property
    def next(self) -> Passage:
        """The way of the adjoint of what passes here."""
        return replace(self, order=self.order + 1)

    def take(self) -> tuple[Tensor | None, ...]:
        """Wait for the tensors; those that are not differentiable have no adjoints."""
        if not self.order:
            return self.call.take(self.message)
        return tuple(self.call.take_adjoint(self.message, self.form, self.order))

    def send(self, adjoints: Sequence[Tensor]) -> None:
        """Send an adjoint."""
        self.call.send_adjoint(self.message, self.form, adjoints, self.order)
