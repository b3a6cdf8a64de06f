"""Calibrate: fit the coarse networks of a trained network, choose among kinds, certify."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.analysis.simulate import critical_coarse_seconds, predict
from pararealize.calibration.candidates import Built, build, kinds, wanted
from pararealize.calibration.certify import certify
from pararealize.calibration.data import batches, divided
from pararealize.calibration.fit import Errors, Fitter, Sample, Samples, fit, measure
from pararealize.calibration.latency import coarse_plan, measured_plan, predicted, together
from pararealize.calibration.observe import Observed, observe, respond
from pararealize.calibration.score import score
from pararealize.calibration.store import Store
from pararealize.calibration.subject import Subject, evaluating
from pararealize.emit.assemble import rule_of
from pararealize.emit.emission import Emission
from pararealize.emit.renew import renewed
from pararealize.errors import CalibrationError, MethodError
from pararealize.ir.calibration import Calibration, Candidate, Fit, Fitting, Sweeps
from pararealize.ir.methods import Parareal
from pararealize.ir.parts import Decisions
from pararealize.ir.plan import Plan
from pararealize.passes.place import place
from pararealize.runtime.progress import Progress

#: Sweeps after which a candidate is scored in any case.
LOOK = 2


@dataclass(frozen=True)
class Tried:
    """A candidate with its networks, its plan and what it reaches."""

    built: Built
    plan: Plan
    fits: tuple[Fit, ...]
    sweeps: tuple[Sweeps, ...]

    @property
    def certified(self) -> list[Sweeps]:
        """One sweep or more: without any there is no jump to judge an answer by."""
        return [row for row in self.sweeps if row.count]

    def fastest(self, agreement: float) -> Sweeps | None:
        """The fewest seconds in which it reaches an agreement."""
        good = [row for row in self.certified if row.agreement >= agreement]
        return min(good, key=lambda row: row.seconds, default=None)

    @property
    def closest(self) -> Sweeps:
        """The best agreement that it reaches."""
        return max(self.certified, key=lambda row: (row.agreement, -row.seconds))


def calibrate(
    decisions: Decisions,
    network: nn.Module,
    emission: Emission,
    data: Any,
    options: Fitting,
    progress: Progress,
) -> Emission:
    """The network with coarse networks fitted to its weights, and as many sweeps as it takes.

    Raises:
        CalibrationError: the data do not fit, or the agreement is not reached with fewer sweeps
            than subnetworks.
        MethodError: the network is no parareal network, or has one subnetwork.

    """
    method = decisions.method
    if not isinstance(method, Parareal) or decisions.partition.n == 1:
        raise MethodError(
            "calibrate fits the coarse networks of parareal, with n=2 or more subnetworks; MGRIT "
            "has none: pararealize(model, n, method=Parareal(...))."
        )
    method = replace(method, iterations=_asked(emission))
    with ExitStack() as stack:
        stack.enter_context(evaluating(network, emission.serial))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(progress)
        observed = Observed(*(stack.enter_context(Store(options.memory // 2)) for _ in range(2)))
        subject = Subject(decisions, emission, network, method)
        return _Calibration(subject, observed, options, progress).run(data)


def _asked(emission: Emission) -> int:
    return int(emission.plan.method["iterations"])


class _Calibration:
    """One calibration under way."""

    def __init__(
        self, subject: Subject, observed: Observed, options: Fitting, progress: Progress
    ) -> None:
        self.subject, self.observed, self.options = subject, observed, options
        self.progress, self.begun = progress, time.perf_counter()
        self.tried: dict[str, Tried] = {}

    def run(self, data: Any) -> Emission:
        """All of it."""
        emission, options = self.subject.emission, self.options
        every = batches(data, emission.plan.specs, emission.expectations, options.batch)
        device = next((p.device for p in emission.serial.parameters()), torch.device("cpu"))
        with self.progress.task("states of the serial network") as advance:
            parts = divided(every, options.held_out)
            observe(self.subject, parts, self.observed, device, advance)
        self.plan = measured_plan(self.subject, self.observed.held_out[0])
        compared = kinds(self.subject)
        if len(compared) > 1:
            for kind in compared:
                self._try(kind, max(1, self.options.epochs // 4), second=False)
            compared = tuple(sorted(self.tried, key=self._preference))
        chosen, row = self._settle(compared)
        return self._emission(chosen, row)

    def _settle(self, options: Iterable[str]) -> tuple[Tried, Sweeps]:
        """The first candidate, fitted in full, that agrees as asked.

        Raises:
            CalibrationError: none does.

        """
        wanted = self.options.agreement
        for kind in options:
            found = self._try(kind, self.options.epochs, second=True)
            assert found is not None
            if wanted is None:
                asked = max(1, self.subject.method.iterations)
                rows = {row.count: row for row in found.sweeps}
                return found, rows[min(asked, max(rows))]
            row = found.fastest(wanted)
            if row is not None:
                return found, row
        best = max(self.tried.values(), key=lambda found: found.closest.agreement)
        if self.options.best:
            return best, best.closest
        row = best.closest
        raise CalibrationError(
            f"no coarse network reaches an agreement of {wanted:.2%} with fewer than "
            f"{self.subject.n} sweeps: the best is {best.built.kind!r} with {row.agreement:.2%} "
            f"after {row.count} sweeps. Ask for less (agreement={row.agreement:.3f}), give more "
            "data or epochs, take fewer subnetworks, or accept the best with best=True."
        )

    def _preference(self, kind: str) -> tuple[float, float]:
        """Fast ones that agree as asked first, then those that agree most."""
        found = self.tried[kind]
        row = found.fastest(self.options.agreement or 1.0)
        return (0.0, row.seconds) if row is not None else (1.0, -found.closest.agreement)

    def _try(self, kind: str, epochs: int, *, second: bool) -> Tried | None:
        """Build, fit and score a kind; what was fitted before goes on from there."""
        before = self.tried.get(kind)
        built = before.built if before else build(self.subject, kind, self.options.seed)
        if built is None:
            return None
        fits = self._fit(built, epochs, second=second)
        plan = coarse_plan(self.subject, self.plan, built, self.observed.held_out[0])
        self.tried[kind] = Tried(built, plan, fits, self._score(built, plan))
        return self.tried[kind]

    def _score(self, built: Built, plan: Plan) -> tuple[Sweeps, ...]:
        rows: list[Sweeps] = []
        asked = self.options.agreement
        last = max(LOOK, self.subject.method.iterations)
        for k in range(self.subject.n):
            reached = any(row.agreement >= (asked or 1.0) for row in rows)
            if k > last and (asked is None or reached):
                break
            found = score(self.subject, built.parts, k, self.observed.held_out)
            rows.append(Sweeps(k, *found, predicted(self.subject, plan, k)))
        return tuple(rows)

    def _fit(self, built: Built, epochs: int, *, second: bool) -> tuple[Fit, ...]:
        """Fit on the trajectory, then around it, at the guesses that the network makes there."""
        self._guesses(epochs)
        errors = self._round(built, epochs, {})
        if second:
            with Store(self.options.memory // 2) as near, Store(self.options.memory // 2) as far:
                for records, into in ((self.observed.fitted, near), (self.observed.held_out, far)):
                    respond(self.subject, built.parts, records, into)
                errors = self._round(built, epochs, {"fitted": near, "held_out": far})
        found = {j: Fit(j, c.kind, _count(c.module), *errors[j]) for j, c in built.coarse.items()}
        return tuple(fit for _, fit in sorted(together(self.subject, found).items()))

    def _round(
        self, built: Built, epochs: int, responses: Mapping[str, Store]
    ) -> dict[int, Errors]:
        found: dict[int, Errors] = {}
        fitters = {j: built.fitter(self.subject, j) for j in wanted(self.subject)}
        total = sum(self._steps(epochs) for f in fitters.values() if f.module is not None)
        with self.progress.task(f"{built.kind} coarse networks", total) as advance:
            for j, fitter in fitters.items():
                samples = self._samples(j, responses)
                if fitter.sweeper is None and not responses:
                    found[j] = (None, None)
                elif fitter.module is None:
                    found[j] = measure(fitter, samples.held_out)
                else:
                    seed = self.options.seed + j
                    found[j] = fit(fitter, samples, self.options, epochs, seed, advance)
        return found

    def _steps(self, epochs: int) -> int:
        steps = epochs * len(self.observed.fitted)
        return min(steps, self.options.steps or steps)

    def _guesses(self, epochs: int) -> None:
        """Fit guess networks to the states before the subnetworks of this rank, once."""
        if self.subject.method.guess != "network" or self.tried:
            return
        registry = self.subject.emission.registries["guess"]
        for j in [j for j in self.subject.pieces if str(j - 1) in registry]:
            part = self.subject.emission.propagators[f"guess.{j - 1}"]
            fitter = Fitter(registry[str(j - 1)], part)
            samples = self._samples(j, {}, guess=True)
            with self.progress.task(f"guess network {j - 1}", self._steps(epochs)) as advance:
                fit(fitter, samples, self.options, epochs, self.options.seed + j, advance)

    def _samples(self, j: int, responses: Mapping[str, Store], *, guess: bool = False) -> Samples:
        def read(store: Store, response: Store | None, i: int) -> Sample:
            record = store[i]
            before, after = record["states"][j]
            inputs = self._inputs(record["inputs"])
            if guess:
                return Sample(None, before, inputs)
            if response is None or j not in response[i]:
                return Sample(before, after, inputs)
            return Sample(before, after, inputs, *response[i][j])

        def every(store: Store, response: Store | None) -> list[Callable[[], Sample]]:
            return [partial(read, store, response, i) for i in range(len(store))]

        return Samples(
            every(self.observed.fitted, responses.get("fitted")),
            every(self.observed.held_out, responses.get("held_out")),
        )

    def _inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The network's inputs by the names that propagators know them by."""
        arguments = self.subject.emission.arguments
        return {a.name: given.get(a.target, a.args[0] if a.args else None) for a in arguments}

    def _emission(self, chosen: Tried, row: Sweeps) -> Emission:
        """The network as it is from now on."""
        subject = self.subject
        emission, built = subject.emission, chosen.built
        method = replace(subject.method, iterations=row.count)
        parts = built.parts
        certificate = certify(subject, parts, row.count, self.observed.held_out, self.options)
        once = subject.schedule(row.count)
        timeline = predict(chosen.plan, place(once, subject.n, chosen.plan.ranks or subject.n))
        fitted, held_out = self.observed.samples
        calibration = Calibration(
            kind=built.kind,
            iterations=row.count,
            samples=fitted,
            held_out=held_out,
            seconds=time.perf_counter() - self.begun,
            serial_seconds=chosen.plan.serial_seconds,
            candidates=tuple(
                Candidate(kind, found.fits, found.sweeps) for kind, found in self.tried.items()
            ),
            certificate=certificate,
            wanted=self.options.agreement,
        )
        plan = replace(
            chosen.plan,
            method={**emission.plan.method, "iterations": row.count},
            parallel_seconds=timeline.makespan,
            critical_coarse_seconds=critical_coarse_seconds(timeline),
            chunks=1,
            calibration=calibration,
        )
        rule = rule_of(method, calibration)
        return renewed(emission, parts, built.registry, subject.stages(row.count), rule, plan)


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
