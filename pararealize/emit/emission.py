"""Emission: what the compiler decided and built, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from pararealize.emit.watch import AttributeWatch
from pararealize.ir.decisions import Decisions
from pararealize.ir.plan import Plan
from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.random_streams import Draw
from pararealize.runtime.communication.tied_parameters import Tie
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.effects.lock import Lock
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.rules import Rule
from pararealize.runtime.runners.graph import SweepControl


@dataclass(frozen=True)
class Share:
    """One rank's share of a network.

    Attributes:
        transport: to the other ranks.
        draws: tasks of all ranks that draw random numbers.
        names: what the ``state_dict`` of the whole network holds.
        skeleton: the whole serial network, its tensors without storage.
        ties: this rank's parameters that other ranks hold as well.
        number: of the network, among those of its ranks.

    """

    transport: Transport
    draws: tuple[Draw, ...]
    names: frozenset[str]
    skeleton: nn.Module
    ties: tuple[Tie, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Emission:
    """Everything a network is made of.

    Attributes:
        decisions: what was decided; its coarse and guess networks lie in the registries.
        serial: a copy of the caller's model; it holds the fine weights (a rank's own ones).
        registries: coarse and guess networks by reserved prefix.
        propagators: what the schedules apply, by target.
        own_streams: whether a coarse or guess network, on any rank, may draw random numbers.
        share: where the network lies on several ranks, this one's.
        rule: what decides how many stages run; without one, the first alone does.
        rollback: of the statistics that propagators move, where a stage may follow.
        lock: held while the network runs: threads call it one after another.

    """

    decisions: Decisions
    serial: nn.Module
    registries: Mapping[str, nn.ModuleDict]
    propagators: Mapping[Target, Propagator]
    own_streams: bool = False
    share: Share | None = None
    rule: Rule | None = None
    rollback: Rollback = field(default_factory=Rollback)
    lock: Lock = field(default_factory=Lock)

    @property
    def plan(self) -> Plan:
        """The decisions in numbers."""
        return self.decisions.plan

    @property
    def schedule(self) -> Schedule:
        """The schedule that every call runs, or begins with."""
        return self.decisions.schedule

    @property
    def arguments(self) -> tuple[Operation, ...]:
        """The network's inputs."""
        return self.decisions.partition.chain.train.inputs

    @property
    def transport(self) -> Transport | None:
        """To the other ranks, where there are any."""
        return None if self.share is None else self.share.transport

    @property
    def control(self) -> SweepControl | None:
        """What decides sweeps while the network runs, if anything does."""
        _, *later = self.decisions.stages
        if self.rule is None or not later:
            return None
        return SweepControl(tuple(later), self.rule, self.rollback, self.plan.n)

    @property
    def watch(self) -> AttributeWatch:
        """What notices attributes that have changed since they were traced."""
        chain = self.decisions.partition.chain
        return AttributeWatch(self.serial, chain.reads, chain.entered)

    def begin_step(self) -> None:
        """Forget the random numbers that the last step drew."""
        for part in self.propagators.values():
            for mask in part.step_masks():
                mask.begin_step()

    def end_step(self) -> None:
        """Move on, so that the next step's coarse masks are new ones."""
        if self.own_streams:
            torch.rand(())
