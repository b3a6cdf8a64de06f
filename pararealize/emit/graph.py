"""Lower a schedule to a ``torch.fx.GraphModule``: one node for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from pararealize.emit.devices import movers
from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import Key, kept, made_in, taken, watched_on, watches_in_order
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.runners.graph import GraphStage
from pararealize.runtime.values.combine import combine


def lower(
    schedule: Schedule,
    arguments: tuple[Operation, ...],
    propagators: Mapping[Target, Propagator],
    *,
    guarded: bool = False,
) -> fx.GraphModule:
    """The schedule as a graph module: (network inputs) → (output, watched values).

    Every ``apply`` becomes one ``call_module``, every ``combine`` one ``call_function``, in the
    schedule's order and under its names. Propagators that several tasks apply are told which of
    them moves statistics. Where the schedule is placed, a ``recv`` moves a value to the device of
    its rank. ``guarded`` says that states may hold infinite values.
    """
    return _lowered((schedule,), arguments, propagators, (), None, guarded=guarded)


def lower_stages(
    stages: Sequence[Schedule],
    arguments: tuple[Operation, ...],
    propagators: Mapping[Target, Propagator],
    *,
    guarded: bool = False,
) -> tuple[GraphStage, ...]:
    """Schedules that run one after another as graph modules.

    Each takes, before the network's inputs, what it reads of earlier ones, and gives, besides what
    :func:`lower` says, what later ones read of it.
    """
    found = []
    for i in range(1, len(stages) + 1):
        ran, keeps, made = stages[:i], kept(stages, i), made_in(stages[i - 1 : i])
        takes, leaves = taken(ran), tuple(key for key in keeps if key in made)
        graph = _lowered(ran, arguments, propagators, takes, leaves, guarded=guarded)
        watches = watches_in_order(ran)
        found.append(GraphStage(graph, ran[-1].sweeps, watches, takes, leaves, frozenset(keeps)))
    return tuple(found)


def _lowered(
    stages: Sequence[Schedule],
    arguments: tuple[Operation, ...],
    propagators: Mapping[Target, Propagator],
    takes: Sequence[Key],
    leaves: Sequence[Key] | None,
    *,
    guarded: bool,
) -> fx.GraphModule:
    """The last of the stages."""
    schedule, graph = stages[-1], fx.Graph()
    known = {key: graph.placeholder(f"known_{key[1]}".replace(".", "_")) for key in takes}
    inputs = {a.name: graph.create_node("placeholder", a.target, a.args, {}) for a in arguments}
    moves = movers(schedule, propagators) if schedule.ranks > 1 else {}
    modules: dict[str, nn.Module] = {str(target): p for target, p in propagators.items()}
    modules |= {f"device.{rank}": move for rank, move in moves.items()}
    writer = _GraphWriter(graph, propagators, inputs, frozenset(moves), guarded, known)
    for task in schedule:
        writer.write(task)
    watched = tuple(
        (writer.values[rank, watch.new], writer.values[rank, watch.old])
        for rank in range(schedule.ranks)
        for watch in watched_on(stages, rank)
    )
    left = () if leaves is None else (tuple(writer.values[key] for key in leaves),)
    made = next(t for t in schedule if t.value == schedule.output and t.op != "recv")
    graph.output((writer.values[made.rank, made.value], watched, *left))
    return fx.GraphModule(modules, graph, "Schedule")


@dataclass
class _GraphWriter:
    """Nodes of the values that each rank knows."""

    graph: fx.Graph
    propagators: Mapping[Target, Propagator]
    inputs: Mapping[str, fx.Node]
    moves: frozenset[int]
    guarded: bool
    values: dict[Key, fx.Node] = field(default_factory=dict)

    def write(self, task: Task) -> None:
        if task.op == "send":
            return
        node = self._node(task)
        node.meta["task"] = str(task)
        node.meta["key"] = (task.rank, task.value)
        self.values[task.rank, task.value] = node

    def _node(self, task: Task) -> fx.Node:
        name = task.value.replace(".", "_")
        if task.op == "recv":
            return self._moved(task.rank, self.values[task.peer, task.value], name)
        keys = [(task.rank, read) for read in task.reads]
        state = tuple(self.values[key] for key in keys if key in self.values)
        if task.op == "combine":
            guards: dict[str, Any] = {"guarded": True} if self.guarded else {}
            terms: tuple[Any, ...] = (task.signs, *state)
            return self.graph.create_node("call_function", combine, terms, guards, name=name)
        extra = tuple(self._input(task.rank, i) for i in self.propagators[task.applied].inputs)
        quiet: dict[str, Any] = {} if task.commits else {"commits": False}
        arguments = (*state, *extra)
        return self.graph.create_node("call_module", task.propagator, arguments, quiet, name=name)

    def _input(self, rank: int, name: str) -> fx.Node:
        """A network input where the rank's device can read it."""
        if (rank, f"input {name}") not in self.values:
            node = self._moved(rank, self.inputs[name], name)
            self.values[rank, f"input {name}"] = node
        return self.values[rank, f"input {name}"]

    def _moved(self, rank: int, node: fx.Node, name: str) -> fx.Node:
        if rank not in self.moves:
            return node
        return self.graph.create_node("call_module", f"device.{rank}", (node,), name=name)
