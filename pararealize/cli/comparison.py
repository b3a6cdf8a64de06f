"""Comparison: a parareal network on data beside the serial one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.calibration.certify import rank_correlation
from pararealize.calibration.latency import Stand, cut_to, renewed_plan
from pararealize.calibration.observe import serial_run
from pararealize.calibration.subject import Subject
from pararealize.cli.data import Data, labelled
from pararealize.cli.launch import meet
from pararealize.cost.measure import medians
from pararealize.cost.predict import timed
from pararealize.errors import CalibrationError, MethodError
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import targets
from pararealize.network import ParallelNetwork
from pararealize.runtime.monitoring.answers import agreements, classes, errors
from pararealize.runtime.monitoring.rules import Certified, answer

#: Calls that are timed.
RUNS = 11


@dataclass(frozen=True)
class SweepRow:
    """Share of answers that are the serial ones, and the mean relative error of all."""

    agreement: float
    error: float


@dataclass(frozen=True)
class Quality:
    """How well a certificate foretells true errors on data; see :class:`Certificate`.

    ``fallback`` is the agreement where every doubtful answer is replaced by the serial one.
    """

    coverage: float
    correlation: float
    doubted: float
    fallback: float


@dataclass(frozen=True)
class Latency:
    """One call with so many samples, in medians, and how many times as fast it should have been.

    ``predicted`` is made of the seconds of its parts as measured on this machine.
    """

    samples: int
    serial_seconds: float
    seconds: float
    predicted: float


@dataclass(frozen=True)
class Agreement:
    """A network on data.

    ``sweeps`` are its answers after exactly so many, ``called`` as it gives them (with fallback,
    or sweeps until a tolerance); ``accuracy`` is that of the serial network and its own;
    ``latencies`` are those of one sample, and of as many as it was compiled for.
    """

    samples: int
    sweeps: Mapping[int, SweepRow]
    called: SweepRow
    quality: Quality | None
    accuracy: tuple[float, float] | None
    latencies: tuple[Latency, ...]


@dataclass
class _Column:
    """Answers of one kind beside the serial ones."""

    agreed: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)

    def add(self, found: Tensor, serial: Tensor) -> None:
        same = agreements(found, serial).cpu()
        self.agreed.append(same.reshape(len(serial), -1))
        self.errors.append(errors(found, serial).cpu())

    @property
    def row(self) -> SweepRow:
        agreed = torch.cat([part.flatten() for part in self.agreed]).double()
        return SweepRow(float(agreed.mean()), float(torch.cat(self.errors).mean()))


@final
class Comparison:
    """A network beside the serial one with its weights; on ranks, all make one.

    Raises:
        MethodError: the network is not parareal, or has one subnetwork.

    """

    def __init__(self, net: ParallelNetwork, comm: Any = None) -> None:
        self.net, self.comm = net.eval(), comm
        self.subject = subject_of(net)
        serial = net.to_serial().eval()
        self.serial: nn.Module | None = serial if comm is None or comm.rank == 0 else None
        self.counts = [k for k in range(net.plan.n + 1) if self._can(k)]
        self._columns = {k: _Column() for k in self.counts}
        self._called, self._true = _Column(), _Column()
        self._estimates: list[Tensor] = []
        self._doubts: list[Tensor] = []
        self._right: list[tuple[Tensor, Tensor]] = []

    def _can(self, sweeps: int) -> bool:
        """Whether the network has all that so many sweeps apply."""
        needed = set(map(str, targets(self.subject.schedule(sweeps))))
        has = set(self.net.propagators)
        if self.comm is not None:
            has = {name for part in self.comm.allgather(has) for name in part}
        return needed <= has

    def over(self, data: Data) -> Agreement | None:
        """All of the data; on ranks, what the first of them found.

        Raises:
            CalibrationError: the data do not fit the network.
            DataError: they cannot be read.

        """
        specs, first = self.net.plan.specs, None
        run = {k: self.subject.run(self.subject.schedule(k), {}) for k in self.counts}
        with torch.no_grad():
            for inputs, labels in labelled(
                data, specs, self.subject.emission.decisions.expectations
            ):
                first = first or inputs
                found = {k: answer(run[k](inputs)[0]) for k in self.counts}
                called = answer(self.net(**inputs))
                if self.serial is not None:
                    self._note(answer(self.serial(**inputs)), found, called, labels)
            assert first is not None
            whole = next(iter(specs.values())).shape[0]
            times = tuple(self._latency(first, count) for count in sorted({1, whole}))
        return None if self.serial is None else self._result(times)

    def _latency(self, given: Mapping[str, Any], count: int) -> Latency:
        """Of calls of the serial network, in rank 0, and of this one, in turns.

        Ranks begin together, and all have the answer when theirs ends.
        """
        plan = self.net.plan
        shapes = {k: replace(v, shape=(count, *v.shape[1:])) for k, v in plan.specs.items()}
        inputs = cut_to(given, shapes)
        serial, own = (partial(_call, network, inputs) for network in (self.serial, self.net))
        alone, together = medians(serial, own, runs=RUNS, before=self._meet)
        stand = Stand(self.subject, inputs, serial_run(self.subject)(inputs)[1])
        ranks = 0 if self.comm is None else self.comm.size
        method = plan.method
        sweeps = method.iterations if isinstance(method, Parareal) else 1
        here = replace(renewed_plan(stand), ranks=ranks)
        return Latency(count, alone, together, timed(here, self.subject.schedule(sweeps)).speedup)

    def _meet(self) -> None:
        if self.comm is not None:
            meet(self.comm)
            self.comm.Barrier()

    def _note(
        self, serial: Tensor, found: Mapping[int, Tensor], called: Tensor, labels: Tensor | None
    ) -> None:
        if not bool(torch.isfinite(serial).all()):
            raise CalibrationError("the serial network's answers are NaN or infinite on this data.")
        for k, output in found.items():
            self._columns[k].add(output, serial)
        self._called.add(called, serial)
        rule = self.net.rule
        if isinstance(rule, Certified) and rule.certificate.sweeps in found:
            self._true.add(found[rule.certificate.sweeps], serial)
            estimates = torch.tensor(rule.verdict.estimates, dtype=torch.float64)
            doubts = torch.tensor(rule.verdict.doubtful)
            self._estimates.append(estimates.expand(len(serial)))
            self._doubts.append(doubts.expand(len(serial)))
        right = [_right(scores, labels) for scores in (serial, called)]
        if right[0] is not None and right[1] is not None:
            self._right.append((right[0], right[1]))

    def _result(self, times: tuple[Latency, ...]) -> Agreement:
        right = [torch.cat(part) for part in zip(*self._right, strict=True)]
        return Agreement(
            samples=sum(len(part) for part in self._called.errors),
            sweeps={k: column.row for k, column in self._columns.items()},
            called=self._called.row,
            quality=self._quality() if self._estimates else None,
            accuracy=(float(right[0].mean()), float(right[1].mean())) if right else None,
            latencies=times,
        )

    def _quality(self) -> Quality:
        estimates, doubts = torch.cat(self._estimates), torch.cat(self._doubts)
        true = torch.cat(self._true.errors)
        rows = zip(self._true.agreed, self._doubts, strict=True)
        either = torch.cat([(agreed | doubt[:, None]).flatten() for agreed, doubt in rows])
        return Quality(
            coverage=float((true <= estimates).double().mean()),
            correlation=rank_correlation(estimates, true),
            doubted=float(doubts.double().mean()),
            fallback=float(either.double().mean()),
        )


def subject_of(net: ParallelNetwork) -> Subject:
    """A network in subnetworks with the options of parareal that it has now.

    Raises:
        MethodError: it has none, as one of multigrid, or one subnetwork.

    """
    method = net.plan.method
    if not isinstance(method, Parareal) or net.plan.n == 1:
        raise MethodError(
            "sweeps are those of parareal with n=2 or more subnetworks: pararealize(model, n, "
            "method=Parareal(...))."
        )
    return Subject(net._emission, net, method)


def _call(network: nn.Module | None, inputs: Mapping[str, Any]) -> None:
    if network is not None:
        network(**inputs)


def _right(scores: Tensor, labels: Tensor | None) -> Tensor | None:
    """Whether each class is the labelled one, where there are classes and labels of them."""
    found = classes(scores)
    if labels is None or found is None or found.shape != labels.shape:
        return None
    return (found == labels.to(found.device)).double().flatten()
