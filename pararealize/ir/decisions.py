"""What the compiler chose to propagate coarsely, and to guess with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pararealize.ir.chain import Cost, Expectation, Partition
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import Method
from pararealize.ir.plan import Plan
from pararealize.ir.program import Segment
from pararealize.ir.schedule import Schedule


@dataclass(frozen=True)
class Coarse:
    """The coarse propagator of one subnetwork.

    ``kind`` is what was chosen; at most one of ``module`` (a network with or without weights of
    its own) and ``segment`` (operations run with the fine weights) is set, neither for ``"fine"``.
    ``inputs`` names the network's inputs that it reads besides the state, ``error`` is measured
    where the choice was made by measurement, ``zero_preserving`` says that F(0) = 0.
    ``averages`` names, for modules of the segment with mean weights, those of which it is the mean.
    ``name`` and ``options`` say as data what ``kind`` says in words: the kind and its parameters.
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


#: Of a whole network and the arguments of a call: a plan and coarse propagators, from old ones.
DecideAgain = Callable[
    [nn.Module, Sequence[Any], Mapping[str, Any], Plan], tuple[Plan, dict[str, Coarse]]
]


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

    ``coarse`` is by subnetwork, ``guesses`` by interface, ``expectations`` by input; ``levels``
    are the coarse propagators of a multigrid hierarchy by name, ``features`` what its slices
    compute of the inputs alone, ``iteration`` its schedules, ``decide_again`` what chooses its
    coarse propagators for other weights; ``later`` are what may follow ``schedule`` where a
    tolerance decides, one more sweep each.
    """

    partition: Partition
    method: Method
    schedule: Schedule
    plan: Plan
    coarse: Mapping[int, Coarse]
    guesses: Mapping[int, Guess]
    expectations: Mapping[str, Expectation]
    levels: Mapping[str, Coarse] = field(default_factory=dict)
    features: Mapping[int, Segment] = field(default_factory=dict)
    iteration: Iteration | None = None
    later: tuple[Schedule, ...] = ()
    decide_again: DecideAgain | None = None
