"""Passes: what a method decides of a chain, one class for each method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from torch import nn

from pararealize.cost.predict import timed
from pararealize.cost.probe import Probe
from pararealize.cut.cut import check_count, cut, cut_at
from pararealize.decide.request import Request
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.decisions import Decisions
from pararealize.ir.plan import Plan

#: Most subnetworks that ``n="auto"`` tries.
MOST = 16


class MethodPasses(ABC):
    """The passes of a method, from a chain to schedules where they run.

    Args:
        request: what was asked for.
        serial: the network, a copy of the caller's.
        ranks: ranks, or devices, that it will lie on.
        saved: a plan whose choices are made again.

    """

    def __init__(self, request: Request, serial: nn.Module, ranks: int, saved: Plan | None) -> None:
        self.request, self.serial, self.ranks, self.saved = request, serial, ranks, saved

    @abstractmethod
    def decide(self, partition: Partition, probe: Probe, ranks: int) -> Decisions:
        """Coarse propagators, schedules that are not placed yet, and the plan."""

    @abstractmethod
    def on_ranks(self, decisions: Decisions) -> Decisions:
        """The decisions with all schedules on ranks, where every rank gets the output."""

    @abstractmethod
    def on_devices(self, decisions: Decisions) -> Decisions:
        """The decisions with all schedules on the devices of one process."""

    def on_one_device(self, decisions: Decisions) -> Decisions:
        """The decisions for one device: nothing more, unless the method knows better."""
        return decisions

    def probe(self, partition: Partition) -> Probe:
        """Evaluations of a partition's parts on the inputs that were given."""
        inputs = dict(self.request.given or {})
        return Probe(partition, self.serial, inputs, self.request.method.seed)

    def cut(self, chain: Chain, n: int) -> Partition:
        """The chain in ``n`` subnetworks, where the request says or as balanced as can be."""
        request = self.request
        if request.interfaces is not None:
            return cut_at(chain, request.interfaces, n)
        check_count(chain, n)
        return cut(chain, self.serial, n, request.method, request.machine)

    def count(self, chain: Chain) -> int:
        """The number of subnetworks: as asked, or that with the least predicted time."""
        if self.request.count is not None:
            return self.request.count
        most = min(MOST, len(chain.interfaces) + 1)
        return min(range(1, most + 1), key=lambda n: self._seconds(chain, n))

    def _seconds(self, chain: Chain, n: int) -> float:
        partition = self.cut(chain, n)
        blind = Probe(partition, self.serial, {}, self.request.method.seed)
        return self.decide(partition, blind, 0).plan.parallel_seconds

    def decide_again(self, partition: Partition) -> Decisions:
        """The decisions, with what a saved plan knows of them."""
        decisions = self.decide(partition, self.probe(partition), self.ranks)
        saved, plan = self.saved, decisions.plan
        if saved is None or (saved.ranks != plan.ranks and saved.calibration is None):
            return decisions
        if saved.ranks == plan.ranks:
            return replace(decisions, plan=saved)
        # Calibrated seconds are measured ones, on any number of ranks.
        here = replace(saved, ranks=plan.ranks, chunks=1)
        return replace(decisions, plan=timed(here, decisions.schedule))
