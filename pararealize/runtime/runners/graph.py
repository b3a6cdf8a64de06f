"""Graph: schedules as graphs, in one process: one, or stages decided while the network runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from torch import fx

from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import Key, watches_in_order
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.jumps import Jumps, Watched, summed_jumps, watched_report
from pararealize.runtime.monitoring.measures import Known, Measure, batch_of, measures, tables
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.rules import Certified, Rule
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import detached


@final
class GraphRunner(Runner):
    """Calls the graph of a schedule: (network inputs) → (output, watched values)."""

    def __init__(self, graph: fx.GraphModule, schedule: Schedule, arguments: Arguments) -> None:
        super().__init__(graph)
        self._sweeps, self._arguments = schedule.sweeps, arguments
        self._watches = watches_in_order((schedule,))
        self._watched: tuple[tuple[Any, Any], ...] = ()

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The graph's output."""
        output, watched = self.graph(*args, **kwargs)
        if jumps is not None:
            seen = [(w, *pair) for w, pair in zip(self._watches, watched, strict=True)]
            batch = batch_of(self._arguments(*args, **kwargs))
            jumps.keep(summed_jumps(seen, self._watches, batch), output)
        self._watched = detached(watched)
        return output

    @property
    def report(self) -> Report:
        """The jumps of the last call."""
        pairs = zip(self._watches, self._watched, strict=False)  # none before the first call
        return watched_report(((watch, *pair) for watch, pair in pairs), self._sweeps)


@dataclass(frozen=True)
class SweepControl:
    """What may follow the first schedule, and what decides how much of it does.

    Attributes:
        later: one more sweep each.
        rule: asked after every stage but the last.
        rollback: of the statistics that propagators move.
        exact: sweeps after which the network is the serial one.

    """

    later: tuple[Schedule, ...]
    rule: Rule
    rollback: Rollback
    exact: int

    @property
    def known(self) -> Known:
        """What tells the rule how far a state is from those it knows."""
        return self.rule.known if isinstance(self.rule, Certified) else {}

    def report(self, sweeps: int, found: Sequence[Measure]) -> Report:
        """The jumps of all sweeps that ran; of a certified network estimated errors and doubts.

        Answers that were made exact are not doubted.
        """
        report = Report(tuple(measure.jump() for measure in found), sweeps=sweeps)
        if not isinstance(self.rule, Certified):
            return report
        judged, exact = self.rule.verdict, sweeps >= self.exact
        errors = (0.0,) * len(judged.estimates) if exact else judged.estimates
        doubts = (False,) * len(judged.doubtful) if exact else judged.doubtful
        return replace(report, errors=errors, doubtful=doubts)


@dataclass(frozen=True)
class GraphStage:
    """A stage as a graph: (what it takes, network inputs) → (output, watched, what it leaves).

    ``keeps`` are what later stages take, of this one and of earlier ones.
    """

    graph: fx.GraphModule
    sweeps: int
    watches: tuple[Watch, ...]
    takes: tuple[Key, ...]
    leaves: tuple[Key, ...]
    keeps: frozenset[Key]


@final
class AdaptiveRunner(Runner):
    """Runs stages in one process until a rule is content; ``graph`` is the first stage alone."""

    def __init__(
        self,
        stages: Sequence[GraphStage],
        control: SweepControl,
        arguments: Arguments,
        graph: fx.GraphModule,
    ) -> None:
        super().__init__(graph)
        self._stages, self._control, self._arguments = tuple(stages), control, arguments
        self._sweeps = 0
        self.measures: tuple[Measure, ...] = ()

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The output of the last stage that was needed."""
        batch = batch_of(self._arguments(*args, **kwargs))
        control, known = self._control, dict[Key, Any]()
        found: tuple[Measure, ...] = ()
        seen: list[Watched] = []
        with control.rollback.step():
            for stage in self._stages:
                taken = [known[key] for key in stage.takes]
                output, pairs, left = stage.graph(*taken, *args, **kwargs)
                if jumps is not None:
                    seen += [(w, *pair) for w, pair in zip(stage.watches, pairs, strict=True)]
                if stage is self._stages[-1]:
                    break
                found += measures(stage.watches, tables(stage.watches, pairs, batch, control.known))
                if control.rule.is_enough(found, detached(output)):
                    break
                known |= zip(stage.leaves, left, strict=True)
                known = {key: known[key] for key in stage.keeps}
        self._sweeps, self.measures = stage.sweeps, found
        if jumps is not None:
            jumps.keep(summed_jumps(seen, [watch for watch, *_ in seen], batch), output)
        return output

    @property
    def report(self) -> Report:
        """The jumps of all sweeps of the last call."""
        return self._control.report(self._sweeps, self.measures)

    @property
    def code(self) -> str:
        """All stages, one after another."""
        return "\n".join(str(stage.graph.code) for stage in self._stages)
