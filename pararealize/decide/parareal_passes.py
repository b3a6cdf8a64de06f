"""Passes of parareal: coarse and guess networks, sweeps, and slices of the batch on ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize.coarse.builder import build_coarse, build_groups, group_name
from pararealize.coarse.guesses import build_guesses
from pararealize.coarse.registry import saved_kinds
from pararealize.cost.predict import make_plan, predict
from pararealize.cost.probe import Probe
from pararealize.cost.profile import random_like
from pararealize.decide.passes import MethodPasses
from pararealize.decide.request import Request
from pararealize.errors import MethodError
from pararealize.ir.chain import Chain, Partition, State
from pararealize.ir.coarsening import shortest
from pararealize.ir.decisions import Decisions
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule, targets
from pararealize.ir.target import Target
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.parareal import certified_stages, parareal_stages
from pararealize.schedule.place import owner, place, place_stages

#: Share of the time with two levels that three may take to be chosen.
GAIN = 0.9

#: Numbers of slices of a batch that are considered.
COUNTS = (1, 2, 4, 8)


@final
class PararealPasses(MethodPasses):
    """What parareal decides."""

    method: Parareal

    def __init__(self, request: Request, serial: nn.Module, ranks: int, saved: Plan | None) -> None:
        super().__init__(request, serial, ranks, saved)
        if saved is None and self.method.levels == "auto":  # until groups are chosen
            self.method = replace(self.method, coarsening=None)

    def settle(self, chain: Chain, counts: Sequence[int]) -> int:
        """The fastest of some numbers of subnetworks, with two levels of corrections or three.

        Three are looked at where subnetworks share a device, and taken where they are predicted to
        be a tenth faster; fewer subnetworks than are best with two gain nothing by them.
        """
        asked = self.request.method
        assert isinstance(asked, Parareal)
        shared, auto = self.request.machine.sharing is not None, asked.levels == "auto"
        if self.saved is not None or not (shared and auto):
            return super().settle(chain, counts)
        self.method, three = replace(asked, coarsening=None), replace(asked, levels=3)
        grouped = [count for count in counts if three.points(count)[1:]]
        if not grouped:
            return super().settle(chain, counts)
        two, (n, seconds) = self.method, self.fastest(chain, counts)
        self.method = three
        count, less = self.fastest(chain, [count for count in grouped if count >= n] or grouped)
        if less > GAIN * seconds:
            self.method = two
            return n
        groups = asked.coarsening or shortest(count, 3)[1]
        self.method = replace(asked, coarsening=groups)
        return count

    def cut(self, chain: Chain, n: int) -> Partition:
        """The chain in ``n`` subnetworks.

        Raises:
            MethodError: options that name every subnetwork are for another number of them.

        """
        given = self.method.subnetworks
        if given not in {None, n}:
            raise MethodError(
                f"Parareal(coarse_depth={self.method.coarse_depth!r}) is for {given} "
                f"subnetworks, and there are {n}: give as many numbers, or one for all."
            )
        return super().cut(chain, n)

    def decide(self, probe: Probe, ranks: int) -> Decisions:
        """Coarse and guess networks that the sweeps apply, of the kinds that were saved."""
        sweeps = self._sweeps(probe.partition)
        plan, parts = self._planned(probe, ranks, sweeps)
        return self.decided(probe, plan, sweeps=sweeps, **parts)

    def price(self, partition: Partition) -> Plan:
        """The plan, from coarse and guess networks of one subnetwork of every kind."""
        sweeps = self._sweeps(partition)[:1]
        return self._planned(self.probe(partition), 0, sweeps, priced=True)[0]

    def _planned(
        self, probe: Probe, ranks: int, sweeps: Sequence[Schedule], *, priced: bool = False
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan of the sweeps, and the networks that they apply."""
        method, machine, serial = self.method, self.request.machine, self.serial
        partition, setting = probe.partition, self.setting(probe.partition.chain)
        used = frozenset(target for stage in sweeps for target in targets(stage))
        pieces, groups = (self.saved.pieces, self.saved.groups) if self.saved else ((), ())
        chosen = saved_kinds(pieces, method)
        coarse = build_coarse(probe, setting, method, used, chosen, priced=priced)
        above = {
            level: saved_kinds([group for group in groups if group.level == level], method)
            for level in {group.level for group in groups}
        }
        levels = build_groups(probe, setting, method, used, above, priced=priced)
        known = {piece.index - 1: piece.guess for piece in pieces if piece.guess != "none"}
        guesses = build_guesses(partition, setting, method, used, known, priced=priced)
        plan = make_plan(
            *(partition, sweeps[0], serial, method, machine, ranks if ranks > 1 else 0),
            {**{Target.coarse(j): choice for j, choice in coarse.items()}, **levels},
            guesses,
        )
        return plan, {"coarse": coarse, "levels": levels, "guesses": guesses}

    def _sweeps(self, partition: Partition) -> tuple[Schedule, ...]:
        """The schedule and what may follow it: whatever the tolerance, with a certificate."""
        certified = self.saved is not None and self.saved.calibration is not None
        stages = certified_stages if certified else parareal_stages
        return stages(partition.n, self.method, head=partition.has_head)

    def on_ranks(self, decisions: Decisions) -> Decisions:
        """Corrections flow in as many slices of the batch as pay."""
        if decisions.sweeps[1:]:
            return self.placed(decisions, deliver=True)
        options = [self._sliced(decisions, parts) for parts in self._counts(decisions)]
        return min(options, key=lambda option: option.plan.parallel_seconds)

    def placed(self, decisions: Decisions, *, deliver: bool) -> Decisions:
        """The decisions with the tasks of every stage on ranks."""
        n, (first, *later) = decisions.plan.n, decisions.sweeps
        placed = place(first, n, self.ranks, deliver=deliver)
        stages = place_stages((placed, *later), n, self.ranks, deliver=deliver)
        return replace(decisions, sweeps=stages)

    def _sliced(self, decisions: Decisions, parts: int) -> Decisions:
        """On ranks, with corrections in so many slices of the batch."""
        plan, ranks = decisions.plan, self.ranks
        cut_up = chunk(decisions.schedule, parts, lambda piece: owner(piece, plan.n, ranks))
        schedule = place(cut_up, plan.n, ranks, deliver=True)
        seconds = predict(plan, schedule).makespan
        plan = replace(plan, parallel_seconds=seconds, chunks=parts)
        return replace(decisions, sweeps=(schedule,), plan=plan)

    def _counts(self, decisions: Decisions) -> tuple[int, ...]:
        """Numbers of slices to try.

        Raises:
            MethodError: several were asked for, and would change what the network computes.

        """
        asked = self.request.chunks
        batch = _batch(decisions.partition)
        whole = None if asked == 1 else _inseparable(decisions, batch)
        if asked is not None and whole is not None:
            raise MethodError(
                f"chunks={asked}: the coarse network of {whole} does not treat every "
                "sample of a batch by itself (BatchNorm?), so that slices would change what it "
                "computes: leave chunks out, or choose another coarse network."
            )
        if asked is not None and self.ranks > 1:
            return (asked,)
        most = batch if whole is None and self.ranks > 1 else 1
        return tuple(count for count in COUNTS if count <= max(most, 1))


