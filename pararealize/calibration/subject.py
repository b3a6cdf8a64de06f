"""Subject: the network that is calibrated, and schedules run on it with other coarse networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from pararealize.calibration.strides import Interval, Stride, strides
from pararealize.coarse.guesses import build_guesses
from pararealize.coarse.setting import Setting
from pararealize.emit.collect import serial_copy
from pararealize.emit.emission import Emission
from pararealize.emit.fits import Fits
from pararealize.emit.graph import lower
from pararealize.emit.propagators import fine_propagators, guess_propagators
from pararealize.errors import CalibrationError
from pararealize.ir.calibration import Fitting
from pararealize.ir.chain import Partition
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, Watch, targets
from pararealize.ir.stages import watches_in_order
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import moved
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.runners.rank import RankRunner
from pararealize.runtime.runners.rank_programs import StaticProgram
from pararealize.runtime.values.arguments import Arguments
from pararealize.schedule.parareal import certified_stages, parareal_schedule
from pararealize.schedule.place import owner, place, place_stages

Pairs = dict[Watch, tuple[Any, Any]]
#: Of the inputs by argument: the output, and the new and old values watched on this rank.
Evaluation = Callable[[Mapping[str, Any]], tuple[Any, Pairs]]


@dataclass(frozen=True)
class Subject:
    """A compiled network, and the options of parareal that it has now.

    ``gathered`` has the layers of all ranks, where groups of subnetworks lie on several.
    """

    emission: Emission
    network: nn.Module
    method: Parareal
    gathered: nn.Module | None = None

    @property
    def partition(self) -> Partition:
        """The network cut into subnetworks."""
        return self.emission.decisions.partition

    @property
    def n(self) -> int:
        """Number of subnetworks."""
        return self.partition.n

    @property
    def layers(self) -> nn.Module:
        """The network that coarse networks start from."""
        return self.gathered or self.emission.serial

    @property
    def levels(self) -> int:
        """Levels of its corrections."""
        return len(self.method.points(self.n)) + 1

    @cached_property
    def strides(self) -> tuple[Stride, ...]:
        """What coarse propagators bridge, on every level."""
        return strides(self.n, self.method)

    @property
    def groups(self) -> list[Stride]:
        """The groups that something corrects, of two subnetworks or more."""
        return [s for s in self.strides if s.start > 0 and s.end - s.start > 1]

    def guesses(self, stride: Stride) -> bool:
        """Whether a coarse sweep guesses by it: the longest that ends at an interface does."""
        longer = (s for s in self.strides if s.end == stride.end and s.level > stride.level)
        swept = self.method.guess == "coarse" and stride.end < self.n
        return swept and not any(longer)

    def interval(self, watch: Watch) -> Interval:
        """The interfaces between which a watch of the serial network, or of guesses, looks."""
        points = self.method.points(self.n)[watch.level - 2]
        at = points.index(watch.interface)
        return points[at - 1], points[at]

    @property
    def transport(self) -> Transport | None:
        """To the other ranks, where there are any."""
        return self.emission.transport

    @property
    def ranks(self) -> int:
        """Ranks, or devices, of its schedules."""
        return self.emission.schedule.ranks

    def named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The network's inputs, by argument, by the names that propagators know them by."""
        arguments = self.emission.arguments
        return {a.name: given.get(a.target, a.args[0] if a.args else None) for a in arguments}

    def is_here(self, rank: int) -> bool:
        """Whether a rank's tasks are done in this process."""
        return self.transport is None or self.transport.rank == rank

    @property
    def pieces(self) -> list[int]:
        """Subnetworks that lie on this rank."""
        return [j for j in range(1, self.n + 1) if self.is_here(owner(j, self.n, self.ranks))]

    def schedule(self, iterations: int) -> Schedule:
        """The parareal network with so many sweeps."""
        method = replace(self.method, iterations=iterations, tolerance=None)
        return parareal_schedule(self.n, method, head=self.head, corrections=True)

    def stages(self, iterations: int) -> tuple[Schedule, ...]:
        """Schedules of so many sweeps where the network lies, and of those until it is exact."""
        method = replace(self.method, iterations=iterations)
        stages = certified_stages(self.n, method, head=self.head)
        stages = (self.placed(stages[0]), *stages[1:])
        return place_stages(stages, self.n, self.ranks, deliver=self.transport is not None)

    @property
    def head(self) -> bool:
        """Whether a head follows the last subnetwork."""
        return self.partition.has_head

    def together(self, found: dict[Any, Any]) -> dict[Any, Any]:
        """What all ranks found."""
        if self.transport is None:
            return found
        return {k: v for part in self.transport.exchange(found) for k, v in part.items()}

    def placed(self, schedule: Schedule) -> Schedule:
        """A schedule where the network lies."""
        return place(schedule, self.n, self.ranks, deliver=self.transport is not None)

    def run(self, schedule: Schedule, parts: Mapping[Target, Propagator]) -> Evaluation:
        """A function of the inputs by argument: the output, and the pairs watched on this rank.

        It applies ``parts`` instead of the network's own propagators of the same targets.

        Raises:
            CalibrationError: a propagator that a task of this rank applies was not compiled.

        """
        emission, placed = self.emission, self.placed(schedule)
        every = {**emission.propagators, **parts}
        here = targets(task for task in placed if self.is_here(task.rank))
        missing = [target for target in here if target not in every]
        if missing:
            raise CalibrationError(
                f"the network was compiled without {missing[0]}, which a calibration evaluates: "
                "compile it with iterations=1 or more (fewer than n), which calibrate may change."
            )
        if emission.transport is None:
            return _on_graph(lower(placed, emission.arguments, every), placed)
        program = StaticProgram(placed, emission.transport.rank)
        arguments = Arguments(emission.arguments)
        runner = RankRunner(program, every, arguments, (), emission.transport, self.network)
        return _on_rank(runner, program)


