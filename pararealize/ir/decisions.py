"""What the compiler chose to propagate coarsely, and to guess with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pararealize.ir.chain import Cost, Expectation, Partition
from pararealize.ir.hierarchy import Cycles, Iteration
from pararealize.ir.plan import Plan
from pararealize.ir.program import Segment
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target


@dataclass(frozen=True)
class Coarse:
    """The coarse propagator of one subnetwork.

    ``kind`` is what was chosen; at most one of ``module`` (a network with or without weights of
    its own) and ``segment`` (operations run with the fine weights) is set, neither for ``"fine"``.
    ``inputs`` names the network's inputs that it reads besides the state, ``error`` is measured
    where the choice was made by measurement, ``zero_preserving`` says that F(0) = 0.
    ``averages`` names, for modules of the segment with mean weights, those of which it is the mean.
    ``name`` and ``options`` say as data what ``kind`` says in words: the kind and its parameters.
    ``weights`` are those that were fitted to the network, by an interval's first layer.
    """

    kind: str
    cost: Cost
    module: nn.Module | None = None
    segment: Segment | None = None
    inputs: tuple[str, ...] = ()
    error: float | None = None
    zero_preserving: bool = False
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[int, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Guess:
    """The network C_j that guesses an interface's state from the network's inputs.

    Either ``module`` is set or ``segment``, operations run with the fine weights.
    """

    kind: str
    cost: Cost
    module: nn.Module | None
    inputs: tuple[str, ...]
    segment: Segment | None = None


@dataclass(frozen=True)
class Decisions:
    """Everything that was decided for a network, ready to be assembled.

    Attributes:
        plan: the decisions in numbers, with the method and the machine that they are for.
        sweeps: for parareal, the schedule of every call, and what may follow it, one sweep each.
        iteration: for multigrid, the cycles for states and adjoints.
        coarse: coarse propagators by subnetwork.
        guesses: guess networks by interface.
        levels: coarse propagators of a multigrid hierarchy, or of groups of subnetworks.
        features: what multigrid's slices compute of the inputs alone, by slice.
        expectations: what the first layers take of each input.
        given: inputs other than tensors, that the network was compiled with.

    """

    partition: Partition
    plan: Plan
    sweeps: tuple[Schedule, ...] = ()
    iteration: Iteration | None = None
    coarse: Mapping[int, Coarse] = field(default_factory=dict)
    guesses: Mapping[int, Guess] = field(default_factory=dict)
    levels: Mapping[Target, Coarse] = field(default_factory=dict)
    features: Mapping[int, Segment] = field(default_factory=dict)
    expectations: Mapping[str, Expectation] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[Schedule, ...]:
        """The schedule of every call, and what may follow it."""
        return self.sweeps or tuple(cycles.schedule for cycles in self._cycles[:1])

    @property
    def schedule(self) -> Schedule:
        """The schedule that every call runs, or begins with."""
        return self.stages[0]

    @property
    def every(self) -> tuple[Schedule, ...]:
        """All schedules that a call and its backward pass may run."""
        return (*self.sweeps, *(cycles.schedule for cycles in self._cycles))

    @property
    def _cycles(self) -> tuple[Cycles, ...]:
        found = self.iteration
        return () if found is None else (*found.forward, *found.adjoint)
