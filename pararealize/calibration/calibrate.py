"""Calibrate: fit the coarse networks of a trained network, choose among kinds, certify."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pararealize.calibration.alike import alike
from pararealize.calibration.candidates import Built, build, kinds
from pararealize.calibration.certify import certify
from pararealize.calibration.data import batches, divided
from pararealize.calibration.latency import Stand, coarse_plan, measured_plan
from pararealize.calibration.observe import Observed, Store, observe
from pararealize.calibration.rounds import Rounds, start
from pararealize.calibration.subject import Subject, completed, evaluating
from pararealize.cost.predict import timed
from pararealize.emit.assemble import renewed, rule_of
from pararealize.emit.emission import Emission
from pararealize.errors import AgreementWarning, CalibrationError, MethodError
from pararealize.ir.calibration import Calibration, Candidate, Fitting, Sweeps
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import moved
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.monitoring.answers import agreements, errors
from pararealize.runtime.monitoring.progress import Progress
from pararealize.runtime.monitoring.rules import answer

#: Sweeps after which a candidate is scored in any case.
LOOK = 2
#: Share of the data on which kinds are compared before the best of them is fitted to all.
FEW = 0.25


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
        subject = completed(Subject(emission, network, method))
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
        self.progress, self.begun = progress, time.perf_counter()
        self.guesses = copy.deepcopy(subject.emission.registries["guess"])
        self.tried: dict[str, Tried] = {}

    def run(self, data: Any) -> tuple[Emission, Calibration]:
        """Observe the data, fit every kind to a few of them, and the best of them to all."""
        emission, options = self.subject.emission, self.options
        every = batches(data, emission.plan.specs, emission.decisions.expectations, options.batch)
        every = alike(every, emission.transport)
        device = next((p.device for p in emission.serial.parameters()), torch.device("cpu"))
        with self.progress.task("states of the serial network") as advance:
            parts = divided(every, options.held_out)
            observe(self.subject, parts, self.observed, device, advance)
        self.stand = Stand.on(self.subject, self.observed.held_out[0])
        self.plan = measured_plan(self.stand)
        self._rounds(self.observed).guesses(self.guesses)
        compared = tuple(kinds(self.subject))
        if len(compared) > 1:
            few = self.observed.first(FEW)
            for kind in compared:
                self._try(kind, few)
            compared = tuple(sorted(self.tried, key=self._preference))
        return self._emission(*self._settle(compared))

    def _rounds(self, observed: Observed) -> Rounds:
        return Rounds(self.subject, observed, self.options, self.progress)

    def _settle(self, compared: Iterable[str]) -> tuple[Tried, Sweeps]:
        """The first candidate, fitted to all data, that agrees as asked.

        Raises:
            CalibrationError: none does.

        """
        agreement = self.options.agreement
        for kind in compared:
            found = self._try(kind, self.observed)
            if found is None:
                continue
            if agreement is None:
                asked = max(1, self.subject.method.iterations)
                rows = found.candidate.certified
                return found, min(rows, key=lambda row: abs(row.count - asked))
            row = found.candidate.fastest(agreement)
            if row is not None:
                return found, row
        best = max(self.tried.values(), key=lambda found: found.candidate.closest.agreement)
        if self.options.best:
            return best, best.candidate.closest
        raise CalibrationError(_unreached(best.candidate, self.subject.n, agreement or 1.0))

    def _preference(self, kind: str) -> tuple[float, float]:
        """Fast ones that agree as asked first, then those that agree most."""
        found = self.tried[kind].candidate
        row = found.fastest(self.options.agreement or 1.0)
        return (0.0, row.seconds) if row is not None else (1.0, -found.closest.agreement)

    def _try(self, kind: str, observed: Observed) -> Tried | None:
        """Build, fit and score a kind; what was fitted before goes on from there."""
        before = self.tried.get(kind)
        built = before.built if before else build(self.subject, kind, self.options.seed)
        if built is None:
            return None
        if before is None and self.subject.emission.plan.calibration is None:
            start(self.subject, built, observed)
        emission = self.subject.emission
        guessing = moved(emission.propagators, emission.registries["guess"], self.guesses)
        built = replace(built, parts={**built.parts, **guessing})
        fits = self._rounds(observed).coarse(built)
        plan = coarse_plan(self.stand, self.plan, built)
        candidate = Candidate(kind, fits, self._score(built, plan))
        self.tried[kind] = Tried(built, plan, candidate)
        return self.tried[kind]

    def _score(self, built: Built, plan: Plan) -> tuple[Sweeps, ...]:
        """Agreement after 0, 1, 2, … sweeps, up to where it is as asked."""
        rows: list[Sweeps] = []
        enough = self.options.agreement or 0.0
        least = max(LOOK, self.subject.method.iterations)
        for k in range(self.subject.n):
            if k > least and max(row.agreement for row in rows) >= enough:
                break
            seconds = timed(plan, self.subject.schedule(k)).parallel_seconds
            found = score(self.subject, built.parts, k, self.observed.held_out)
            rows.append(Sweeps(k, *found, seconds))
        return tuple(rows)

    def _emission(self, chosen: Tried, row: Sweeps) -> tuple[Emission, Calibration]:
        """The network as it is from now on, and what the calibration found."""
        subject = self.subject
        emission, built = subject.emission, chosen.built
        method = replace(subject.method, iterations=row.count)
        certificate = certify(subject, built.parts, row.count, self.observed, self.options)
        spent, transport = time.perf_counter() - self.begun, subject.transport
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


def score(
    subject: Subject, parts: Mapping[Target, Propagator], iterations: int, records: Store
) -> tuple[float, float]:
    """Share of held-out answers that are the serial network's, and their mean relative error."""
    run = subject.run(subject.schedule(iterations), parts)
    agreed, wrong = [], []
    for record in records:
        found, serial = answer(run(record["inputs"])[0]), answer(record["output"])
        agreed.append(agreements(found, serial).double())
        wrong.append(errors(found, serial))
    return float(torch.cat(agreed).mean()), float(torch.cat(wrong).mean())


def _unreached(best: Candidate, n: int, agreement: float) -> str:
    row = best.closest
    return (
        f"no coarse network reaches an agreement of {agreement:.2%} with fewer than {n} sweeps: "
        f"the best is {best.kind!r} with {row.agreement:.2%} after {row.count}. Ask for less "
        f"(agreement={row.agreement:.3f}), give more data or epochs, take fewer subnetworks, or "
        "accept the best with best=True."
    )


def _unasked(found: Calibration) -> str:
    row = found.reached
    return (
        f"no agreement was asked for, and none was looked for: with the sweeps kept ({row.count}) "
        f"{row.agreement:.2%} of the held-out answers are the serial network's. Say how "
        "many have to be, net.calibrate(data, agreement=0.99)."
    )
