"""Budget: the time that a calibration may take, and what is left of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import final

from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.monitoring.progress import Advance


@final
class Budget:
    """So many ``minutes`` from now on, or none; ranks agree on what is over.

    Parts of a calibration end at shares of it, so that what is left undone is left to the next.
    """

    def __init__(
        self,
        minutes: float | None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._transport, self._begun = clock, transport, clock()
        self._whole = math.inf if minutes is None else 60 * minutes

    @property
    def is_limited(self) -> bool:
        """Whether there is an end."""
        return math.isfinite(self._whole)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._begun

    def until(self, share: float) -> float:
        """Seconds until a share of it is spent, 0 or more, as this rank's clock has it."""
        return max(0.0, share * self._whole - self.spent) if self.is_limited else math.inf

    def part(self, share: float, of: int) -> float:
        """The share at which the first of so many equal parts ends of what is left until one."""
        if not self.is_limited:
            return share
        now = min(share, self.spent / self._whole)
        return now + (share - now) / of

    def is_over(self, share: float) -> bool:
        """Whether a share of it is spent on any rank; all ranks ask together."""
        if not self.is_limited:
            return False
        mine = self.until(share) <= 0
        return mine if self._transport is None else any(self._transport.exchange(mine))

    @property
    def note(self) -> str:
        """What is left, for people."""
        if not self.is_limited:
            return ""
        left = int(self.until(1.0))
        return f"{left // 60}:{left % 60:02d} left"

    def noted(self, advance: Advance) -> Callable[[], None]:
        """What tells that a step is done, and the time left."""
        return lambda: advance(self.note)
