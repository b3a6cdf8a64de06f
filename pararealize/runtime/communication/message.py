"""Message: one state on its way between two ranks, and the tags that it travels under."""

from __future__ import annotations

from dataclasses import dataclass

#: Tags: steps before they come round, messages between two ranks in a step, two directions.
STEPS, MESSAGES = 2**14, 2**11


@dataclass(frozen=True)
class Message:
    """One message of a schedule.

    ``index`` counts the messages between the two ranks; ``carries`` says whether its adjoint
    travels back (the network's output goes to every rank, and its gradient is known there).
    """

    value: str
    source: int
    target: int
    index: int
    carries: bool = True

    def __str__(self) -> str:
        return f"state {self.value} from rank {self.source} to rank {self.target}"

    def ends(self, order: int = 0) -> tuple[int, int]:
        """Where a state (order 0), its adjoint (1), its derivative (2), … leaves and goes."""
        return (self.target, self.source) if order % 2 else (self.source, self.target)

    def tag(self, call: int, order: int = 0) -> int:
        """Its tag in the call of this number."""
        return 2 * (call % STEPS * MESSAGES + 1 + self.index % (MESSAGES - 1)) + order % 2


def tie_tag(call: int) -> int:
    """The tag of gradients of weights that several ranks hold, after a call's backward pass."""
    return 2 * (call % STEPS * MESSAGES)
