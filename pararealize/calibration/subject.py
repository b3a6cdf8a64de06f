"""Subject: the network that is calibrated, and schedules run on it with other coarse networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from pararealize.emit.emission import Emission
from pararealize.emit.graph import lower
from pararealize.errors import CalibrationError, MethodError
from pararealize.ir.decisions import Decisions
from pararealize.ir.methods import Parareal
from pararealize.ir.schedule import Schedule, targets
from pararealize.ir.stages import watches_in_order
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.runners.rank import RankRunner
from pararealize.runtime.runners.rank_programs import StaticProgram
from pararealize.runtime.values.arguments import Arguments
from pararealize.schedule.parareal import certified_stages, parareal_schedule
from pararealize.schedule.place import owner, place, place_stages

Pairs = dict[int, tuple[Any, Any]]


@dataclass(frozen=True)
class Subject:
    """A compiled network, and the options of parareal that it has now."""

    emission: Emission
    network: nn.Module
    method: Parareal

    @classmethod
    def of(cls, emission: Emission, network: nn.Module) -> Subject:
        """A parareal network as it is.

        Raises:
            MethodError: it has no sweeps.

        """
        method = emission.plan.method
        if not isinstance(method, Parareal) or emission.plan.n == 1:
            raise MethodError(
                "sweeps are those of parareal with n=2 or more subnetworks: pararealize(model, n, "
                "method=Parareal(...))."
            )
        return cls(emission, network, method)

    @property
    def decisions(self) -> Decisions:
        """What was decided for the network."""
        return self.emission.decisions

    @property
    def n(self) -> int:
        """Number of subnetworks."""
        return self.decisions.partition.n

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

    @property
    def pieces(self) -> list[int]:
        """Subnetworks that lie on this rank."""
        rank = None if self.transport is None else self.transport.rank
        every = range(1, self.n + 1)
        return [j for j in every if rank is None or owner(j, self.n, self.ranks) == rank]

    def schedule(self, iterations: int) -> Schedule:
        """The parareal network with so many sweeps."""
        method = replace(self.method, iterations=iterations, tolerance=None)
        shared, head = self._shared, self.head
        return parareal_schedule(self.n, method, shared=shared, head=head, corrections=True)

    def stages(self, iterations: int) -> tuple[Schedule, ...]:
        """The same where the network lies, and what may follow it until it is exact."""
        method = replace(self.method, iterations=iterations)
        stages = certified_stages(self.n, method, shared=self._shared, head=self.head)
        if self.ranks == 1:
            return stages
        first, *later = stages
        deliver = self.transport is not None
        return place_stages((self.placed(first), *later), self.n, self.ranks, deliver=deliver)

    @property
    def _shared(self) -> bool:
        return self.method.coarse == "fine" and self.method.correction == "difference"

    @property
    def head(self) -> bool:
        """Whether a head follows the last subnetwork."""
        return self.decisions.partition.has_head

    def together(self, found: dict[Any, Any]) -> dict[Any, Any]:
        """What all ranks found."""
        if self.transport is None:
            return found
        return {k: v for part in self.transport.exchange(found) for k, v in part.items()}

    def placed(self, schedule: Schedule) -> Schedule:
        """A schedule where the network lies."""
        if self.ranks == 1:
            return schedule
        return place(schedule, self.n, self.ranks, deliver=self.transport is not None)

    def run(
        self, schedule: Schedule, parts: Mapping[Target, Propagator]
    ) -> Callable[[Mapping[str, Any]], tuple[Any, Pairs]]:
        """A function of the inputs by argument: the output, and the pairs watched, by interface.

        It applies ``parts`` instead of the network's own propagators of the same targets.
        """
        emission, placed = self.emission, self.placed(schedule)
        every = {**emission.propagators, **parts}
        self._check(placed, every)
        if emission.transport is None:
            return _on_graph(lower(placed, emission.arguments, every), placed)
        program = StaticProgram(placed, emission.transport.rank)
        arguments = Arguments(emission.arguments)
        runner = RankRunner(program, every, arguments, (), emission.transport, self.network)
        return _on_rank(runner, program)

    def _check(self, placed: Schedule, parts: Mapping[Target, Propagator]) -> None:
        rank = None if self.transport is None else self.transport.rank
        here = targets(task for task in placed if rank is None or task.rank == rank)
        missing = [target for target in here if target not in parts]
        if missing:
            raise CalibrationError(
                f"the network was compiled without {missing[0]}, which a calibration evaluates: "
                "compile it with iterations=1 or more (fewer than n), which calibrate may change."
            )


Evaluation = Callable[[Mapping[str, Any]], tuple[Any, Pairs]]


def _on_graph(graph: fx.GraphModule, placed: Schedule) -> Evaluation:
    watches = watches_in_order((placed,))

    def evaluate(inputs: Mapping[str, Any]) -> tuple[Any, Pairs]:
        with torch.no_grad():
            output, pairs = graph(**inputs)
        return output, {w.interface: p for w, p in zip(watches, pairs, strict=True)}

    return evaluate


def _on_rank(runner: RankRunner, program: StaticProgram) -> Evaluation:
    def evaluate(inputs: Mapping[str, Any]) -> tuple[Any, Pairs]:
        with torch.no_grad():
            output = runner.run((), inputs, None)
        return output, {w.interface: (new, old) for w, new, old in program.watched}

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
