"""States: run schedules of states one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pararealize.ir.hierarchy import Cycles
from pararealize.ir.schedule import Task
from pararealize.propagators.stacked import stack_weights
from pararealize.runtime.effects.statistics import Statistics
from pararealize.runtime.multigrid.local_tasks import batched_tasks, carry_out
from pararealize.runtime.multigrid.protocols import Applied
from pararealize.runtime.multigrid.solve import Solve, SolverSetup
from pararealize.runtime.values.pytree import detached


class States:
    """Runs schedules of states one after another; what is known is not computed again."""

    def __init__(self, setting: SolverSetup, solved: Solve, learns: bool) -> None:
        self.setting, self.solved, self.learns = setting, solved, learns
        self.statistics: dict[str, Statistics] = {}
        self.weights: dict[tuple[str, ...], list[Tensor]] = {}
        self.entered: set[str] = set()

    def forward(self, cycles: Cycles) -> None:
        """The tasks of a schedule, but for its head and what delivers the output."""
        values, post = self.solved.values, self.solved.post
        if self.learns:
            self.solved.tape.keep(cycles.linearised)
        tasks = self.setting.body(cycles).tasks
        for i, task in enumerate(tasks):
            if (task.rank, task.value) not in values and task.propagator in self.setting.stacks:
                self._apply_batch(batched_tasks(tasks, i, values, self.setting.stacks), cycles)
            if (task.rank, task.value) not in values:
                with post.noted(task), self.solved.lane(self.setting, (task,), task.piece):
                    self._carry_out(task, cycles)

    def _carry_out(self, task: Task, cycles: Cycles) -> None:
        """Coarse steps that are linearised go on into each other's graphs, through corrections."""
        values, tape, key = self.solved.values, self.solved.tape, (task.rank, task.value)
        if task.op == "combine" and (task.rank, task.reads[0]) in tape.links:
            values[key] = tape.combine(task, values)
            return
        carry_out(task, values, self.solved.post, lambda task: self._apply(task, cycles))
        coarse = task.op == "apply" and task.propagator.startswith("coarse")
        if coarse and (task.propagator, task.reads[0]) in tape.records:
            tape.link(key, (task.propagator, task.reads[0]))

    def _apply(self, task: Task, cycles: Cycles) -> Any:
        keep = self.learns and self.setting.keeps
        place = (task.propagator, task.reads[0])
        if task.propagator.startswith("inputs."):
            return self._see(task)
        if task.commits and task.propagator.startswith("fine."):
            self._restore(task.propagator)
        record = keep and cycles.linearised.get(place[0]) == place[1]
        if task.propagator in self.entered:
            return self.evaluate(task.rank, place, record=record, commits=task.commits)
        self.entered.add(task.propagator)
        self.solved.post.enter(task.propagator)
        try:
            return self.evaluate(task.rank, place, record=record, commits=task.commits)
        finally:
            self.solved.post.leave(task.propagator)

    def _apply_batch(self, tasks: Sequence[Task], cycles: Cycles) -> None:
        """Several slices at once; what is not linearised there alone is evaluated alone."""
        stack = self.setting.stacks[tasks[0].propagator]
        if len(tasks) > 1 and stack.is_ready():
            with self.solved.lane(self.setting, tasks, self.setting.lane_of(stack)):
                self._advance_batch(tasks, cycles)

    def _advance_batch(self, tasks: Sequence[Task], cycles: Cycles) -> None:
        values, tape = self.solved.values, self.solved.tape
        stack, names = self.setting.stacks[tasks[0].propagator], [t.propagator for t in tasks]
        places = [(task.propagator, task.reads[0]) for task in tasks]
        features = self._stacked_features(tasks)
        if features is None:
            return
        keep = self.learns and self.setting.keeps
        kept = {cycles.linearised.get(name) == at for name, at in places}
        record = keep and True in kept
        leads = stack.leads
        states = [
            self._run(t.rank, leads[name], place, record=record, commits=t.commits)
            if name in leads
            else values[t.rank, t.reads[0]]
            for t, name, place in zip(tasks, names, places, strict=True)
        ]
        if record:
            evaluate = partial(stack, features=features)
            results = tape.record_batch(places, evaluate, states, self._stacked(names))
        else:
            results = stack([w for w, _ in self._stacked(names)], torch.stack(states), features)
        for task, result in zip(tasks, results.unbind(0), strict=True):
            values[task.rank, task.value] = result

    def _stacked_features(self, tasks: Sequence[Task]) -> list[Tensor] | None:
        """What the slices see, stacked; ``None`` where gradients have to go through it."""
        rows = [self._features(task.rank, task.propagator, record=True) for task in tasks]
        if any(f.requires_grad for row in rows for f in row):
            return None
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _features(self, rank: int, name: str, *, record: bool) -> list[Tensor]:
        """What a propagator sees besides the state, with autograd's graph or without."""
        found: list[Tensor] = []
        for value in self.setting.iteration.features.get(name, ()):
            kept = self.solved.tape.features.get(value) if record else None
            found += self.solved.values[rank, value] if kept is None else kept
        return found

    def _see(self, task: Task) -> tuple[Tensor, ...]:
        """Evaluate what a slice sees, once a call."""
        keep = self.learns and self.setting.keeps
        with torch.set_grad_enabled(keep):
            found = self._look(task.rank, task.propagator, commits=task.commits)
        if keep:
            self.solved.tape.features[task.value] = found
        return tuple(f.detach() for f in found)

    def _look(self, rank: int, name: str, *, commits: bool) -> tuple[Tensor, ...]:
        """What a slice sees in the network's inputs."""
        part = self.setting.propagators[name]
        given = [self.setting.move(rank, self.solved.inputs[n]) for n in part.inputs]
        made = part(*given, commits=commits)
        return made if isinstance(made, tuple) else (made,)

    def _stacked(self, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Weights of some slices, stacked once a call, without and with autograd's graph."""
        key = tuple(names)
        if key not in self.weights:
            own = self.setting.stacks[names[0]].weights(names)
            with torch.set_grad_enabled(self.learns):
                self.weights[key] = [stack_weights(column) for column in own]
        return [(stacked.detach(), stacked) for stacked in self.weights[key]]

    def _restore(self, name: str) -> None:
        """Statistics move once a step: those that an earlier cycle moved are moved back."""
        if name in self.statistics:
            self.statistics[name].restore()
        elif self.setting.iteration.forward[0] is not self.setting.iteration.forward[-1]:
            self.statistics[name] = Statistics(self.setting.propagators[name].stateful())

    def evaluate(self, rank: int, place: tuple[str, str], *, record: bool, commits: bool) -> Any:
        """A propagator at a value, with autograd's graph or without."""
        part = self.setting.propagators[place[0]]
        return self._run(rank, part, place, record=record, commits=commits)

    def _run(
        self, rank: int, part: Applied, place: tuple[str, str], *, record: bool, commits: bool
    ) -> Any:
        solved = self.solved
        inputs = [self.setting.move(rank, solved.inputs[name]) for name in part.inputs]
        state = solved.values.get((rank, place[1]))

        def evaluate(*values: Any) -> Any:
            return part(*values, commits=commits)

        inputs = [*self._features(rank, place[0], record=record), *inputs]
        if record:
            coarse = place[0].startswith("coarse")
            link = solved.tape.links.get((rank, place[1])) if coarse else None
            return solved.tape.record(place, evaluate, state, inputs, link)
        return detached(evaluate(*inputs) if state is None else evaluate(state, *inputs))

    def see_again(self, rank: int, name: str) -> None:
        """Evaluate what a propagator sees with autograd's graph, where that was not kept."""
        for value in self.setting.iteration.features.get(name, ()):
            if value not in self.solved.tape.features:
                seen = f"inputs.{value[1:].partition('.')[0]}"
                with torch.enable_grad():
                    found = self._look(rank, seen, commits=False)
                self.solved.tape.features[value] = found

    def linearise(self) -> None:
        """Applications that adjoints need and the states did not; what masks were drawn."""
        solved, setting = self.solved, self.setting
        if setting.keeps:
            for rank, place in needed(setting, solved.cycles):
                if place not in solved.tape.records and place not in solved.tape.batches:
                    self.evaluate(rank, place, record=True, commits=False)
        masks = (p.masks for p in setting.propagators.values() if p.masks is not None)
        solved.masks = [(mask, mask.states) for mask in masks]


def needed(setting: SolverSetup, cycles: Cycles) -> list[tuple[int, tuple[str, str]]]:
    """Where this rank's adjoints are linearised."""
    tasks = setting.body(setting.iteration.adjoint[0]).tasks
    applied = {(t.rank, t.propagator): None for t in tasks if t.op == "apply"}
    return [(rank, (name, cycles.linearised[name])) for rank, name in applied]
