"""States: run schedules of states one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pararealize.ir.hierarchy import Cycles
from pararealize.ir.target import Kind, Target
from pararealize.ir.task import Role, Task
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.stacked import stack_weights
from pararealize.runtime.effects.statistics import Statistics
from pararealize.runtime.multigrid.local_tasks import batched_tasks, carry_out
from pararealize.runtime.multigrid.solve import Solve, SolverSetup
from pararealize.runtime.multigrid.tape import Application
from pararealize.runtime.values.pytree import detached


class States:
    """Runs schedules of states one after another; what is known is not computed again."""

    def __init__(self, setting: SolverSetup, solved: Solve, learns: bool) -> None:
        self.setting, self.solved, self.learns = setting, solved, learns
        self.statistics: dict[Target, Statistics] = {}
        self.weights: dict[tuple[Target, ...], list[Tensor]] = {}
        self.entered: set[Target] = set()

    def forward(self, cycles: Cycles) -> None:
        """The tasks of a schedule, but for its head and what delivers the output."""
        values, messages = self.solved.values, self.solved.messages
        if self.learns:
            self.solved.tape.keep(cycles.linearised)
        tasks = self.setting.local(cycles).tasks
        for i, task in enumerate(tasks):
            if (task.rank, task.value) not in values and task.target in self.setting.stacks:
                self._apply_batch(batched_tasks(tasks, i, values, self.setting.stacks), cycles)
            if (task.rank, task.value) not in values:
                with messages.noted(task), self.solved.lane(self.setting, (task,), task.piece):
                    self._carry_out(task, cycles)

    def _carry_out(self, task: Task, cycles: Cycles) -> None:
        """Coarse steps that are linearised go on into each other's graphs, through corrections."""
        values, tape, key = self.solved.values, self.solved.tape, (task.rank, task.value)
        if task.op == "combine" and (task.rank, task.reads[0]) in tape.links:
            values[key] = tape.combine(task, values)
            return
        carry_out(task, values, self.solved.messages, lambda task: self._apply(task, cycles))
        if task.target is not None and task.target.kind is Kind.COARSE:
            place = (task.target, task.reads[0])
            if place in tape.records:
                tape.link(key, place)

    def _apply(self, task: Task, cycles: Cycles) -> Any:
        if task.role is Role.FEATURES:
            return self._feature(task)
        target, read = place = task.applied, task.reads[0]
        if task.commits and target.kind is Kind.FINE:
            self._restore(target)
        keep = self.learns and self.setting.keeps
        record = keep and cycles.linearised.get(target) == read
        if target in self.entered:
            return self.evaluate(task.rank, place, record=record, commits=task.commits)
        self.entered.add(target)
        with self.solved.messages.drawing(target):
            return self.evaluate(task.rank, place, record=record, commits=task.commits)

    def _apply_batch(self, tasks: Sequence[Task], cycles: Cycles) -> None:
        """Several slices at once; what is not linearised there alone is evaluated alone."""
        stack = self.setting.stacks[tasks[0].applied]
        if len(tasks) > 1 and stack.is_ready():
            with self.solved.lane(self.setting, tasks, self.setting.lane_of(stack)):
                self._advance_batch(tasks, cycles)

    def _advance_batch(self, tasks: Sequence[Task], cycles: Cycles) -> None:
        values, tape = self.solved.values, self.solved.tape
        targets = [task.applied for task in tasks]
        applications = [(task.applied, task.reads[0]) for task in tasks]
        stack = self.setting.stacks[targets[0]]
        features = self._stacked_features(tasks)
        if features is None:
            return
        keep = self.learns and self.setting.keeps
        kept = {cycles.linearised.get(target) == at for target, at in applications}
        record = keep and True in kept
        leads = stack.leads
        states = [
            self.evaluate(t.rank, place, leads[place[0]], record=record, commits=t.commits)
            if place[0] in leads
            else values[t.rank, t.reads[0]]
            for t, place in zip(tasks, applications, strict=True)
        ]
        if record:
            evaluate = partial(stack, features=features)
            results = tape.record_batch(applications, evaluate, states, self._stacked(targets))
        else:
            results = stack([w for w, _ in self._stacked(targets)], torch.stack(states), features)
        for task, result in zip(tasks, results.unbind(0), strict=True):
            values[task.rank, task.value] = result

    def _stacked_features(self, tasks: Sequence[Task]) -> list[Tensor] | None:
        """What the slices read besides states, stacked; ``None`` where it has gradients."""
        rows = [self._features(task.rank, task.applied, record=True) for task in tasks]
        if any(f.requires_grad for row in rows for f in row):
            return None
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _features(self, rank: int, target: Target, *, record: bool) -> list[Tensor]:
        """What a propagator reads besides the state, with autograd's graph or without."""
        found: list[Tensor] = []
        for _, value in self.setting.iteration.features.get(target, ()):
            kept = self.solved.tape.features.get(value) if record else None
            found += self.solved.values[rank, value] if kept is None else kept
        return found

    def _feature(self, task: Task) -> tuple[Tensor, ...]:
        """Evaluate a feature of the inputs, once a call."""
        keep = self.learns and self.setting.keeps
        with torch.set_grad_enabled(keep):
            found = self._read_inputs(task.rank, task.applied, commits=task.commits)
        if keep:
            self.solved.tape.features[task.value] = found
        return tuple(f.detach() for f in found)

    def _read_inputs(self, rank: int, target: Target, *, commits: bool) -> tuple[Tensor, ...]:
        """What a slice reads of the network's inputs."""
        part = self.setting.propagators[target]
        given = [self.setting.move(rank, self.solved.inputs[n]) for n in part.inputs]
        made = part(*given, commits=commits)
        return made if isinstance(made, tuple) else (made,)

    def _stacked(self, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """Weights of some slices, stacked once a call, without and with autograd's graph."""
        key = tuple(targets)
        if key not in self.weights:
            own = self.setting.stacks[targets[0]].weights(targets)
            with torch.set_grad_enabled(self.learns):
                self.weights[key] = [stack_weights(column) for column in own]
        return [(stacked.detach(), stacked) for stacked in self.weights[key]]

    def _restore(self, target: Target) -> None:
        """Statistics move once a step: those that an earlier cycle moved are moved back."""
        if target in self.statistics:
            self.statistics[target].restore()
        elif self.setting.iteration.forward[0] is not self.setting.iteration.forward[-1]:
            self.statistics[target] = Statistics(self.setting.propagators[target].stateful())

    def evaluate(
        self,
        rank: int,
        place: Application,
        lead: Propagator | None = None,
        *,
        record: bool,
        commits: bool,
    ) -> Any:
        """A propagator, or its ``lead``, at a value, with autograd's graph or without."""
        solved, (target, at) = self.solved, place
        part = self.setting.propagators[target] if lead is None else lead
        inputs = [self.setting.move(rank, solved.inputs[name]) for name in part.inputs]
        state = solved.values.get((rank, at))

        def evaluate(*values: Any) -> Any:
            return part(*values, commits=commits)

        inputs = [*self._features(rank, target, record=record), *inputs]
        if record:
            link = solved.tape.links.get((rank, at)) if target.kind is Kind.COARSE else None
            return solved.tape.record(place, evaluate, state, inputs, link)
        return detached(evaluate(*inputs) if state is None else evaluate(state, *inputs))

    def recompute_features(self, rank: int, target: Target) -> None:
        """Evaluate what a propagator reads of the inputs with autograd's graph, if not kept."""
        for feature, value in self.setting.iteration.features.get(target, ()):
            if value not in self.solved.tape.features:
                with torch.enable_grad():
                    found = self._read_inputs(rank, feature, commits=False)
                self.solved.tape.features[value] = found

    def linearise(self) -> None:
        """Applications that adjoints need and the states did not; what masks were drawn."""
        solved, setting = self.solved, self.setting
        if setting.keeps:
            tasks = setting.local(setting.iteration.adjoint[0]).tasks
            applied = dict.fromkeys((t.rank, t.target) for t in tasks if t.target is not None)
            for rank, target in applied:
                place = target, solved.cycles.linearised[target]
                if place not in solved.tape.records and place not in solved.tape.batches:
                    self.evaluate(rank, place, record=True, commits=False)
        masks = (p.masks for p in setting.propagators.values() if p.masks is not None)
        solved.masks = [(mask, mask.states) for mask in masks]
