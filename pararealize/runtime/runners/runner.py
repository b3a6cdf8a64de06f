"""Runner: what runs a network, and what can be asked of every kind of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import fx

from pararealize.errors import MethodError, RankError
from pararealize.ir.lanes import LaneProgram
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.jumps import Jumps
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.lane_walk import Launching


class Runner(ABC):
    """Runs a network: in one process as a graph, by sweeps or by cycles, or on a rank.

    Where one process runs all tasks, those of every call are a ``graph``; a ``solver`` is what goes
    through MGRIT's cycles.
    """

    def __init__(self, graph: fx.GraphModule | None, solver: MultigridSolver | None = None) -> None:
        self._graph, self.solver = graph, solver
        self.seen: Any = None  # what the report of the last call is read from

    @abstractmethod
    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The network's answer to a call; ``jumps`` keeps its jumps with autograd's graph."""

    @property
    @abstractmethod
    def report(self) -> Report:
        """Jumps, or residuals, of the last call, as far as this process knows them."""

    @property
    def graph(self) -> fx.GraphModule:
        """The tasks that every call runs as one graph, which decides nothing by what it sees.

        Raises:
            RankError: the network lies on several ranks.

        """
        if self._graph is None:
            raise RankError(
                "a network on ranks is no single graph: print(net.code) shows this rank's tasks, "
                "print(net.schedule) those of all."
            )
        return self._graph

    @property
    def code(self) -> str:
        """The tasks as Python code, or as text where they are no graph."""
        return str(self.graph.code)

    @property
    @abstractmethod
    def propagators(self) -> Iterable[Propagator]:
        """What its tasks apply, in this process."""

    @property
    @abstractmethod
    def is_apart(self) -> bool:
        """Whether it runs on several devices or ranks, where no one graph can hold a call."""

    def record(self) -> AbstractContextManager[Recorder]:
        """Record, in the block, when a rank does what.

        Raises:
            RankError: the network does not lie on ranks.

        """
        raise RankError(
            "only networks on ranks record timelines; torch.profiler shows what one process "
            "does: pararealize(model, n, comm=MPI.COMM_WORLD)."
        )

    @property
    def lanes(self) -> tuple[LaneProgram, ...]:
        """What a captured call launches where, stage by stage; of multigrid, states and adjoints.

        That is where multigrid advances no slices at once, and no two of them share anything.

        Raises:
            MethodError: subnetworks lie on several devices, or on ranks.

        """
        raise self._no_lanes()

    def decided(self, _launching: Launching) -> AbstractContextManager[Any]:
        """A block in which nothing is decided by what is seen, and tasks are launched on lanes.

        Raises:
            MethodError: the network cannot be launched on lanes.

        """
        raise self._no_lanes()

    @staticmethod
    def _no_lanes() -> MethodError:
        return MethodError(
            "lanes are streams of one device, and this network lies on several ranks: compile it "
            "without comm= to capture it."
        )
