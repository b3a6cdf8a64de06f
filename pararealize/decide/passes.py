"""Passes: what a method decides of a chain, one class for each method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pararealize.coarse.setting import Setting
from pararealize.cost.inputs import expectations
from pararealize.cost.predict import timed
from pararealize.cost.probe import Probe
from pararealize.cut.cut import Weights, cut, cut_at
from pararealize.decide.request import Request
from pararealize.decide.saved import cut_as
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.decisions import Decisions
from pararealize.ir.plan import Plan

#: Numbers of subnetworks that ``n="auto"`` tries, and further ones where they share a device.
COUNTS = range(1, 17)
MORE = (20, 24, 28, 32)


class MethodPasses(ABC):
    """The passes of a method, from a chain to schedules where they run.

    ``serial`` is a copy of the caller's network, which will lie on so many ``ranks``, or devices;
    ``saved`` is a plan whose choices are made again.
    """

    def __init__(self, request: Request, serial: nn.Module, ranks: int, saved: Plan | None) -> None:
        self.request, self.serial, self.ranks, self.saved = request, serial, ranks, saved
        self.method: Any = request.method
        self._weights: Weights | None = None  # of the one chain, for all numbers of subnetworks
        self._setting: Setting | None = None

    @abstractmethod
    def decide(self, probe: Probe, ranks: int) -> Decisions:
        """Coarse propagators of a probe's partition, schedules that are not placed, and the plan.

        ``ranks`` is 0, or 1, for one device a subnetwork.
        """

    @abstractmethod
    def price(self, partition: Partition) -> Plan:
        """The plan of a partition, one device a subnetwork, where no more than that is asked for.

        Like subnetworks have one coarse network, which nothing will run.
        """

    @abstractmethod
    def placed(self, decisions: Decisions, *, deliver: bool) -> Decisions:
        """The decisions with all schedules on ranks, which ``deliver`` the output to each.

        Otherwise they are devices of one process, and the output stays where it is made.
        """

    def on_ranks(self, decisions: Decisions) -> Decisions:
        """The decisions with all schedules on ranks, where every rank gets the output."""
        return self.placed(decisions, deliver=True)

    def on_one_device(self, decisions: Decisions) -> Decisions:
        """The decisions for one device: nothing more, unless the method knows better."""
        return decisions

    def probe(self, partition: Partition, given: Mapping[str, Any] | None = None) -> Probe:
        """Evaluations of a partition's parts on inputs that were ``given``, or on random ones."""
        return Probe(partition, self.serial, dict(given or {}), self.method.seed)

    def decided(self, probe: Probe, plan: Plan, **parts: Any) -> Decisions:
        """The decisions of a plan and other parts, with what the network and its tracing say."""
        chain = probe.partition.chain
        tracing, unverified = self.request.tracing, chain.unverified
        if chain.blocks:
            blocks = ", ".join(chain.blocks)
            tracing = replace(tracing, blocks=blocks, untraced=chain.untraced)
        plan = replace(plan, tracing=replace(tracing, found=chain.whole, unverified=unverified))
        expected = expectations(chain.train, self.serial)
        return Decisions(probe.partition, plan, expectations=expected, **parts)

    def setting(self, chain: Chain) -> Setting:
        """What coarse networks are made from: that by which the one chain was cut, if it was."""
        if self._setting is None or self._setting.chain is not chain:
            weighed = None if self._weights is None else self._weights.setting
            self._setting = weighed if weighed is not None and weighed.chain is chain else None
        if self._setting is None:
            machine, method = self.request.machine, self.request.method
            self._setting = Setting.of(chain, self.serial, machine, method)
        return self._setting

    def cut(self, chain: Chain, n: int) -> Partition:
        """The chain in ``n`` subnetworks, where the request says or as balanced as can be."""
        request = self.request
        if self.saved is not None:
            return cut_as(chain, self.saved)
        if request.interfaces is not None:
            return cut_at(chain, request.interfaces, n)
        if self._weights is None:
            self._weights = Weights(chain, self.serial, request.method, request.machine)
        return cut(self._weights, n)

    def count(self, chain: Chain) -> int:
        """The number of subnetworks: as asked, or that with the least predicted time."""
        return self.settle(chain, self.counts(chain))

    def counts(self, chain: Chain) -> list[int]:
        """Numbers of subnetworks to choose among: the one that is asked for, or what is tried."""
        if self.request.count is not None:
            return [self.request.count]
        further = MORE if self.request.machine.sharing is not None else ()
        return [n for n in (*COUNTS, *further) if n <= len(chain.interfaces) + 1]

    def fastest(self, chain: Chain, counts: Sequence[int]) -> tuple[int, float]:
        """The number of subnetworks with the least predicted time, and that time in seconds."""
        with self.request.progress.task("choosing n", len(counts)) as advance:

            def seconds(n: int) -> float:
                plan = self.price(self.cut(chain, n))
                advance(f"n={n}: predicted {plan.speedup:.2f}×")
                return plan.parallel_seconds

            times = {n: seconds(n) for n in counts}
        return min(times.items(), key=lambda pair: pair[1])

    def settle(self, chain: Chain, counts: Sequence[int]) -> int:
        """The fastest of some numbers of subnetworks, with options that are chosen with it."""
        return counts[0] if len(counts) == 1 else self.fastest(chain, counts)[0]

    def put(self, decisions: Decisions, *, over_ranks: bool) -> Decisions:
        """The schedules on ranks, on devices of this process, or on one device."""
        if over_ranks:
            return self.on_ranks(decisions)
        if self.ranks > 1:
            return self.placed(decisions, deliver=False)
        return self.on_one_device(decisions)

    def decide_again(self, partition: Partition) -> Decisions:
        """The decisions, with what a saved plan knows of them."""
        decisions = self.decide(self.probe(partition, self.request.given), self.ranks)
        saved, plan = self.saved, decisions.plan
        if saved is None or (saved.ranks != plan.ranks and saved.calibration is None):
            return decisions
        saved = replace(saved, tracing=plan.tracing)
        if saved.ranks == plan.ranks:
            return replace(decisions, plan=saved)
        # Calibrated seconds are measured ones, on any number of ranks.
        here = replace(saved, ranks=plan.ranks, chunks=1)
        return replace(decisions, plan=timed(here, decisions.schedule))
