"""The plan: what was decided for a network, in numbers, printable and saved as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pararealize.errors import MethodError, TraceError
from pararealize.ir.calibration import Calibration
from pararealize.ir.chain import Cost, TensorSpec
from pararealize.ir.groups import Group
from pararealize.ir.methods import Method
from pararealize.ir.options import is_number, shown
from pararealize.ir.plan_checks import check_plan
from pararealize.ir.sharing import Sharing

#: Of saved folders: 2 since weights may lie in several files, 4 since kinds of coarse propagators
#: have their parameters as fields.
FORMAT = 4

#: Most seconds that a launch or a message may begin with.
LONGEST = 1e6

#: Formats of folders that can be read.
READABLE = (3, 4)


@dataclass(frozen=True)
class Machine:
    """A device and its links, as predictions see them.

    An operation takes max(flops / ``flops_per_second``, bytes / ``bytes_per_second``) plus
    ``launch_seconds``; a message ``link_latency`` seconds plus bytes / ``link_bandwidth``.
    Defaults are one CPU core and shared-memory messages; only ratios of them matter for a cut.
    There is one device for each subnetwork or rank, or, with ``sharing``, one for all of them.

    Raises:
        MethodError: a rate is not positive, or a time negative.

    """

    flops_per_second: float = 4e10
    bytes_per_second: float = 8e9
    launch_seconds: float = 1e-5
    link_latency: float = 2e-5
    link_bandwidth: float = 4e9
    sharing: Sharing | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sharing, (Sharing, type(None))):
            raise MethodError(f"Machine(sharing={shown(self.sharing)}): expected a Sharing().")
        for name in (f.name for f in fields(self) if f.name != "sharing"):
            value = getattr(self, name)
            is_time = name in {"launch_seconds", "link_latency"}
            most = LONGEST if is_time else math.inf
            right = is_number(value) and (0 < value <= most or (is_time and value == 0))
            if not right:
                least = f"0 to {LONGEST:.0f} seconds" if is_time else "more than 0"
                raise MethodError(f"Machine({name}={shown(value)}): expected {least}.")

    def cost(self, flops: float, moved: float, *, launches: int) -> Cost:
        """Cost of ``launches`` operations that do ``flops`` and move ``moved`` bytes."""
        if not launches:
            return Cost()
        busy = max(flops / self.flops_per_second, moved / self.bytes_per_second)
        return Cost(flops, moved, launches, busy + launches * self.launch_seconds)

    def message(self, size: float) -> float:
        """Seconds that a message of ``size`` bytes takes."""
        return self.link_latency + size / self.link_bandwidth


@dataclass(frozen=True)
class Piece:
    """One subnetwork: where it lies, what it costs, what corrects it.

    ``layers`` names its first and last layer; ``after`` the operation and ``module`` the module
    whose output is its interface (empty for the last); costs are in seconds, sizes in bytes.
    ``error`` is the measured error of a coarse propagator that was chosen by measurement;
    ``coarse`` says what it is in words, ``coarse_kind`` and ``coarse_options`` as data.
    """

    index: int
    layers: tuple[str, str]
    depth: int
    after: str
    module: str
    state: tuple[str, ...]
    interface_bytes: int
    parameters: int
    memory: int
    flops: float
    seconds: float
    coarse: str = "none"
    coarse_parameters: int = 0
    coarse_seconds: float = 0.0
    coarse_launches: int = 0
    guess: str = "none"
    guess_parameters: int = 0
    guess_seconds: float = 0.0
    error: float | None = None
    coarse_kind: str = ""
    coarse_options: Mapping[str, Any] = field(default_factory=dict)
    launches: int = 0
    guess_launches: int = 0


@dataclass(frozen=True)
class Tracing:
    """How a network was traced: what was called whole, which arguments have one value.

    ``blocks`` names the lists of blocks around which the network's own forward runs; where they
    were found rather than asked for, ``untraced`` says why.
    ``found`` says of the modules that could not be traced why, ``unverified`` why the network was
    not compared with the original, where it was not.

    Raises:
        TraceError: an argument's value is no number, string or flag.

    """

    leaf_modules: tuple[str, ...] = ()
    concrete_args: Mapping[str, Any] = field(default_factory=dict)
    blocks: str = ""
    found: Mapping[str, str] = field(default_factory=dict)
    unverified: str = ""
    untraced: str = ""

    def __post_init__(self) -> None:
        for name, value in self.concrete_args.items():
            if not isinstance(value, (int, float, str, type(None))):
                raise TraceError(
                    f"concrete_args={{{name!r}: {type(value).__name__}}}: expected a number, a "
                    "string, True, False or None; a tensor is an input: example_kwargs="
                    f"{{{name!r}: {name}}}."
                )


@dataclass(frozen=True)
class Stack:
    """Slices advanced as one batch over depth; ``speedup`` is measured against one by one.

    Slice 1, which begins with layers that others have not, joins them from the value ``entry`` on.
    """

    slices: tuple[int, ...]
    speedup: float
    entry: str = ""


@dataclass(frozen=True)
class Plan:
    """The decisions and their predicted worth.

    ``serial_seconds`` and ``parallel_seconds`` are one forward evaluation on one device and on
    ``ranks`` of them (0: one a subnetwork); ``critical_coarse_seconds`` is what of the latter
    goes to guesses, coarse propagators and combinations of states. ``chunks`` is the number of
    slices of the batch in which corrections travel, ``interfaces`` that of the positions where one
    tensor alone carries the network's state. ``levels`` are the seconds of multigrid's coarse
    propagators by name, ``stacks`` slices that run as one batch on one device;
    ``measured_speedup`` is that of a whole step there, where it was measured to choose.
    ``fitted`` are weights in multigrid's coarse propagators that were fitted to the network, by the
    propagator's name and an interval's first layer.
    ``calibration`` is what :meth:`ParallelNetwork.calibrate` found; seconds are then measured.
    ``groups`` are those of parareal's corrections in levels.
    """

    model: str
    pieces: tuple[Piece, ...]
    head: str
    inputs: dict[str, str]
    method: Method
    machine: Machine
    serial_seconds: float
    parallel_seconds: float
    critical_coarse_seconds: float
    head_seconds: float = 0.0
    parameters: int = 0
    ranks: int = 0
    chunks: int = 1
    interfaces: int = 0
    tracing: Tracing = field(default_factory=Tracing)
    levels: dict[str, float] = field(default_factory=dict)
    stacks: tuple[Stack, ...] = ()
    measured_speedup: float = 0.0
    fitted: dict[str, dict[int, tuple[float, ...]]] = field(default_factory=dict)
    calibration: Calibration | None = None
    head_launches: int = 0
    groups: tuple[Group, ...] = ()
    format: int = FORMAT

    @property
    def n(self) -> int:
        """Number of subnetworks."""
        return len(self.pieces)

    @property
    def devices(self) -> int:
        """Devices that the prediction assumes: as many as ranks, or one a subnetwork."""
        return self.ranks or self.n

    @property
    def cuts(self) -> tuple[str, ...]:
        """Operations after which the network is cut, as ``interfaces=`` takes them."""
        return tuple(f"%{piece.after}" for piece in self.pieces[:-1])

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Shapes and dtypes of the inputs that are tensors."""
        given = {name: text for name, text in self.inputs.items() if text.startswith("[")}
        return {name: TensorSpec.parse(text) for name, text in given.items()}

    @property
    def speedup(self) -> float:
        """Predicted time of the serial network over that of the parallel one."""
        return self.serial_seconds / self.parallel_seconds if self.parallel_seconds else 1.0

    @property
    def added_parameters(self) -> int:
        """Parameters of all coarse and guess networks."""
        groups = sum(group.coarse_parameters for group in self.groups)
        return groups + sum(p.coarse_parameters + p.guess_parameters for p in self.pieces)

    @property
    def coarse_share(self) -> float:
        """Coarse seconds on the critical path, relative to the heaviest subnetwork."""
        return self.critical_coarse_seconds / max(piece.seconds for piece in self.pieces)

    @property
    def verdict(self) -> str:
        """In a sentence, whether it pays."""
        times = f"{self.serial_seconds * 1e3:.3g} ms serial, {self.parallel_seconds * 1e3:.3g} ms"
        if self.n == 1:
            return "n = 1 is the serial network."
        shared = self.machine.sharing is not None
        where = "one device, both captured in a graph" if shared else f"{self.devices} devices"
        if self.speedup > 1:
            return f"Predicted {self.speedup:.2f}× faster than serial on {where} ({times})."
        small = "its layers are too small for the messages and corrections between them"
        small = (
            "its kernels fill the device, or corrections take what it gains" if shared else small
        )
        exact = self.critical_coarse_seconds == 0
        reason = "as many sweeps as subnetworks are the serial network" if exact else small
        return (
            f"This will LOSE: predicted {self.speedup:.2f}× the speed of serial on {where} "
            f"({times}), because {reason}. Use fewer subnetworks, or n=1."
        )

    def to_json(self) -> str:
        """The plan as JSON text."""
        from pararealize.ir.serialise import values_of  # noqa: PLC0415  cattrs is slow to import

        return json.dumps(values_of(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan read back from :meth:`to_json`.

        Raises:
            ValueError, TypeError, KeyError: the text is no plan.

        """
        from pararealize.ir.serialise import read  # noqa: PLC0415

        plan = replace(read(cls, json.loads(text)), format=FORMAT)
        check_plan(plan)
        return plan

    def __str__(self) -> str:
        lines = [f"{self.model} in {self.n} subnetworks, predicted speedup {self.speedup:.2f}×"]
        for p in self.pieces:
            span = p.layers[0] if p.layers[0] == p.layers[1] else f"{p.layers[0]} … {p.layers[1]}"
            lines.append(
                f"  {p.index}: {span}  {p.seconds * 1e3:.3f} ms, {p.parameters:,} parameters, "
                f"coarse {p.coarse}, guess {p.guess}"
            )
        if self.head:
            lines.append(f"  head: {self.head}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from pararealize.explain.notebook import plan_html  # noqa: PLC0415  only where it is shown

        return plan_html(self)
