"""Passes of parareal: coarse and guess networks, sweeps, and slices of the batch on ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from pararealize.coarse.builder import build_coarse
from pararealize.coarse.guesses import build_guesses
from pararealize.coarse.registry import saved_kinds
from pararealize.coarse.separable import chunk_counts, inseparable
from pararealize.cost.predict import make_plan, predict
from pararealize.cost.probe import Probe
from pararealize.decide.passes import MethodPasses
from pararealize.errors import MethodError
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.decisions import Decisions
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, targets
from pararealize.ir.target import Target
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.parareal import certified_stages, parareal_stages
from pararealize.schedule.place import owner, place, place_stages


@final
class PararealPasses(MethodPasses):
    """What parareal decides."""

    method: Parareal

    def cut(self, chain: Chain, n: int) -> Partition:
        """The chain in ``n`` subnetworks.

        Raises:
            MethodError: options that name every subnetwork are for another number of them.

        """
        self.method.check_subnetworks(n)
        return super().cut(chain, n)

    def decide(self, probe: Probe, ranks: int) -> Decisions:
        """Coarse and guess networks that the sweeps apply, of the kinds that were saved."""
        method, machine, serial = self.method, self.request.machine, self.serial
        partition, sweeps = probe.partition, self._sweeps(probe.partition)
        used = frozenset(target for stage in sweeps for target in targets(stage))
        chosen = saved_kinds(self.saved.pieces, method) if self.saved else {}
        coarse = build_coarse(probe, method, machine, used, chosen)
        guesses = build_guesses(partition, serial, method, machine, used)
        plan = make_plan(
            *(partition, sweeps[0], serial, method, machine, ranks if ranks > 1 else 0),
            {Target.coarse(j): choice for j, choice in coarse.items()},
            guesses,
        )
        return self.decided(probe, plan, sweeps=sweeps, coarse=coarse, guesses=guesses)

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
        whole = None if asked == 1 else inseparable(decisions)
        if asked is not None and whole is not None:
            raise MethodError(
                f"chunks={asked}: the coarse network of subnetwork {whole} does not treat every "
                "sample of a batch by itself (BatchNorm?), so that slices would change what it "
                "computes: leave chunks out, or choose another coarse network."
            )
        if asked is not None and self.ranks > 1:
            return (asked,)
        return chunk_counts(decisions) if whole is None and self.ranks > 1 else (1,)
