"""Passes of MGRIT: levels of coarse propagators, cycles, and depth as a batch on one device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import final

from torch import Tensor

from pararealize.coarse.intervals import IntervalKind
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.levels import LevelBuilder, find_levels
from pararealize.coarse.registry import saved_kinds
from pararealize.coarse.setting import Setting
from pararealize.cost.depth_batching import find_stacks
from pararealize.cost.predict import make_plan
from pararealize.cost.probe import Probe
from pararealize.decide.passes import MethodPasses
from pararealize.decide.solve_error import Levels, measured_levels
from pararealize.emit.runner import faster_of_both
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import targets
from pararealize.schedule.mgrit import forward_cycles, iteration
from pararealize.schedule.place import place_iteration


@final
class MGRITPasses(MethodPasses):
    """What multigrid reduction in time decides."""

    method: MGRIT
    _kind: CoarseKind | None = None  # of all partitions that are priced
    _probe: Probe | None = None  # of the partition that was decided on

    def decide(self, probe: Probe, ranks: int) -> Decisions:
        """Levels, cycles for states and adjoints, and the coarse propagators that they apply."""
        builder, self._probe = self._builder(probe), probe
        given = self.request.given or {}

        def decisions(found: Levels) -> Decisions:
            cycles, levels, plan = found
            return self.decided(
                *(probe, plan),
                iteration=cycles,
                levels=levels,
                features={j: found.segment for j, found in builder.features.items()},
                given={k: v for k, v in given.items() if not isinstance(v, Tensor)},
            )

        decide = partial(decide_levels, builder, ranks, cycles_of(builder))
        return decisions(measured_levels(builder, decide, decisions))

    def price(self, partition: Partition) -> Plan:
        """The plan, from coarse propagators of one step of every kind.

        Which kind is as exact as wanted is estimated for the first partition alone: the intervals
        of others are as long.
        """
        method, probe = self.method, self.probe(partition)
        builder = self._builder(probe, self.setting(partition.chain))
        levels = find_levels(partition, method)
        if self._kind is None and partition.n > 1:
            self._kind = builder.kind(levels)[0]
        cycles = forward_cycles(
            levels, method, head=partition.has_head, with_features=builder.features
        )
        coarse = builder.build(levels, targets(cycles.schedule), self._kind)
        return make_plan(
            *(partition, cycles.schedule, self.serial, method, builder.machine, 0, coarse),
            features=builder.features,
        )

    def _builder(self, probe: Probe, prices: Setting | None = None) -> LevelBuilder:
        saved, machine = self.saved, self.request.machine
        chosen = saved_kinds(saved.pieces, self.method) if saved else {}
        fitted = saved.fitted if saved else {}
        return LevelBuilder(probe, self.method, machine, chosen, fitted, prices)

    def placed(self, decisions: Decisions, *, deliver: bool) -> Decisions:
        """The decisions with every cycle's tasks, for states and for adjoints, on ranks."""
        assert decisions.iteration is not None
        n = decisions.plan.n
        placed = place_iteration(decisions.iteration, n, self.ranks, deliver=deliver)
        return replace(decisions, iteration=placed)

    def on_one_device(self, decisions: Decisions) -> Decisions:
        """Slices of one structure advance as one batch, where that is faster."""
        probe, saved = self._probe, self.saved
        assert probe is not None  # as there are decisions
        known = None if saved is None else saved.stacks
        stacks = find_stacks(probe, self.method, decisions.features, known)
        speedup = 0.0 if saved is None else saved.measured_speedup
        plan = replace(decisions.plan, stacks=stacks, measured_speedup=speedup)
        decisions = replace(decisions, plan=plan)
        if self.method.batched != "fastest":
            return decisions
        return faster_of_both(decisions, self.serial, probe.arguments)


def cycles_of(builder: LevelBuilder) -> Iteration:
    """Cycles that are not placed on ranks; they are the same for all kinds of coarse propagators.

    Raises:
        CoarseError: none of the kind that the method asks for exists.

    """
    partition, method = builder.probe.partition, builder.method
    levels, head = find_levels(partition, method), partition.has_head
    return iteration(levels, method, head=head, with_features=builder.features)


def decide_levels(
    builder: LevelBuilder, ranks: int, cycles: Iteration, kind: IntervalKind | None = None
) -> Levels:
    """The cycles, the coarse propagators that they apply, and the plan.

    They are of a ``kind``, or of that which the method asks for.

    Raises:
        CoarseError: none of the asked kind exists.

    """
    probe, method = builder.probe, builder.method
    every = (*cycles.forward, *cycles.adjoint)
    used = {target for each in every for target in targets(each.schedule)}
    levels = builder.build(cycles.levels, used, kind)
    plan = make_plan(
        *(probe.partition, cycles.forward[0].schedule, probe.model, method, builder.machine),
        *(ranks if ranks > 1 else 0, levels),
        features=builder.features,
    )
    return cycles, levels, plan
