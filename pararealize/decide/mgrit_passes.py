"""Passes of MGRIT: levels of coarse propagators, cycles, and depth as a batch on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from torch import Tensor

from pararealize.coarse.levels import LevelBuilder, find_levels
from pararealize.coarse.registry import saved_kinds
from pararealize.cost.depth_batching import find_stacks
from pararealize.cost.inputs import expectations
from pararealize.cost.predict import make_plan
from pararealize.cost.probe import Probe
from pararealize.decide.passes import MethodPasses
from pararealize.emit.runner import faster_of_both
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import targets
from pararealize.ir.target import Target
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.place import place_iteration


@final
class MGRITPasses(MethodPasses):
    """What multigrid reduction in time decides."""

    @property
    def method(self) -> MGRIT:
        """Its options."""
        method = self.request.method
        assert isinstance(method, MGRIT)
        return method

    def decide(self, partition: Partition, probe: Probe, ranks: int) -> Decisions:
        """Levels, cycles for states and adjoints, and the coarse propagators that they apply."""
        request = self.request
        chosen = saved_kinds(self.saved.pieces, self.method) if self.saved else {}
        builder = LevelBuilder(partition, self.serial, self.method, request.machine, probe, chosen)
        cycles = cycles_of(builder)
        levels, plan = decide_levels(builder, cycles, ranks if ranks > 1 else 0)
        tracing = replace(request.tracing, found=partition.chain.whole)
        given = request.given or {}
        return Decisions(
            partition=partition,
            plan=replace(plan, tracing=tracing),
            iteration=cycles,
            levels=levels,
            features={j: found.segment for j, found in builder.features.items()},
            expectations=expectations(partition.chain.train, self.serial),
            given={k: v for k, v in given.items() if not isinstance(v, Tensor)},
        )

    def on_ranks(self, decisions: Decisions) -> Decisions:
        """Every cycle's tasks on ranks; adjoints are solved for there as well."""
        return self._placed(decisions, deliver=True)

    def on_devices(self, decisions: Decisions) -> Decisions:
        """Every cycle's tasks on the devices, the output where it is made."""
        return self._placed(decisions, deliver=False)

    def _placed(self, decisions: Decisions, *, deliver: bool) -> Decisions:
        assert decisions.iteration is not None
        n = decisions.plan.n
        placed = place_iteration(decisions.iteration, n, self.ranks, deliver=deliver)
        return replace(decisions, iteration=placed)

    def on_one_device(self, decisions: Decisions) -> Decisions:
        """Slices of one structure advance as one batch, where that is faster."""
        probe = self.probe(decisions.partition)
        stacks = find_stacks(probe, self.method, decisions.features)
        decisions = replace(decisions, plan=replace(decisions.plan, stacks=stacks))
        if self.method.batched != "fastest":
            return decisions
        return faster_of_both(decisions, self.serial, probe.arguments)


def cycles_of(builder: LevelBuilder) -> Iteration:
    """The cycles of a partition's hierarchy, not placed on ranks."""
    partition, method = builder.partition, builder.method
    levels = find_levels(partition, method)
    return iteration(levels, method, head=partition.has_head, seeing=builder.features)


def decide_levels(
    builder: LevelBuilder, cycles: Iteration, ranks: int
) -> tuple[Mapping[Target, Coarse], Plan]:
    """The coarse propagators that cycles apply, and the plan with them.

    Raises:
        CoarseError: none of the asked kind exists.

    """
    every = (*cycles.forward, *cycles.adjoint)
    used = {target for each in every for target in targets(each.schedule)}
    levels = builder.build(cycles.levels, used)
    plan = make_plan(
        *(builder.partition, cycles.forward[0].schedule, builder.model, builder.method),
        *(builder.machine, {}, {}, ranks),
        levels=levels,
        features=builder.features,
    )
    return levels, plan
