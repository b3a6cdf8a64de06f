"""Graph: schedules as graphs, in one process: one, or stages decided while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

from torch import fx

from pararealize.ir.lanes import LaneProgram
from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import Key, watches_in_order
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.jumps import Jumps, Watched, summed_jumps, watched_report
from pararealize.runtime.monitoring.measures import Known, Measure, batch_of, measures, tables
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.rules import Certified, Rule
from pararealize.runtime.runners.lane_walk import Launching, propagators_in, walk
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import detached


@dataclass(frozen=True)
class StageCall:
    """A call of a stage: its number, its graph, what it takes, and where its tasks belong."""

    number: int
    graph: fx.GraphModule
    inputs: tuple[Any, ...]
    programs: Callable[[], tuple[LaneProgram, ...]]

    def launched(self, launching: Launching, inputs: Sequence[Any]) -> Any:
        """What it gives for other inputs, launched on lanes."""
        return walk(self.graph, self.programs()[self.number], launching, inputs)


@final
class GraphRunner(Runner):
    """Calls the graph of a schedule: (network inputs) → (output, watched values)."""

    def __init__(
        self,
        graph: fx.GraphModule,
        schedule: Schedule,
        arguments: Arguments,
        programs: Callable[[], tuple[LaneProgram, ...]],
    ) -> None:
        super().__init__(graph)
        self._sweeps, self._arguments = schedule.sweeps, arguments
        self._ranks = schedule.ranks
        self._watches = watches_in_order((schedule,))
        self.seen = ()
        self._calls = StageCalls(programs, arguments)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The graph's output."""
        output, watched = self._calls(0, self.graph, (), args, kwargs)
        if jumps is not None:
            seen = [(w, *pair) for w, pair in zip(self._watches, watched, strict=True)]
            batch = batch_of(self._arguments(*args, **kwargs))
            jumps.keep(summed_jumps(seen, self._watches, batch), output)
        self.seen = detached(watched)
        return output

    @property
    def is_apart(self) -> bool:
        """Whether its tasks lie on several devices."""
        return self._ranks > 1

    @property
    def propagators(self) -> Iterable[Propagator]:
        """What the tasks apply."""
        return propagators_in(self.graph)

    @property
    def lanes(self) -> tuple[LaneProgram, ...]:
        """What a captured call launches where."""
        return self._calls.programs()

    def decided(self, launching: Launching) -> AbstractContextManager[None]:
        """A block in which the tasks are launched on lanes."""
        return self._calls.launched(launching)

    @property
    def report(self) -> Report:
        """The jumps of the last call."""
        pairs = zip(self._watches, self.seen, strict=False)  # none before the first call
        return watched_report(((watch, *pair) for watch, pair in pairs), self._sweeps)


@final
class StageCalls:
    """Calls of stages' graphs: as they are, on lanes, or by what a block says."""

    def __init__(
        self, programs: Callable[[], tuple[LaneProgram, ...]], arguments: Arguments
    ) -> None:
        self.programs, self._arguments = programs, arguments
        self._launching: Launching | None = None
        self._by: Callable[[StageCall], Any] | None = None

    @property
    def is_decided(self) -> bool:
        """Whether nothing may be decided by what is seen."""
        return self._launching is not None

    def __call__(
        self,
        number: int,
        graph: fx.GraphModule,
        taken: Sequence[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """What the stage of that number gives, of what it takes and the network's inputs."""
        if self._by is None and self._launching is None:
            return graph(*taken, *args, **kwargs)
        inputs = (*taken, *self._arguments(*args, **kwargs).values())
        call = StageCall(number, graph, inputs, self.programs)
        if self._launching is not None:
            return call.launched(self._launching, inputs)
        return call.graph(*inputs) if self._by is None else self._by(call)

    @contextmanager
    def launched(self, launching: Launching) -> Iterator[None]:
        """A block in which stages are launched on lanes."""
        before, self._launching = self._launching, launching
        try:
            yield
        finally:
            self._launching = before

    @contextmanager
    def made_by(self, call: Callable[[StageCall], Any]) -> Iterator[None]:
        """A block in which something else calls the stages, as replays of graphs do."""
        before, self._by = self._by, call
        try:
            yield
        finally:
            self._by = before


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
        programs: Callable[[], tuple[LaneProgram, ...]],
    ) -> None:
        super().__init__(graph)
        self._stages, self._control, self._arguments = tuple(stages), control, arguments
        self.calls = StageCalls(programs, arguments)
        self._sweeps = 0
        self.measures: tuple[Measure, ...] = ()

    @property
    def is_apart(self) -> bool:
        """Whether its tasks lie on several devices."""
        return any(schedule.ranks > 1 for schedule in self._control.later)

    @property
    def propagators(self) -> Iterable[Propagator]:
        """What the tasks of all stages apply."""
        return propagators_in(*(stage.graph for stage in self._stages))

    @property
    def lanes(self) -> tuple[LaneProgram, ...]:
        """What a captured call launches where, stage by stage."""
        return self.calls.programs()

    def decided(self, launching: Launching) -> AbstractContextManager[None]:
        """A block in which the sweeps asked for are run, and no rule is heard."""
        return self.calls.launched(launching)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The output of the last stage that was needed."""
        batch = batch_of(self._arguments(*args, **kwargs))
        control, known = self._control, dict[Key, Any]()
        found: tuple[Measure, ...] = ()
        seen: list[Watched] = []
        with control.rollback.step():
            for number, stage in enumerate(self._stages):
                taken = [known[key] for key in stage.takes]
                output, pairs, left = self.calls(number, stage.graph, taken, args, kwargs)
                if jumps is not None:
                    seen += [(w, *pair) for w, pair in zip(stage.watches, pairs, strict=True)]
                if stage is self._stages[-1] or self.calls.is_decided:
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
