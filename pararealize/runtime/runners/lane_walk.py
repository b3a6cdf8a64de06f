"""Lane walk: a schedule's graph on streams, each task on its lane after what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, final

from torch import fx

from pararealize.ir.lanes import START, LaneProgram, Launch
from pararealize.ir.stages import Key
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.lanes import Streams
from pararealize.runtime.effects.masks import Draws
from pararealize.runtime.runners.lane_weights import LaneWeights
from pararealize.runtime.values.pytree import tensors_of


@dataclass(frozen=True)
class Launching:
    """What a step is launched with.

    Attributes:
        streams: where lanes run.
        draws: random numbers of propagators that are evaluated several times.
        weights: leaves of autograd's graph by lane; without them nothing is differentiated.

    """

    streams: Streams
    draws: Draws | None = None
    weights: LaneWeights | None = None


def walk(
    graph: fx.GraphModule, program: LaneProgram, launching: Launching, inputs: Sequence[Any]
) -> Any:
    """What the graph gives, its tasks launched as the program says.

    Values are held until all lanes have been joined.
    """
    with drawing(graph, launching.draws):
        return _Walk(graph, program, launching).run(*inputs)


def propagators_in(*graphs: fx.GraphModule) -> list[Propagator]:
    """What the tasks of graphs apply."""
    every = dict.fromkeys(module for graph in graphs for module in graph.modules())
    return [module for module in every if isinstance(module, Propagator)]


@contextmanager
def drawing(graph: fx.GraphModule, draws: Draws | None) -> Iterator[None]:
    """A block in which the propagators of a graph draw their numbers elsewhere."""
    masks = [mask for part in propagators_in(graph) for mask in part.step_masks()]
    before = [mask.captured for mask in masks]
    for mask in masks:
        mask.captured = draws
    try:
        yield
    finally:
        for mask, old in zip(masks, before, strict=True):
            mask.captured = old


@final
@dataclass
class _Events:
    """Events by the number of their launch, and lanes by the values made there."""

    marks: dict[int, Any] = field(default_factory=dict)
    lanes: dict[Key, int] = field(default_factory=dict)


@final
class _Walk(fx.Interpreter):
    """Runs one node after another: the host's order is the schedule's."""

    def __init__(self, graph: fx.GraphModule, program: LaneProgram, launching: Launching) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._launches, self._joins = program.by_value(), program.joins
        self._launching, self._events = launching, _Events()

    def run(self, *args: Any, **_options: Any) -> Any:
        """The graph's output, once the caller's lane waits for all others."""
        streams = self._launching.streams
        self._events.marks[START] = streams.mark()
        result = super().run(*args)
        for number in self._joins:
            streams.wait(self._events.marks[number])
        for tensor in tensors_of(result):
            streams.keep(tensor)
        return result

    def run_node(self, n: fx.Node) -> Any:
        """The node's value; a task's on its lane."""
        found = self._launches.get(n.meta.get("key", (0, "")))
        if found is None:
            return super().run_node(n)
        number, launch = found
        streams, events = self._launching.streams, self._events
        with streams.on(launch.lane):
            for wait in launch.waits:
                streams.wait(events.marks[wait])
            self._keep(n, launch)
            with self._weights(n, launch):
                value = super().run_node(n)
            if launch.marks or number in self._joins:
                events.marks[number] = streams.mark()
        events.lanes[launch.makes] = launch.lane
        return value

    def _keep(self, node: fx.Node, launch: Launch) -> None:
        """What other lanes made and this one reads."""
        for read in node.all_input_nodes:
            lane = self._events.lanes.get(read.meta.get("key", (0, "")), launch.lane)
            if lane != launch.lane:
                for tensor in tensors_of(self.env[read]):
                    self._launching.streams.keep(tensor)

    def _weights(self, node: fx.Node, launch: Launch) -> Any:
        """The lane's own leaves, while a propagator runs on it."""
        weights = self._launching.weights
        if weights is None or node.op != "call_module":
            return nullcontext()
        return weights.on(launch.lane, self.fetch_attr(str(node.target)))
