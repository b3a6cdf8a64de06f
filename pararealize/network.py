"""The emitted module: the network with its depth in parallel."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, fx, nn

from pararealize.emit.collect import collect_serial, total_norm
from pararealize.emit.emission import Emission
from pararealize.emit.graph import lower, lower_stages
from pararealize.emit.ranks import binder, execution
from pararealize.emit.recoarsen import recoarsened
from pararealize.emit.solver import solution
from pararealize.errors import CertificateWarning, MethodError, RankError, ShapeError, TraceError
from pararealize.explain.explain import explain
from pararealize.ir.calibration import Calibration, Fitting
from pararealize.ir.chain import Expectation
from pararealize.ir.plan import Plan
from pararealize.ir.program import FIXED, Operation
from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.stages import watched_on
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.effects.masks import Masks
from pararealize.runtime.monitoring.jumps import Jumps, by_jump, number_of, summed
from pararealize.runtime.monitoring.measures import batch_of
from pararealize.runtime.monitoring.progress import Lines, Progress
from pararealize.runtime.monitoring.report import Jump, Report, norm
from pararealize.runtime.monitoring.rules import Certified, Rule
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.adaptive import AdaptiveRunner, SweepRecord, detached
from pararealize.runtime.runners.multigrid import MultigridRunner
from pararealize.runtime.runners.rank import RankRunner
from pararealize.runtime.values.combine import combine
from pararealize.storage import write
from pararealize.tracing.copying import detached_results

RESERVED = ("coarse", "guess")
#: What the network and the original share, so that the hooks of one run in the other.
STATE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook"),
)


@final
class ParallelNetwork(nn.Module):
    """A network whose depth runs as a schedule; call it, train it, save it like the original.

    Parameters, buffers and sub-modules have the original's names; coarse and guess networks are
    registered as ``coarse`` and ``guess``. Hooks on layers fire whenever a sweep evaluates them;
    hooks on containers whose ``forward`` was traced through do not.
    """

    _emission: Emission
    _lowered: fx.GraphModule | RankRunner | MultigridRunner | AdaptiveRunner

    def __init__(self, emission: Emission) -> None:
        super().__init__()
        serial = emission.serial
        _adopt(self, serial)
        for prefix, registry in emission.registries.items():
            if registry:
                self._modules[prefix] = registry.train(serial.training)
        object.__setattr__(self, "_emission", emission)
        object.__setattr__(self, "_lowered", self._lower())
        self._watched: tuple[tuple[Any, Any], ...] = ()
        self._jumps: Jumps | None = None
        self.training = serial.training

    def _lower(self) -> fx.GraphModule | RankRunner | MultigridRunner | AdaptiveRunner:
        e = self._emission
        if e.share is not None:
            return execution(e, e.share, self)
        if e.iteration is not None:
            return solution(e, e.iteration, self)
        plain = lower(e.schedule, e.arguments, e.propagators)
        if e.dial is None:
            return plain
        stages = lower_stages(self.stages, e.arguments, e.propagators)
        return AdaptiveRunner(stages, e.dial, binder(e.arguments), plain)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer, through the schedule.

        Raises:
            ShapeError: an input does not fit the first layer.

        """
        emission = self._emission
        if not torch.compiler.is_compiling():
            _check(emission.arguments, emission.expectations, args, kwargs)
        masks = self._masks()
        for mask in masks:
            mask.begin_step()
        output, watched = self._run(*args, **kwargs)
        if emission.own_streams:
            torch.rand(())  # moves on, so that the next step's coarse masks are new ones
        if not torch.compiler.is_compiling():
            self._warn()
            self._watched = tuple((detached(a), detached(b)) for a, b in watched)
        return output

    def _warn(self) -> None:
        """Say so where answers are doubtful, if that was asked for."""
        rule = self._emission.rule
        if not isinstance(rule, Certified) or rule.certificate.above != "warn":
            return
        doubts = rule.verdict.doubtful
        if any(doubts):
            warnings.warn(
                f"{sum(doubts)} of {len(doubts)} answers may differ from the serial network's: "
                f"estimated errors up to {max(rule.verdict.estimates):.1e}, limit "
                f"{rule.certificate.limit:.1e}. net.report says which; above='exact' makes the "
                "network sweep on instead.",
                CertificateWarning,
                stacklevel=4,
            )

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """What decides by what it sees; ``torch.compile`` takes the cycles or sweeps asked for."""
        lowered = self._lowered
        if isinstance(lowered, (MultigridRunner, AdaptiveRunner)) and torch.compiler.is_compiling():
            return lowered.plain(*args, **kwargs)
        jumps = None if torch.compiler.is_compiling() else self._jumps
        if jumps is None:
            return lowered(*args, **kwargs)
        jumps.forget()
        if isinstance(lowered, (AdaptiveRunner, RankRunner)):
            return lowered.watching(jumps, *args, **kwargs)
        output, watched = lowered(*args, **kwargs)
        batch = batch_of(binder(self._emission.arguments)(*args, **kwargs))
        seen = [(w, *pair) for w, pair in zip(self._watches, watched, strict=True)]
        jumps.keep(summed(seen, batch) / number_of(self._watches), output)
        return output, watched

    @contextmanager
    def jumps(self) -> Iterator[Jumps]:
        """A block in which the jumps of a call can be differentiated, to keep them small.

        ``with net.jumps() as jumps: loss = criterion(net(x), y) + 0.1 * jumps.penalty()``: fine and
        coarse networks are then trained together so that few sweeps stay enough. On ranks, all call
        the network in such a block, and run one backward pass through loss and penalty.

        Raises:
            MethodError: an MGRIT network has residuals, and no jumps that training could lessen.

        """
        if self._emission.iteration is not None:
            raise MethodError(
                "jumps are those of parareal: train MGRIT networks with more cycles, or with a "
                "tolerance, MGRIT(forward_cycles=2, tolerance=1e-3)."
            )
        before, self._jumps = self._jumps, Jumps()
        try:
            yield self._jumps
        finally:
            self._jumps = before

    def _masks(self) -> list[Masks]:
        return [mask for p in self._emission.propagators.values() for mask in p.step_masks()]

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
        return (self._emission.schedule, *self._emission.later)

    @property
    def rule(self) -> Rule | None:
        """What decides how many of the stages run; without one, the first alone does.

        Another one can be set, on ranks on all of them.
        """
        return self._emission.rule

    @rule.setter
    def rule(self, rule: Rule | None) -> None:
        object.__setattr__(self, "_emission", replace(self._emission, rule=rule))
        object.__setattr__(self, "_lowered", self._lower())

    @property
    def adjoint(self) -> Schedule | None:
        """For MGRIT, the tasks of one backward pass; else autograd runs the schedule backward."""
        iteration = self._emission.iteration
        return iteration.adjoint[0].schedule if iteration is not None else None

    @property
    def graph_module(self) -> fx.GraphModule:
        """The schedule as a ``torch.fx.GraphModule``, one node for each task.

        Raises:
            RankError: the network lies on several ranks, whose tasks are in ``schedule``.

        """
        if isinstance(self._lowered, RankRunner):
            raise RankError(
                "a network on ranks is no single graph: print(net.code) shows this rank's tasks, "
                "print(net.schedule) those of all."
            )
        lowered = self._lowered
        return lowered if isinstance(lowered, fx.GraphModule) else lowered.plain

    @property
    def code(self) -> str:
        """The schedule as Python code, or this rank's tasks."""
        if isinstance(self._lowered, RankRunner):
            return "\n".join(map(str, self._lowered.tasks))
        if isinstance(self._lowered, AdaptiveRunner):
            return "\n".join(str(stage.graph.code) for stage in self._lowered.stages)
        return str(self.graph_module.code)

    @property
    def propagators(self) -> Mapping[str, Propagator]:
        """What the tasks apply, by name: ``fine.2`` is the second subnetwork as a module."""
        return self._emission.propagators

    def recording(self) -> AbstractContextManager[Recorder]:
        """Record, in the block, when this rank does what: forward tasks and their adjoints.

        Raises:
            RankError: the network does not lie on ranks.

        """
        if not isinstance(self._lowered, RankRunner):
            raise RankError(
                "only networks on ranks record timelines; torch.profiler shows what one process "
                "does: pararealize(model, n, comm=MPI.COMM_WORLD)."
            )
        return self._lowered.recording()

    @property
    def solver(self) -> MultigridSolver | None:
        """What goes through MGRIT's cycles."""
        found: MultigridSolver | None = getattr(self._lowered, "solver", None)
        return found

    @property
    def report(self) -> Report:
        """Jump norms by interface and sweep, of the last call; those that this rank corrects."""
        if self.solver is not None:
            return Report(*self.solver.reported())
        swept: SweepRecord | None = getattr(self._lowered, "swept", None)
        if swept is not None:
            return self._certified(swept.report())
        seen = zip(self._watches, self._watched, strict=False)
        slices = by_jump((watch, *pair) for watch, pair in seen)
        jumps = tuple(_jump(sweep, j, pairs) for (sweep, j), pairs in slices.items())
        return Report(jumps, sweeps=self.schedule.sweeps)

    @property
    def _watches(self) -> list[Watch]:
        """Of the schedule, in the order of the pairs that a call sees here."""
        share, schedule = self._emission.share, self.schedule
        ranks = range(schedule.ranks) if share is None else (share.transport.rank,)
        return [watch for rank in ranks for watch in watched_on((schedule,), rank)]

    def _certified(self, report: Report) -> Report:
        """With estimated errors, and the answers that are doubtful, where there is a certificate.

        Answers that were made exact are not.
        """
        rule = self._emission.rule
        if not isinstance(rule, Certified):
            return report
        found, exact = rule.verdict, report.sweeps >= self.plan.n
        errors = (0.0,) * len(found.estimates) if exact else found.estimates
        doubts = (False,) * len(found.doubtful) if exact else found.doubtful
        return replace(report, errors=errors, doubtful=doubts)

    def explain(self) -> str:
        """Parameters, cost, memory and messages of every subnetwork, and the predicted speedup."""
        return explain(self.plan)

    def calibrate(
        self, data: Any, *, progress: bool | Progress = True, **options: Any
    ) -> Calibration:
        """Fit coarse networks to the trained weights, which stay as they are, and choose sweeps.

        The serial network runs once over the data; each coarse network is fitted to its subnetwork
        on the states kept and on guesses near them, each guess network to its state; with
        ``Parareal(coarse="auto")`` kinds of coarse propagators are compared. Optimisers made before
        do not know the new coarse weights. On ranks, all call it with the same data, and each fits
        its own.

        Args:
            data: inputs without labels: one tensor ``[samples, …]``, a ``Dataset``, or an iterable
                of batches (a tensor, a tuple of which the first elements are the inputs, or a
                dictionary).
            progress: whether lines on the standard error stream say how far it is, or a
                :class:`Progress` that does.
            options: those of :class:`~pararealize.Fitting`: ``agreement=0.995`` chooses the
                fastest kind and number of sweeps that agree as often with the serial network on
                held-out data; ``epochs=``, ``steps=``, ``tolerance=``, ``batch=``, …

        Raises:
            CalibrationError: the data do not fit, or the agreement is not reached; the network is
                then what it was.
            MethodError: an option has a value that it cannot take.

        """
        emission = self._emission
        if emission.calibrate is None:
            raise MethodError("this network was made without a compiler, and cannot be calibrated.")
        alone = emission.share is None or emission.share.transport.rank == 0
        given = isinstance(progress, Progress) and alone
        shown = progress if given else Lines(shown=bool(progress) and alone)
        self._become(emission.calibrate(self, emission, data, Fitting(**options), shown))
        calibration = self.plan.calibration
        assert calibration is not None
        return calibration

    def _become(self, emission: Emission) -> None:
        """Be another emission of the same network."""
        for prefix, registry in emission.registries.items():
            self._modules.pop(prefix, None)
            if registry:
                self._modules[prefix] = registry.train(self.training)
        object.__setattr__(self, "_emission", emission)
        object.__setattr__(self, "_lowered", self._lower())
        self._watched = ()

    def recoarsen(self, *args: Any, **kwargs: Any) -> None:
        """Choose MGRIT's coarse propagators for today's weights, and fit them, in place.

        ``coarse="auto"`` measures one-interval errors and costs again, ``"fitted"`` fits again; the
        other kinds follow the weights by themselves. The arguments are the inputs of one call to
        measure on; without them, random ones of the shapes compiled for. ``plan`` and
        ``explain()`` tell what was chosen. On ranks, all call it, and decide alike.

        Raises:
            MethodError: the network is not multigrid's, or its coarse networks are the user's own.
            RankError: on ranks, coarse steps join slices.
            ShapeError: the inputs are not the network's arguments.

        """
        before = self.solver
        emission = recoarsened(self._emission, self.to_serial(), args, kwargs)
        object.__setattr__(self, "_emission", emission)
        object.__setattr__(self, "_lowered", self._lower())
        if before is not None and self.solver is not None:
            self.solver.tally = before.tally

    def to_serial(self) -> nn.Module:
        """A copy of the original, of its own class, with today's weights.

        On ranks, all call it, and each gets the whole network.
        """
        emission = self._emission
        if emission.share is not None:
            serial = collect_serial(emission.share, emission.serial, RESERVED)
        else:
            serial = copy.deepcopy(emission.serial, {**detached_results(emission.serial)})
            for prefix in RESERVED:
                if prefix in emission.registries:
                    serial._modules.pop(prefix, None)
        serial.training = self.training  # its parts have the modes that they have here
        return serial

    def save(self, path: str | Path, *, consolidated: bool = False) -> None:
        """Write weights (safetensors) and plan (JSON) to the folder ``path``, atomically.

        On ranks, all call it, and each writes a file of its own weights, or rank 0 one file of all
        weights if ``consolidated``; either is read back on any number of ranks.

        Raises:
            StorageError: the folder cannot be written; what was there is left whole.

        """
        share = self._emission.share
        transport = None if share is None else share.transport
        write(Path(path), self.state_dict(), self.plan, transport, consolidated=consolidated)

    @property
    def names(self) -> frozenset[str]:
        """Names in the ``state_dict`` of the whole network, also those that other ranks hold."""
        share = self._emission.share
        return frozenset(self.state_dict()) if share is None else share.names

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a checkpoint of this network, or of the serial one: coarse networks then stay."""
        share = self._emission.share
        if share is not None:
            elsewhere = self.names - set(self.state_dict())
            state_dict = {name: v for name, v in state_dict.items() if name not in elsewhere}
        if not any(is_added(name) for name in state_dict):
            own = {name: v for name, v in self.state_dict().items() if is_added(name)}
            state_dict = {**own, **state_dict}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Clip gradients by their norm over the whole network, and return that norm.

        As ``torch.nn.utils.clip_grad_norm_``, which on ranks would see one rank's parameters only.
        """
        parameters = [p for p in self.parameters() if p.grad is not None]
        counted = set(map(id, self._counted()))
        grads = [p.grad for p in parameters if p.grad is not None and id(p) in counted]
        norm = nn.utils.get_total_norm(grads, norm_type)
        if self._emission.share is not None:
            norm = total_norm(norm, norm_type, self._emission.share.transport)
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def _counted(self) -> list[nn.Parameter]:
        """Parameters, but not those that an earlier rank holds as well."""
        share = self._emission.share
        others = share.ties if share is not None else ()
        rank = share.transport.rank if share is not None else 0
        skip = {id(self.get_parameter(tie.name)) for tie in others if tie.ranks[0] != rank}
        return [p for p in self.parameters() if id(p) not in skip]

    def train(self, mode: bool = True) -> Self:
        """Set training mode, of the original's root as well."""
        super().train(mode)
        self._emission.serial.training = mode
        return self

    def extra_repr(self) -> str:
        """The plan in a line."""
        return f"n={self.plan.n}, schedule={len(self.schedule.tasks)} tasks"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but generated code and the last call's states."""
        hidden = {"_lowered": None, "_watched": (), "_jumps": None}
        return {**self.__dict__, **hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Generate the code again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_lowered", self._lower())


def is_added(name: str) -> bool:
    """Whether a parameter belongs to a coarse or guess network."""
    return name.split(".", 1)[0] in RESERVED


def _adopt(network: nn.Module, serial: nn.Module) -> None:
    """Make both modules hold the same dictionaries of parameters, buffers, sub-modules and hooks.

    What is moved, loaded or replaced in one is so in the other, and names are the original's.

    Raises:
        TraceError: the model uses a reserved name.

    """
    own = {**serial._modules, **serial._parameters, **serial._buffers}
    taken = [name for name in RESERVED if name in own]
    if taken:
        raise TraceError(
            f"{type(serial).__name__} has something called {taken[0]!r}, which is where coarse "
            f"and guess networks are kept: rename self.{taken[0]}."
        )
    for registry in (*STATE, *HOOKS):
        network.__dict__[registry] = serial.__dict__[registry]


def _jump(sweep: int, interface: int, slices: list[tuple[Any, Any]]) -> Jump:
    """The jump over all slices of the batch."""
    size = norm([combine("+-", new, old) for new, old in slices])
    scale = norm([new for new, _ in slices])
    return Jump(sweep, interface, size, size / scale if scale else 0.0)


def _check(
    arguments: tuple[Operation, ...],
    expectations: Mapping[str, Expectation],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    given = {**dict(zip((a.target for a in arguments), args, strict=False)), **kwargs}
    for argument in arguments:
        if FIXED in argument.kwargs and argument.target in given:
            _check_fixed(argument.target, given[argument.target], argument.kwargs[FIXED])
    for name, expected in expectations.items():
        value = given.get(name)
        problem = expected.mismatch(tuple(value.shape)) if isinstance(value, Tensor) else None
        if problem and isinstance(value, Tensor):
            raise ShapeError(
                f"the input {name!r} has shape {list(value.shape)}, and {problem}: give one with "
                f"{expected.size} on axis {expected.axis}."
            )


def _check_fixed(name: str, found: Any, fixed: Any) -> None:
    same = found is fixed or (type(found) is type(fixed) and not isinstance(found, Tensor))
    if same and found == fixed:
        return
    if fixed is None:
        raise ShapeError(
            f"the input {name!r} was not given when the network was compiled, so what it does is "
            "not part of it: write pararealize(model, n, example_inputs=..., "
            f"example_kwargs={{{name!r}: {name}}})."
        )
    raise ShapeError(
        f"the input {name!r} is {fixed!r} in this network, which was compiled with "
        f"concrete_args={{{name!r}: {fixed!r}}}: compile another one for {found!r:.60}."
    )
