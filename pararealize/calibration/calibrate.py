"""Calibrate: fit the coarse networks of a trained network, choose among kinds, certify."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.calibration.alike import alike
from pararealize.calibration.budget import Budget
from pararealize.calibration.candidates import Built
from pararealize.calibration.certify import certify
from pararealize.calibration.contenders import contenders, hopeful
from pararealize.calibration.data import batches, divided
from pararealize.calibration.latency import Stand, network_plan
from pararealize.calibration.observe import Observed, Store, observe
from pararealize.calibration.rounds import Rounds, start
from pararealize.calibration.scores import score
from pararealize.calibration.subject import Subject, completed, evaluating, gathered
from pararealize.cost.predict import timed
from pararealize.emit.assemble import renewed, rule_of
from pararealize.emit.emission import Emission
from pararealize.errors import AgreementWarning, CalibrationError, MethodError
from pararealize.explain.advice import unreached
from pararealize.ir.calibration import Calibration, Candidate, Fitting, Sweeps
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.ir.shares import required
from pararealize.propagators.registered import moved
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.monitoring.progress import Progress
from pararealize.runtime.values.pytree import device_of

#: Sweeps after which a candidate is scored in any case.
LOOK = 2
#: Share of the data on which kinds are compared before the best of them is fitted to all.
FEW = 0.25


#: Shares of a limited time after which states are stored, guess networks fitted, kinds timed and
#: compared, and the best fitted to all data; the rest is for the certificate, and what ends late.
OBSERVED, GUESSED, COSTED, COMPARED, SETTLED = 0.08, 0.15, 0.3, 0.6, 0.8


@dataclass(frozen=True)
class Tried:
    """A candidate with its networks and its plan."""

    built: Built
    plan: Plan
    candidate: Candidate


def calibrate(
    network: nn.Module, emission: Emission, data: Any, options: Fitting, progress: Progress
) -> tuple[Emission, Calibration]:
    """The network with coarse networks fitted to its weights, and as many sweeps as it takes.

    Raises:
        CalibrationError: the data do not fit, or the agreement is not reached with fewer sweeps
            than subnetworks.
        MethodError: the network is no parareal network, or has one subnetwork.

    """
    method = emission.plan.method
    if not isinstance(method, Parareal) or emission.plan.n == 1:
        raise MethodError(
            "calibrate fits the coarse networks of parareal, with n=2 or more subnetworks; MGRIT "
            "has none: pararealize(model, n, method=Parareal(...))."
        )
    agree(emission.transport, f"calibrates with {options}")
    with ExitStack() as stack:
        stack.enter_context(evaluating(network, emission.serial))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(progress)
        observed = Observed(*(stack.enter_context(Store(options.memory // 2)) for _ in range(2)))
        subject = gathered(completed(Subject(emission, network, method)))
        emission, found = _Calibration(subject, observed, options, progress).run(data)
    if options.agreement is None and (emission.transport is None or emission.transport.rank == 0):
        warnings.warn(_unasked(found), AgreementWarning, stacklevel=3)
    return emission, found


class _Calibration:
    """One calibration under way."""

    def __init__(
        self, subject: Subject, observed: Observed, options: Fitting, progress: Progress
    ) -> None:
        self.subject, self.observed, self.options = subject, observed, options
        self.progress, self.budget = progress, Budget(options.minutes, subject.transport)
        self.guesses = copy.deepcopy(subject.emission.registries["guess"])
        self.tried: dict[str, Tried] = {}

    def run(self, data: Any) -> tuple[Emission, Calibration]:
        """Observe the data, fit every kind to a few of them, and the best of them to all."""
        emission, options = self.subject.emission, self.options
        every = batches(data, emission.plan.specs, emission.decisions.expectations, options.batch)
        every = alike(every, emission.transport)
        device = device_of(emission.serial)
        with self.progress.task("states of the serial network") as advance:
            parts, told = divided(every, options.held_out), self.budget.noted(advance)
            enough = partial(self.budget.is_over, OBSERVED)
            observe(self.subject, parts, self.observed, device, told, enough)
        self.stand = Stand.on(self.subject, self.observed.held_out[0])
        self.plan = network_plan(self.stand)
        self._rounds(self.subject, self.observed, GUESSED).guesses(self.guesses)
        with self.progress.task("costs of coarse networks") as advance:
            told, enough = self.budget.noted(advance), partial(self.budget.is_over, COSTED)
            self.contenders, late = contenders(self.stand, self.plan, options, told, enough)
        compared, hopeless = hopeful(self.contenders, options)
        self.left_out = {**late, **hopeless}
        if len(compared) > 1:
            compared = self._compare(compared)
        return self._emission(*self._settle(compared))

    @property
    def required(self) -> float | None:
        """The agreement on held-out samples that vouches for the one asked for."""
        asked, (_, held_out) = self.options.agreement, self.observed.samples
        return None if asked is None else required(asked, held_out, self.options.confidence)

    def _rounds(self, subject: Subject, observed: Observed, share: float) -> Rounds:
        return Rounds(subject, observed, self.options, self.progress, self.budget, share)

    def _compare(self, hopeful: Sequence[str]) -> tuple[str, ...]:
        """The kinds that were tried on a few of the data, the one to prefer first."""
        few = self.observed.first(FEW)
        for i, kind in enumerate(hopeful):
            reason = self._pointless(kind)
            if reason:
                self.left_out[kind] = reason
            else:
                self._try(kind, few, self.budget.part(COMPARED, len(hopeful) - i))
        return tuple(sorted(self.tried, key=self._preference))

    def _pointless(self, kind: str) -> str:
        """Why a kind need not be tried any more, where time is limited."""
        if not self.budget.is_limited or not self.tried:
            return ""
        if self.budget.is_over(COMPARED):
            return "no time was left"
        rows = [found.candidate.fastest(self.required or 0.0) for found in self.tried.values()]
        best = min((row.seconds for row in rows if row is not None), default=math.inf)
        return "even one sweep takes longer" if self.contenders[kind].soonest >= best else ""

    def _settle(self, compared: Iterable[str]) -> tuple[Tried, Sweeps]:
        """The fastest candidate, fitted to all data, that agrees as asked.

        The one to prefer is fitted first; where all data show it to be slower than what the next
        one reached on a few, that follows.

        Raises:
            CalibrationError: none does.

        """
        left, best = list(compared), None
        while left:
            name = left.pop(0)
            late = name in self.tried and self.budget.is_over(SETTLED)
            found = self.tried[name] if late else self._try(name, self.observed, SETTLED)
            if self.required is None:
                return found, self._as_asked(found)
            row = self._answer(found)
            if row is not None and (best is None or row.seconds < best[1].seconds):
                best = found, row
            following = self._answer(self.tried[left[0]]) if left else None
            if best and (following is None or following.seconds >= best[1].seconds):
                break
        return best or self._closest()

    def _as_asked(self, found: Tried) -> Sweeps:
        """The number of sweeps that the network has, or the next to it."""
        asked = max(1, self.subject.method.iterations)
        return min(found.candidate.certified, key=lambda row: abs(row.count - asked))

    def _answer(self, found: Tried) -> Sweeps | None:
        """The fastest sweeps that agree as asked, unless only faster networks than serial count."""
        row = found.candidate.fastest(self.required or 0.0)
        slow = row is not None and row.seconds >= self.plan.serial_seconds
        return None if slow and self._only_fast else row

    def _closest(self) -> tuple[Tried, Sweeps]:
        """What agrees most, if that is enough.

        Raises:
            CalibrationError: it is not.

        """
        best = max(self.tried.values(), key=lambda found: found.candidate.closest.agreement)
        if self.options.best:
            return best, best.candidate.closest
        wanted = self.options.agreement or 1.0
        needed = self.required or wanted
        raise CalibrationError(unreached(best.candidate, self.subject.n, wanted, needed))

    @property
    def _only_fast(self) -> bool:
        """Whether a slower network is no answer."""
        return self.options.faster and not self.options.best

    def _preference(self, kind: str) -> tuple[float, float]:
        """Fast ones that agree as asked first, then those that agree most."""
        found = self.tried[kind].candidate
        row = found.fastest(1.0 if self.required is None else self.required)
        return (0.0, row.seconds) if row is not None else (1.0, -found.closest.agreement)

    def _try(self, name: str, observed: Observed, share: float) -> Tried:
        """Fit and score a kind; what was fitted before goes on from there."""
        before, contender = self.tried.get(name), self.contenders[name]
        built = before.built if before else contender.built
        emission = built.subject.emission
        if before is None and emission.plan.calibration is None:
            start(built, observed)
        guessing = moved(emission.propagators, emission.registries["guess"], self.guesses)
        built = replace(built, parts={**built.parts, **guessing})
        fits = self._rounds(built.subject, observed, share).coarse(built)
        known = before.candidate.fastest(self.required or 0.0) if before else None
        least = max(LOOK, self.subject.method.iterations, known.count if known else 0)
        sweeps = self._score(built, contender.plan, least)
        candidate = Candidate(built.kind, fits, sweeps, built.subject.levels)
        self.tried[name] = Tried(built, contender.plan, candidate)
        return self.tried[name]

    def _score(self, built: Built, plan: Plan, least: int) -> tuple[Sweeps, ...]:
        """Agreement after 0, 1, 2, … sweeps, up to where it is as asked, and ``least`` of them."""
        rows: list[Sweeps] = []
        enough = self.required or 0.0
        for k in range(self.subject.n):
            reached = max((row.agreement for row in rows), default=0.0) >= enough
            if k > least and (reached or self.budget.is_over(SETTLED)):
                break
            seconds = timed(plan, built.subject.schedule(k)).parallel_seconds
            found = score(built.subject, built.parts, k, self.observed.held_out)
            rows.append(Sweeps(k, *found, seconds))
        return tuple(rows)

    def _emission(self, chosen: Tried, row: Sweeps) -> tuple[Emission, Calibration]:
        """The network as it is from now on, and what the calibration found."""
        built, subject = chosen.built, chosen.built.subject
        emission = subject.emission
        method = replace(subject.method, iterations=row.count)
        certificate = certify(subject, built.parts, row.count, self.observed, self.options)
        spent, transport = self.budget.spent, subject.transport
        seconds = [spent] if transport is None else transport.exchange(spent)
        fitted, held_out = self.observed.samples
        calibration = Calibration(
            kind=built.kind,
            iterations=row.count,
            samples=fitted,
            held_out=held_out,
            seconds=max(seconds),  # of the slowest rank: all keep the same plan
            serial_seconds=chosen.plan.serial_seconds,
            candidates=tuple(found.candidate for found in self.tried.values()),
            certificate=certificate,
            wanted=self.options.agreement,
            confidence=self.options.confidence,
            left_out=self.left_out,
            levels=subject.levels,
            measured=self.stand.is_measured,
        )
        plan = replace(
            timed(chosen.plan, subject.schedule(row.count)),
            method=method,
            chunks=1,
            calibration=calibration,
        )
        rule = rule_of(method, calibration)
        registries = {"coarse": built.registry, "guess": self.guesses}
        stages = subject.stages(row.count)
        return renewed(emission, built.parts, registries, stages, rule, plan), calibration


def _unasked(found: Calibration) -> str:
    row = found.reached
    return (
        f"no agreement was asked for, and none was looked for: with the sweeps kept ({row.count}) "
        f"{row.agreement:.2%} of the held-out answers are the serial network's. Say how "
        "many have to be, net.calibrate(data, agreement=0.99)."
    )