def _on_graph(graph: fx.GraphModule, placed: Schedule) -> Evaluation:
    watches = watches_in_order((placed,))

    @torch.no_grad()
    def evaluate(inputs: Mapping[str, Any]) -> tuple[Any, Pairs]:
        output, pairs = graph(**inputs)
        return output, dict(zip(watches, pairs, strict=True))

    return evaluate


def _on_rank(runner: RankRunner, program: StaticProgram) -> Evaluation:
    @torch.no_grad()
    def evaluate(inputs: Mapping[str, Any]) -> tuple[Any, Pairs]:
        output = runner.run((), inputs, None)
        return output, {w: (new, old) for w, new, old in program.watched}

    return evaluate


@contextmanager
def evaluating(network: nn.Module, serial: nn.Module) -> Iterator[None]:
    """A block in which all of the network is in eval mode; afterwards every part is as it was."""
    modes = {module: module.training for root in (network, serial) for module in root.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def in_two_levels(subject: Subject) -> Subject:
    """The subject without groups of subnetworks."""
    emission = subject.emission
    method = replace(subject.method, coarsening=None)
    plan = replace(emission.plan, method=method, groups=())
    decisions = replace(emission.decisions, plan=plan)
    return replace(subject, method=method, emission=replace(emission, decisions=decisions))


def in_levels(subject: Subject, options: Fitting) -> tuple[Subject, ...]:
    """The subject and, where predictions chose its groups, itself in two levels to compare.

    Without an agreement that decides between them levels stay, as sweeps do.
    """
    chosen = subject.emission.plan.groups and subject.method.levels == "auto"
    compares = chosen and options.agreement is not None
    return (subject, in_two_levels(subject)) if compares else (subject,)


def gathered(subject: Subject) -> Subject:
    """The subject with the layers of all ranks, where groups need them; all ranks call it."""
    if subject.transport is None or not subject.groups:
        return subject
    return replace(subject, gathered=serial_copy(subject.emission).eval())


def completed(subject: Subject) -> Subject:
    """The subject with all subnetworks and guesses of this rank that one sweep evaluates.

    A schedule of no sweep, or of several, does not need each of them, and they are left out when it
    is compiled. Guess networks that are made here are new ones.
    """
    emission, partition = subject.emission, subject.partition
    parts: dict[Target, Propagator] = dict(emission.propagators)
    every = targets(subject.schedule(1))
    if emission.transport is None:
        fine = fine_propagators(partition, emission.serial)
        parts = {**{target: fine[target] for target in every if target in fine}, **parts}
    here = {Target.guess(j - 1) for j in subject.pieces}
    missing = frozenset(t for t in every if t in here and t not in parts)
    chain, method, machine = partition.chain, subject.method, emission.plan.machine
    setting = Setting.of(chain, emission.serial, machine, method)
    made = build_guesses(partition, setting, method, missing)
    if not made:
        return replace(subject, emission=replace(emission, propagators=parts))
    modules = {str(j): guess.module for j, guess in made.items() if guess.module is not None}
    old = emission.registries["guess"]
    registry = nn.ModuleDict({**dict(old.items()), **modules})
    parts |= moved(parts, old, registry)
    parts |= guess_propagators(Fits.of(emission), made, emission.serial, registry)
    registries = {**emission.registries, "guess": registry.eval()}
    return replace(subject, emission=replace(emission, propagators=parts, registries=registries))
