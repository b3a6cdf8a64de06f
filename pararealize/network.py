"""The emitted module: the network with its depth in parallel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import fx, nn

from pararealize.calibration.calibrate import calibrate
from pararealize.decide.recoarsen import recoarsened
from pararealize.emit.call_checks import check_call, check_shapes
from pararealize.emit.collect import serial_copy
from pararealize.emit.emission import Emission
from pararealize.emit.emitted import Emitted
from pararealize.emit.modes import set_mode
from pararealize.emit.parameters import HoldsParameters
from pararealize.emit.stale_optimizers import StaleOptimizers
from pararealize.errors import CertificateWarning, MethodError
from pararealize.explain.shown import Shown
from pararealize.ir.calibration import Calibration, Fitting
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.capture.capturable import Capturable
from pararealize.runtime.monitoring.jumps import Jumps
from pararealize.runtime.monitoring.progress import Progress, progress_of
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.rules import Rule, warning_of
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.runner import Runner
from pararealize.storage.write import write


@final
class ParallelNetwork(Emitted, Capturable, HoldsParameters, Shown):
    """A network whose depth runs as a schedule; call it, train it, save it like the original.

    Parameters, buffers and sub-modules have the original's names, besides ``coarse`` and ``guess``.
    Hooks on layers fire whenever a sweep evaluates them, those on containers do not.
    """

    def __init__(self, emission: Emission) -> None:
        super().__init__(emission)
        self.optimizers = StaleOptimizers()
        self.training = emission.serial.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer, through the schedule; ``torch.compile`` takes the fixed part of it.

        Raises:
            ShapeError: an input does not fit the first layer.
            StaleError: an attribute that it was compiled with has changed, and it cannot follow.

        """
        emission, compiling = self._emission, torch.compiler.is_compiling()
        if compiling and emission.share is not None:  # messages are no part of a graph
            return torch.compiler.disable(self.forward)(*args, **kwargs)
        if not compiling:
            check_call(emission, args, kwargs)
            emission = self._followed()
            self.optimizers.look(self)
        else:
            check_shapes(emission, args, kwargs)
        with nullcontext() if compiling else emission.lock:
            emission.begin_step()
            graph = self._runner.graph if compiling else None
            output = self._run(args, kwargs) if graph is None else graph(*args, **kwargs)[0]
            emission.end_step()
        return output

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer, with its jumps kept where asked for, and a warning where it is doubtful."""
        if self._jumps is not None:
            self._jumps.forget()
        output = self._runner.run(args, kwargs, self._jumps)
        doubts = "" if self.rule is None else warning_of(self.rule)
        if doubts:
            warnings.warn(doubts, CertificateWarning, stacklevel=4)
        return output

    @contextmanager
    def jumps(self) -> Iterator[Jumps]:
        """A block in which the jumps of a call can be differentiated, to keep them small.

        ``with net.jumps() as jumps: loss = criterion(net(x), y) + 0.1 * jumps.penalty()`` trains so
        that few sweeps stay enough. On ranks, all call the network in such a block.

        Raises:
            MethodError: an MGRIT network has residuals, and no jumps that training could lessen.

        """
        if self._emission.decisions.iteration is not None:
            raise MethodError(
                "jumps are those of parareal: train MGRIT networks with more cycles, or with a "
                "tolerance, MGRIT(forward_cycles=2, tolerance=1e-3)."
            )
        before, self._jumps = self._jumps, Jumps()
        try:
            yield self._jumps
        finally:
            self._jumps = before

    @property
    def plan(self) -> Plan:
        """Cuts, coarse choices, costs and predicted time."""
        return self._emission.plan

    @property
    def schedule(self) -> Schedule:
        """The tasks of one call; where sweeps are decided while it runs, of the first stage."""
        return self._emission.schedule

    @property
    def stages(self) -> tuple[Schedule, ...]:
        """The schedule, and what may follow it, one sweep each."""
        return self._emission.decisions.stages

    @property
    def rule(self) -> Rule | None:
        """What decides how many of the stages run; another can be set, on ranks on all of them."""
        return self._emission.rule

    @rule.setter
    def rule(self, rule: Rule | None) -> None:
        self._become(replace(self._emission, rule=rule))

    @property
    def adjoint(self) -> Schedule | None:
        """For MGRIT, the tasks of one backward pass; else autograd runs the schedule backward."""
        iteration = self._emission.decisions.iteration
        return iteration.adjoint[0].schedule if iteration is not None else None

    @property
    def graph_module(self) -> fx.GraphModule:
        """The schedule as a ``torch.fx.GraphModule``, one node for each task.

        Raises:
            RankError: the network lies on several ranks, whose tasks are in ``schedule``.

        """
        return self._runner.graph

    @property
    def code(self) -> str:
        """The schedule as Python code, or this rank's tasks."""
        return self._runner.code

    @property
    def propagators(self) -> Mapping[str, Propagator]:
        """What the tasks apply, by name: ``fine.2`` is the second subnetwork as a module."""
        return {str(target): part for target, part in self._emission.propagators.items()}

    def recording(self) -> AbstractContextManager[Recorder]:
        """Record, in the block, when this rank does what: forward tasks and their adjoints.

        Raises:
            RankError: the network does not lie on ranks.

        """
        return self._runner.record()

    @property
    def runner(self) -> Runner:
        """What runs the network: as a graph, by decided sweeps, by cycles, or on a rank."""
        return self._runner

    @property
    def solver(self) -> MultigridSolver | None:
        """What goes through MGRIT's cycles."""
        return self._runner.solver

    @property
    def report(self) -> Report:
        """Jump norms by interface and sweep, of the last call; on ranks, all ask for it."""
        return self._runner.report

    def calibrate(
        self, data: Any, *, progress: bool | Progress = True, **options: Any
    ) -> Calibration:
        """Fit coarse networks to the trained weights, which stay as they are, and choose sweeps.

        With ``Parareal(coarse="auto")`` kinds of coarse propagators are compared, and levels that
        predictions have chosen with two. Optimisers made before do not know the new coarse weights.
        On ranks, all call it with the same data.

        Args:
            data: inputs without labels: one tensor ``[samples, …]``, a ``Dataset``, or an iterable
                of batches (tensors, tuples that begin with the inputs, or dictionaries).
            progress: whether lines of text say how far it is, or a :class:`Progress` that does.
            options: those of :class:`~pararealize.Fitting`, as ``agreement=0.995``.

        Returns what was reached (``.reached.agreement``), which notebooks show as a table.

        Raises:
            CalibrationError: the data do not fit, or the agreement is not reached; the network is
                then what it was.
            MethodError: an option has a value that it cannot take.

        """
        emission = self._emission
        first = emission.transport is None or emission.transport.rank == 0
        told = progress_of(progress, first=first)
        emission, calibration = calibrate(self, emission, data, Fitting(**options), told)
        self._become(emission)
        return calibration

    def recoarsen(self, *args: Any, **kwargs: Any) -> None:
        """Choose MGRIT's coarse propagators for today's weights, and fit them, in place.

        ``coarse="auto"`` measures one-interval errors and costs again, ``"fitted"`` fits again; the
        other kinds follow the weights by themselves. The arguments are the inputs of one call to
        measure on, by default random ones. On ranks, all call it, and decide alike.

        Raises:
            MethodError: the network is not multigrid's, or its coarse networks are the user's own.
            RankError: on ranks, coarse steps join slices.
            ShapeError: the inputs are not the network's arguments.

        """
        self._renew(recoarsened(self._emission, self.to_serial(), args, kwargs))

    def to_serial(self) -> nn.Module:
        """A copy of the original, of its own class, with today's weights.

        On ranks, all call it, and each gets the whole network.
        """
        serial = serial_copy(self._emission)
        serial.training = self.training  # its parts have the modes that they have here
        return serial

    def save(self, path: str | Path, *, consolidated: bool = False) -> None:
        """Write weights (safetensors) and plan (JSON) to the folder ``path``, atomically.

        On ranks, all call it, and each writes a file of its own weights, or rank 0 one file of all
        weights if ``consolidated``; either is read back on any number of ranks.

        Raises:
            StorageError: the folder cannot be written; what was there is left whole.

        """
        transport = self._emission.transport
        write(path, self.state_dict(), self.plan, transport, consolidated=consolidated)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as the original's own ``train`` and ``eval`` do, which may keep parts of it.

        Raises:
            RankError: they look at a part that lies on another rank.

        """
        super().train(mode)
        set_mode(self._emission.serial, training=mode)
        return self

    def extra_repr(self) -> str:
        """The plan in a line."""
        return f"n={self.plan.n}, schedule={len(self.schedule.tasks)} tasks"