def _batch(partition: Partition) -> int:
    """Samples in every state between subnetworks, 0 where one has no batch."""
    states = (partition.interface(j).state for j in range(1, partition.n))
    shapes = [spec.shape for state in states for spec in state]
    return min((shape[0] if shape else 0 for shape in shapes), default=0)


def _inseparable(decisions: Decisions, batch: int) -> str | None:
    """The first whose coarse network does not treat every sample by itself, in words, if any."""
    partition, method = decisions.partition, decisions.plan.method
    points = method.points(partition.n) if isinstance(method, Parareal) else ()
    found = {(f"subnetwork {j}", j - 1): coarse for j, coarse in decisions.coarse.items()}
    for target, coarse in decisions.levels.items():
        ends = points[target.level - 2]
        found[group_name(ends, target.number), ends[target.number - 1]] = coarse
    for (name, start), coarse in found.items():
        state = partition.chain.state(partition.bounds[start])
        module = None if coarse.inputs else coarse.module  # inputs may have another batch
        if start > 0 and (module is None or not is_separable(module, state, batch)):
            return name
    return None


def is_separable(module: nn.Module, state: State, batch: int) -> bool:
    """Whether a network treats every sample of a batch by itself, in train mode as well.

    Seen on a copy with random states: whole, and in two slices.
    """
    if batch < 2 or any(not spec.shape or spec.shape[0] != batch for spec in state):
        return False
    probe = copy.deepcopy(module).train()
    first = next(probe.parameters(), None)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        leaves = [random_like(spec, probe) for spec in state]
        if first is not None:
            leaves = [leaf.to(first) if leaf.is_floating_point() else leaf for leaf in leaves]
        try:
            whole, *halves = (
                tree_leaves(probe(*(leaf[part] for leaf in leaves)))
                for part in (slice(None), slice(0, 1), slice(1, None))
            )
        except (ValueError, RuntimeError):
            return False  # BatchNorm, for one, refuses a single sample
    return all(_is_joined(*parts) for parts in zip(whole, *halves, strict=True))


def _is_joined(whole: Any, *halves: Any) -> bool:
    if not isinstance(whole, Tensor) or not whole.ndim:
        return False  # a constant has no batch to cut
    joined = torch.cat(halves)
    close = torch.allclose(joined, whole, rtol=1e-3, atol=1e-5)
    return joined.shape == whole.shape and close
