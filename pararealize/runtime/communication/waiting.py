"""Waiting: how long a rank has waited for whom, what it says about it, and when it gives up."""

from __future__ import annotations

import time
import warnings
from typing import final

from pararealize.errors import WaitingWarning
from pararealize.runtime.communication.transport import Transport

#: Seconds after which a rank that waits says so, once for each wait.
LONG = 30.0


@final
class Wait:
    """One wait of a rank for a peer, or for any (negative)."""

    def __init__(self, transport: Transport, peer: int) -> None:
        self._transport, self.peer = transport, peer
        self._begin, self._told = time.monotonic(), False

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._begin

    def is_over(self) -> bool:
        """Whether the rank's patience is at its end; a long wait is told of in a warning.

        Warns:
            WaitingWarning: who waits for whom, and for what.

        """
        seconds = self.seconds
        if seconds > LONG and not self._told:
            self._told = True
            warnings.warn(WaitingWarning(self._words()), stacklevel=2)
        return seconds > self._transport.patience

    def _words(self) -> str:
        this = self._transport
        whom = f"rank {self.peer}" if self.peer >= 0 else "the other ranks"
        return (
            f"rank {this.rank} of {this.size} has waited {LONG:.0f} s for {whom} ({this.task}); it "
            f"gives up after {this.patience:.0f} s. Loading data may take so long; else {whom} "
            "does not call the network, or its backward pass, as often as this rank. "
            "comm=pararealize.connect(comm, patience=SECONDS) sets the patience."
        )
