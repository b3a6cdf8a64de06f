"""Rank programs: what a rank runs in a call, a schedule, sweeps that are decided, or a solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from pararealize.ir.schedule import Schedule, Watch
from pararealize.runtime.communication.endpoint import Message
from pararealize.runtime.monitoring.jumps import Watched, watched_report
from pararealize.runtime.monitoring.measures import (
    Measure,
    batch_of,
    measures,
    shared,
    tables,
)
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.multigrid.local_tasks import is_end
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.adaptive import SweepControl
from pararealize.runtime.runners.multigrid import attach, last_state
from pararealize.runtime.runners.rank_stages import RankStage, Route, messages_of, rank_stages
from pararealize.runtime.runners.rank_tasks import RankCall, RankMessages, RankTasks
from pararealize.runtime.values.pytree import detached


@dataclass(frozen=True)
class Outcome:
    """What a rank has come to: the output's name, jumps seen here, and all watches of the call."""

    output: str
    seen: tuple[Watched, ...] = ()
    watches: tuple[Watch, ...] = ()


class RankProgram(ABC):
    """What one rank runs between the beginning and the end of a call."""

    @property
    @abstractmethod
    def stages(self) -> tuple[RankStage, ...]:
        """The rank's part of every schedule."""

    @property
    @abstractmethod
    def messages(self) -> Mapping[Route, Message]:
        """All that may be sent in a call and its backward pass."""

    @abstractmethod
    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:
        """Run the tasks up to the output; with ``jumps``, keep their states for autograd."""

    @property
    @abstractmethod
    def report(self) -> Report:
        """How the last call went."""

    @property
    def solver(self) -> MultigridSolver | None:
        """What goes through multigrid's cycles."""
        return None


@final
class StaticProgram(RankProgram):
    """One schedule, the same in every call."""

    def __init__(self, schedule: Schedule, rank: int) -> None:
        self._schedule = schedule
        (self._stage,) = rank_stages((schedule,), rank)
        self._watches = tuple(self._stage.reported_by(rank).values())
        self._watched: tuple[tuple[Any, Any], ...] = ()

    @property
    def stages(self) -> tuple[RankStage, ...]:
        """The one stage."""
        return (self._stage,)

    @property
    def messages(self) -> Mapping[Route, Message]:
        """The messages of the one schedule."""
        return messages_of(self._schedule)

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:  # noqa: ARG002
        """All tasks of the schedule."""
        tasks.run_stage(self._stage, here)
        here.call.settle()
        values = here.values
        pairs = tuple((values[watch.new], values[watch.old]) for watch in self._watches)
        self._watched = detached(pairs)
        seen = tuple((w, *pair) for w, pair in zip(self._watches, pairs, strict=True))
        every = tuple(watch for watch, _ in self._stage.watches)
        return Outcome(self._schedule.output, seen, every)

    @property
    def watched(self) -> list[tuple[Watch, tuple[Any, Any]]]:
        """The new and old states of the last call at the interfaces that this rank corrects."""
        return list(zip(self._watches, self._watched, strict=True))

    @property
    def report(self) -> Report:
        """The jumps that this rank corrects."""
        return watched_report(self._watches, self._watched, self._schedule.sweeps)


@final
class AdaptiveProgram(RankProgram):
    """Stages one after another, until all ranks find that a rule is content."""

    def __init__(self, schedule: Schedule, control: SweepControl, rank: int) -> None:
        self._control, self._rank = control, rank
        self._schedules = (schedule, *control.later)
        self._stages = rank_stages(self._schedules, rank)
        self._sweeps = 0
        self.measures: tuple[Measure, ...] = ()

    @property
    def stages(self) -> tuple[RankStage, ...]:
        """All that may run."""
        return self._stages

    @property
    def messages(self) -> Mapping[Route, Message]:
        """The messages of all stages."""
        return messages_of(*self._schedules)

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:
        """Stage after stage; states that the output, or a wanted jump, needs have adjoints."""
        found: tuple[Measure, ...] = ()
        seen: list[Watched] = []
        watches: list[Watch] = []
        with self._control.rollback.step():
            for stage in self._stages:
                if stage is not self._stages[0]:
                    here.call.post(stage.incoming)
                tasks.run_stage(stage, here)
                here.call.settle()
                watches += [watch for watch, _ in stage.watches]
                if jumps:
                    seen += self._seen(stage, here)
                if stage is self._stages[-1]:
                    break
                found += self._measured(stage, tasks, here)
                output = detached(here.values[stage.schedule.output])
                if self._control.rule.is_enough(found, output):
                    break
        here.call.only_answers(stage.all_answered if jumps else stage.answered)
        self._sweeps, self.measures = stage.schedule.sweeps, found
        return Outcome(stage.schedule.output, tuple(seen), tuple(watches))

    def _seen(self, stage: RankStage, here: RankCall) -> list[Watched]:
        mine, values = stage.reported_by(self._rank).values(), here.values
        return [(w, values[w.new], values[w.old]) for w in mine]

    def _measured(self, stage: RankStage, tasks: RankTasks, here: RankCall) -> tuple[Measure, ...]:
        """The jumps of a stage, those of all ranks."""
        batch, mine = batch_of(here.inputs), stage.reported_by(self._rank)
        pairs = [(here.values[w.new], here.values[w.old]) for w in mine.values()]
        own = tables(mine.values(), pairs, batch, self._control.known)
        each = dict(zip(mine, own, strict=True))
        every = shared(each, len(stage.watches), batch, tasks.endpoint.transport.sum)
        return measures((watch for watch, _ in stage.watches), every)

    @property
    def report(self) -> Report:
        """The jumps of all sweeps, those of all ranks."""
        return self._control.report(self._sweeps, self.measures)


@final
class SolveProgram(RankProgram):
    """A multigrid solve for the last state, then the head and what delivers the output."""

    def __init__(self, schedule: Schedule, solver: MultigridSolver, rank: int) -> None:
        self._stages, self._solver, self._rank = rank_stages((schedule,), rank), solver, rank

    @property
    def stages(self) -> tuple[RankStage, ...]:
        """The rank's part of the first schedule that the solver runs."""
        return self._stages

    @property
    def messages(self) -> Mapping[Route, Message]:
        """The messages of all schedules that the solver may run."""
        return messages_of(*self._solver.schedules)

    @property
    def solver(self) -> MultigridSolver:
        """What goes through the cycles."""
        return self._solver

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:  # noqa: ARG002
        """Where gradients are wanted anywhere, adjoints are solved for on all ranks."""
        call = here.call
        call.settle()
        learns = call.learns()
        solved = self._solver.solve(here.inputs, RankMessages(tasks, call), learns=learns)
        schedule = solved.cycles.schedule
        rank, name = last_state(schedule)
        state = solved.values[rank, name] if rank == self._rank else ()
        if learns:
            others = [*self._solver.depends_on(solved), call.anchor]
            state, token = attach(self._solver, solved, state, others)
            call.keep_token(token)
        here.values[name] = state
        for task in schedule:
            if task.rank == self._rank and is_end(schedule, task):
                tasks.run(task, here)
        return Outcome(schedule.output)

    @property
    def report(self) -> Report:
        """Residuals of the last call and backward pass."""
        return self._solver.report()


def certain_messages(program: RankProgram, schedule: Schedule, rank: int) -> Sequence[Message]:
    """Messages from or to a rank that every call takes."""
    solver = program.solver
    if solver is not None and solver.setting.iteration.warm:
        return []
    every = program.messages
    return [every[key] for key in messages_of(schedule) if rank in key[1:]]
