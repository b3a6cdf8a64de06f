"""Adjoints: run schedules of adjoints one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from pararealize.ir.hierarchy import Cycles
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.runtime.multigrid.local_tasks import carry_out
from pararealize.runtime.multigrid.solve import Solve, SolverSetup
from pararealize.runtime.multigrid.states import States
from pararealize.runtime.multigrid.tape import Application, Batch
from pararealize.runtime.values.pytree import leaves_of


class Adjoints:
    """Runs schedules of adjoints one after another, which become values of the solve.

    ``others`` are the tensors whose gradients are found; ``retain`` keeps the graphs for more.
    """

    def __init__(
        self, setting: SolverSetup, solved: Solve, others: Sequence[Tensor], *, retain: bool
    ) -> None:
        self.setting, self.solved, self.values = setting, solved, solved.values
        self.others, self.retain = tuple(others), retain
        self._places = {id(tensor): i for i, tensor in enumerate(self.others)}
        self.gradients: list[Tensor | None] = []
        self.done: set[str] = set()

    def backward(self, cycles: Cycles) -> None:
        """The tasks of a schedule; gradients of weights are those of the last one."""
        solved, self.done = self.solved, set()
        self.gradients = [None] * len(self.others)
        tasks = self.setting.local(cycles).tasks
        for i, task in enumerate(tasks):
            if task.op == "apply" and self._place(task) in solved.tape.batches:
                self._apply_batch(tasks[i:])
            known = (task.rank, task.value) in self.values
            if not known or (task.op == "apply" and task.commits and task.value not in self.done):
                run = self._chain(tasks, i)
                with ExitStack() as stack:
                    for each in run or (task,):
                        stack.enter_context(solved.messages.noted(each))
                    stack.enter_context(solved.lane(self.setting, run or (task,), task.piece))
                    if run:
                        self._apply_chain(run)
                    else:
                        carry_out(task, self.values, solved.messages, self._apply)

    def _chain(self, tasks: Sequence[Task], first: int) -> list[Task]:
        """Steps from one task on whose graphs go on into each other; none where it is alone."""
        records, run = self.solved.tape.records, list[Task]()
        for task in tasks[first:]:
            if task.op != "apply" or task.commits or self._place(task) not in records:
                break
            if run:
                before = records[self._place(run[-1])]
                follows = task.reads[0] == run[-1].value and before.after == self._place(task)
                if not follows or (task.rank, task.value) in self.values:
                    break
            run.append(task)
        return run if len(run) > 1 else []

    def _apply_chain(self, run: Sequence[Task]) -> None:
        """The adjoints of several steps in one pass through their common graph."""
        adjoint = self.values[run[0].rank, run[0].reads[0]]
        found = self.solved.tape.transpose_chain([self._place(task) for task in run], adjoint)
        for task, value in zip(run, found, strict=True):
            self.values[task.rank, task.value] = value

    def _apply(self, task: Task) -> Any:
        tape, place = self.solved.tape, self._place(task)
        if place not in tape.records:
            self._evaluate(task.rank, place)
        return self._transpose(task, self.values[task.rank, task.reads[0]])

    def _transpose(self, task: Task, adjoint: Any) -> Any:
        """Φ'ᵀ λ of what was recorded there, and the gradients of its weights."""
        tape, place = self.solved.tape, self._place(task)
        indices = self._own(task.applied) if task.commits else []
        others = [self.others[i] for i in indices]
        retain = self.retain or not task.commits
        found, gradients = tape.transpose(place, adjoint, others, retain=retain)
        for i, gradient in zip(indices, gradients, strict=True):
            self.gradients[i] = _added(self.gradients[i], gradient)
        if not retain:
            del tape.records[place]
        return found

    def _apply_batch(self, tasks: Sequence[Task]) -> None:
        """The adjoints of slices that were advanced at once."""
        tape, first = self.solved.tape, tasks[0]
        batch = tape.batches[self._place(first)]
        ready = {
            self._place(task): task
            for task in tasks
            if task.op == "apply"
            and task.commits == first.commits
            and task.value not in self.done
            and (task.rank, task.reads[0]) in self.values
            and tape.batches.get(self._place(task)) is batch
            and (task.commits or (task.rank, task.value) not in self.values)
        }
        if not ready:
            return
        lane = self.setting.lane_of(self.setting.stacks[first.applied])
        with self.solved.lane(self.setting, tuple(ready.values()), lane):
            self._transpose_batch(batch, ready, first)

    def _transpose_batch(
        self, batch: Batch, ready: Mapping[Application, Task], first: Task
    ) -> None:
        tape = self.solved.tape
        adjoints = {p: self.values[t.rank, t.reads[0]] for p, t in ready.items()}
        retain = self.retain or not first.commits or len(ready) < len(batch.applications)
        found, gradients = batch.transpose(adjoints, weights=first.commits, retain=retain)
        for place, task in ready.items():
            self.values[task.rank, task.value] = found[place]
            if place in tape.records:  # what comes before its share of the batch
                self.values[task.rank, task.value] = self._transpose(task, found[place])
            self.done.add(task.value)
            if not retain:
                del tape.batches[place]
        for i, other in enumerate(self.others):
            self.gradients[i] = _added(self.gradients[i], gradients.get(id(other)))

    def _own(self, target: Target) -> list[int]:
        """Which of the tensors a propagator reads: its weights, and inputs."""
        features = self.setting.iteration.features.get(target, ())
        targets = (target, *(feature.target for feature in features))
        parts = [self.setting.propagators[each] for each in targets]
        read = {id(tensor) for part in parts for tensor in part.weights()}
        inputs = [self.solved.inputs[name] for part in parts for name in part.inputs]
        read |= {id(leaf) for leaf in leaves_of(inputs)}
        return sorted(self._places[each] for each in read if each in self._places)

    def _place(self, task: Task) -> Application:
        """Where a task's propagator is linearised."""
        target = task.applied
        return target, self.solved.cycles.linearised[target]

    def _evaluate(self, rank: int, place: Application) -> None:
        """Again from the stored state, with the masks of its step."""
        now = [(mask, mask.states) for mask, _ in self.solved.masks]
        for mask, states in self.solved.masks:
            mask.states = states
        run = States(self.setting, self.solved, learns=True)
        run.recompute_features(rank, place[0])
        run.evaluate(rank, place, record=True, commits=False)
        for mask, states in now:
            mask.states = states


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
