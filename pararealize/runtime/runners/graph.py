"""Graph: a schedule as one graph, in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import fx

from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import watches_in_order
from pararealize.runtime.monitoring.jumps import Jumps, summed_jumps, watched_report
from pararealize.runtime.monitoring.measures import batch_of
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import detached


@final
class GraphRunner(Runner):
    """Calls the graph of a schedule: (network inputs) → (output, watched values).

    Args:
        graph: the lowered schedule.
        schedule: what it was lowered from.
        arguments: binds the arguments of a call.

    """

    def __init__(self, graph: fx.GraphModule, schedule: Schedule, arguments: Arguments) -> None:
        self._graph, self._sweeps, self._arguments = graph, schedule.sweeps, arguments
        self._watches = watches_in_order((schedule,))
        self._watched: tuple[tuple[Any, Any], ...] = ()

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The graph's output."""
        output, watched = self._graph(*args, **kwargs)
        if jumps is not None:
            seen = [(w, *pair) for w, pair in zip(self._watches, watched, strict=True)]
            batch = batch_of(self._arguments(*args, **kwargs))
            jumps.keep(summed_jumps(seen, self._watches, batch), output)
        self._watched = detached(watched)
        return output

    @property
    def watched(self) -> tuple[tuple[Any, Any], ...]:
        """The new and old states of the last call at the interfaces that were corrected."""
        return self._watched

    @property
    def report(self) -> Report:
        """The jumps of the last call."""
        return watched_report(self._watches, self._watched, self._sweeps)

    @property
    def graph(self) -> fx.GraphModule:
        """The graph itself."""
        return self._graph
