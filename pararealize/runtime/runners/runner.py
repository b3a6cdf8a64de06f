"""Runner: what runs a network, and what can be asked of every kind of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import fx

from pararealize.errors import RankError
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.monitoring.jumps import Jumps
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.multigrid.solver import MultigridSolver


class Runner(ABC):
    """Runs a network: in one process as a graph, by sweeps or by cycles, or on a rank.

    Where one process runs all tasks, those of every call are a ``graph``; a ``solver`` is what goes
    through MGRIT's cycles.
    """

    def __init__(self, graph: fx.GraphModule | None, solver: MultigridSolver | None = None) -> None:
        self._graph, self.solver = graph, solver

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

    def record(self) -> AbstractContextManager[Recorder]:
        """Record, in the block, when a rank does what.

        Raises:
            RankError: the network does not lie on ranks.

        """
        raise RankError(
            "only networks on ranks record timelines; torch.profiler shows what one process "
            "does: pararealize(model, n, comm=MPI.COMM_WORLD)."
        )

    def decided(self, lanes: Lanes) -> AbstractContextManager[Any]:
        """A block in which nothing is decided by what is seen, and subnetworks may use ``lanes``.

        The lanes are those of a device that runs several kernels side by side.
        """
        return nullcontext() if self.solver is None else self.solver.fixed(lanes)
