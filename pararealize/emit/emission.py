"""Emission: what the compiler decided and built, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pararealize.ir.chain import Expectation
from pararealize.ir.decisions import DecideAgain, Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.plan import Plan
from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.random_streams import Draw
from pararealize.runtime.communication.tied_parameters import Tie
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.rules import Rule
from pararealize.runtime.runners.adaptive import SweepControl


@dataclass(frozen=True)
class Share:
    """One rank's share of a network.

    Attributes:
        transport: to the other ranks.
        draws: tasks of all ranks that draw random numbers.
        names: what the ``state_dict`` of the whole network holds.
        skeleton: the whole serial network, its tensors without storage.
        ties: this rank's parameters that other ranks hold as well.

    """

    transport: Transport
    draws: tuple[Draw, ...]
    names: frozenset[str]
    skeleton: nn.Module
    ties: tuple[Tie, ...] = ()


@dataclass(frozen=True)
class Emission:
    """Everything a network is made of.

    Attributes:
        serial: a copy of the caller's model; it holds the fine weights (a rank's own ones).
        registries: coarse and guess networks by reserved prefix.
        propagators: what the schedule's ``apply`` tasks apply.
        arguments: the network's inputs.
        expectations: what the first layers take of each input.
        own_streams: whether a coarse or guess network, on any rank, may draw random numbers.
        share: where the network lies on several ranks, this one's.
        iteration: for multigrid, the schedules that a solver goes through; ``schedule`` is the
            first of them.
        later: for parareal, what may follow ``schedule``, one more sweep each.
        rule: what decides how much of it does; without one, nothing follows.
        ledger: of the statistics that propagators move, where something may follow.
        calibrate: what :meth:`ParallelNetwork.calibrate` does, where the compiler gave it.
        decisions: what the compiler decided, without networks, where it gave that.
        decide_again: chooses multigrid's coarse propagators for other weights.

    """

    serial: nn.Module
    registries: Mapping[str, nn.ModuleDict]
    propagators: Mapping[Target, Propagator]
    arguments: tuple[Operation, ...]
    expectations: Mapping[str, Expectation]
    plan: Plan
    schedule: Schedule
    own_streams: bool = False
    share: Share | None = None
    iteration: Iteration | None = None
    later: tuple[Schedule, ...] = ()
    rule: Rule | None = None
    ledger: Rollback = field(default_factory=Rollback)
    calibrate: Callable[..., Any] | None = None
    decisions: Decisions | None = None
    decide_again: DecideAgain | None = None

    @property
    def dial(self) -> SweepControl | None:
        """What decides sweeps while the network runs, if anything does."""
        if self.rule is None or not self.later:
            return None
        return SweepControl(self.later, self.rule, self.ledger)
