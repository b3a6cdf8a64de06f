"""Lower a schedule to a ``torch.fx.GraphModule``: one node for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule, Task
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.combine import combine


def lower(
    schedule: Schedule, arguments: tuple[Operation, ...], propagators: Mapping[str, Propagator]
) -> fx.GraphModule:
    """The schedule as a graph module: (network inputs) → (output, watched values).

    Every ``apply`` becomes one ``call_module``, every ``combine`` one ``call_function``, in the
    schedule's order and under its names. Propagators that several tasks apply are told which of
    them moves statistics.
    """
    graph = fx.Graph()
    inputs = {a.name: graph.create_node("placeholder", a.target, a.args, {}) for a in arguments}
    values: dict[str, fx.Node] = {}
    for task in schedule:
        values[task.value] = _node(graph, task, values, inputs, propagators)
        values[task.value].meta["task"] = str(task)
    watched = tuple((values[watch.new], values[watch.old]) for watch in schedule.watches)
    graph.output((values[schedule.output], watched))
    return fx.GraphModule(dict(propagators), graph, "Schedule")


def _node(
    graph: fx.Graph,
    task: Task,
    values: Mapping[str, fx.Node],
    inputs: Mapping[str, fx.Node],
    propagators: Mapping[str, Propagator],
) -> fx.Node:
    name = task.value.replace(".", "_")
    state = tuple(values[read] for read in task.reads if read in values)
    if task.op == "combine":
        node = graph.create_node("call_function", combine, (task.signs, *state), name=name)
    else:
        extra = tuple(inputs[i] for i in propagators[task.propagator].inputs)
        quiet: dict[str, Any] = {} if task.commits else {"commits": False}
        node = graph.create_node("call_module", task.propagator, (*state, *extra), quiet, name=name)
    return node
