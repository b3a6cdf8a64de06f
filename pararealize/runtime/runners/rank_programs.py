"""Rank programs: what a rank runs in a call, a schedule, sweeps that are decided, or a solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor

from pararealize.ir.schedule import Schedule, Watch
from pararealize.runtime.communication.message import Message
from pararealize.runtime.monitoring.jumps import Watched, watched_report
from pararealize.runtime.monitoring.measures import Measure, batch_of, measures, shared, tables
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.multigrid.local_tasks import is_end
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.graph import SweepControl
from pararealize.runtime.runners.multigrid import attach, last_state
from pararealize.runtime.runners.rank_stages import RankStage, messages_of, rank_stages
from pararealize.runtime.runners.rank_tasks import RankCall, RankMessages, RankTasks
from pararealize.runtime.values.pytree import detached, map_tensors, tensors_of

#: What a rank has come to: the output's name, jumps seen here, and all watches of the call.
Outcome = tuple[str, Sequence[Watched], Sequence[Watch]]


class RankProgram(ABC):
    """What one rank runs between the beginning and the end of a call.

    ``schedules`` may run one after another; ``sending`` are all that a call and its backward pass
    may run, where these are more.
    """

    solver: MultigridSolver | None = None

    #: Whether the report has the jumps of this rank alone, as no call needs those of all.
    knows_part = False

    def __init__(
        self, schedules: Sequence[Schedule], rank: int, sending: Sequence[Schedule] = ()
    ) -> None:
        self.schedule, self.rank = schedules[0], rank
        self.stages = rank_stages(schedules, rank)
        self.messages = messages_of(*(sending or schedules))

    @abstractmethod
    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:
        """Run the tasks up to the output; with ``jumps``, keep their states for autograd."""

    @property
    @abstractmethod
    def report(self) -> Report:
        """How the last call went."""

    @property
    def certain(self) -> list[Message]:
        """Messages from or to the rank that every call takes."""
        return [self.messages[key] for key in messages_of(self.schedule) if self.rank in key[1:]]


def _apart(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.requires_grad else tensor


def seen_in(stage: RankStage, here: RankCall) -> list[Watched]:
    """The watches that this rank reports, with the new and old states."""
    values = here.values
    return [(w, values[w.new], values[w.old]) for w in stage.reported.values()]


@final
class StaticProgram(RankProgram):
    """One schedule, the same in every call.

    ``watched`` are new and old states of the last call at the interfaces that this rank corrects.
    """

    def __init__(self, schedule: Schedule, rank: int) -> None:
        super().__init__((schedule,), rank)
        self.knows_part = bool(schedule.watches)  # where nothing is corrected, all know that
        self.watched: list[Watched] = []

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:  # noqa: ARG002
        """All tasks of the schedule."""
        (stage,) = self.stages
        tasks.run_stage(stage, here)
        here.call.settle()
        seen = seen_in(stage, here)
        self.watched = [(watch, detached(new), detached(old)) for watch, new, old in seen]
        return self.schedule.output, seen, stage.watches

    @property
    def report(self) -> Report:
        """The jumps that this rank corrects."""
        return watched_report(self.watched, self.schedule.sweeps)


@final
class AdaptiveProgram(RankProgram):
    """Stages one after another, until all ranks find that a rule is content."""

    def __init__(self, schedule: Schedule, control: SweepControl, rank: int) -> None:
        super().__init__((schedule, *control.later), rank)
        self._control, self._sweeps = control, 0
        self.measures: tuple[Measure, ...] = ()

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:
        """Stage after stage; states that the output, or a wanted jump, needs have adjoints."""
        found: tuple[Measure, ...] = ()
        seen: list[Watched] = []
        watches: list[Watch] = []
        with self._control.rollback.step():
            for stage in self.stages:
                if stage is not self.stages[0]:
                    here.call.post(stage.incoming)
                tasks.run_stage(stage, here)
                here.call.settle()
                watches += stage.watches
                if jumps:
                    seen += seen_in(stage, here)
                if stage is self.stages[-1]:
                    break
                found += self._measured(stage, tasks, here)
                output = detached(here.values[stage.schedule.output])
                if self._control.rule.is_enough(found, output):
                    break
        here.call.only_answers(stage.all_answered if jumps else stage.answered)
        self._sweeps, self.measures = stage.schedule.sweeps, found
        return stage.schedule.output, seen, watches

    def _measured(self, stage: RankStage, tasks: RankTasks, here: RankCall) -> tuple[Measure, ...]:
        """The jumps of a stage, those of all ranks."""
        batch, mine = batch_of(here.inputs), stage.reported
        pairs = [(new, old) for _, new, old in seen_in(stage, here)]
        own = tables(mine.values(), pairs, batch, self._control.known)
        each = dict(zip(mine, own, strict=True))
        every = shared(each, len(stage.watches), batch, tasks.endpoint.transport.sum)
        return measures(stage.watches, every)

    @property
    def report(self) -> Report:
        """The jumps of all sweeps, those of all ranks."""
        return self._control.report(self._sweeps, self.measures)


@final
class SolveProgram(RankProgram):
    """A multigrid solve for the last state, then the head and what delivers the output."""

    def __init__(self, schedule: Schedule, solver: MultigridSolver, rank: int) -> None:
        super().__init__((schedule,), rank, solver.schedules)
        self.solver = self._solver = solver

    @property
    def certain(self) -> list[Message]:
        """None where a call may start from the one before."""
        return [] if self._solver.setting.iteration.warm else super().certain

    def advance(self, tasks: RankTasks, here: RankCall, *, jumps: bool) -> Outcome:  # noqa: ARG002
        """Where gradients are wanted anywhere, adjoints are solved for on all ranks."""
        call = here.call
        call.settle()
        learns = call.learns()
        inputs = map_tensors(_apart, here.inputs)  # adjoints end here, not where the call began
        solved = self._solver.solve(inputs, RankMessages(tasks, call), learns=learns)
        schedule = solved.cycles.schedule
        rank, name = last_state(schedule)
        state = solved.values[rank, name] if rank == self.rank else ()
        if learns:
            pairs = zip(tensors_of(inputs), tensors_of(here.inputs), strict=True)
            stands_for = {id(apart): entered for apart, entered in pairs}
            others = self._solver.depends_on(solved)
            state, token = attach(self._solver, solved, state, others, stands_for, here.anchor)
            call.keep_token(token)
        here.values[name] = state
        for task in schedule:
            if task.rank == self.rank and is_end(schedule, task):
                tasks.run(task, here)
        return schedule.output, (), ()

    @property
    def report(self) -> Report:
        """Residuals of the last call and backward pass."""
        return self._solver.report()
