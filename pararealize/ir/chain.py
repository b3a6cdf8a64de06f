"""The network as a chain of layers, its legal interfaces, and what it takes as inputs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from pararealize.ir.program import Operation, Program, Segment, cut_segment
from pararealize.ir.reading import Read

#: Most layers in a block that repeats, for instance residual, activation, residual, activation.
LONGEST = 6
#: Most numbers in an input that a saved plan may ask for.
MOST_NUMBERS = 2**31


@dataclass(frozen=True)
class Expectation:
    """How many axes an input has (0: any number), and the size of one of them."""

    rank: int
    axis: int
    size: int
    layer: str

    def mismatch(self, shape: tuple[int, ...]) -> str | None:
        """Why a tensor of this shape does not fit, or ``None``."""
        if self.rank and len(shape) not in {self.rank, self.rank - 1}:
            return f"{self.layer} takes {self.rank} axes"
        axis = self.axis if self.axis < 0 else self.axis + len(shape) - (self.rank or len(shape))
        if shape and shape[axis] != self.size:
            return f"{self.layer} takes {self.size} channels or features on axis {self.axis}"
        return None


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor, e.g. ``[batch, channels, height, width]``."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def bytes(self) -> int:
        """Memory it takes, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def differentiable(self) -> bool:
        """Whether it holds real or complex numbers."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    def __str__(self) -> str:
        return f"{list(self.shape)} {str(self.dtype).removeprefix('torch.')}"

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """The spec read back from its text.

        Raises:
            ValueError: the text says no shape and dtype.

        """
        shape, _, name = text.rpartition(" ")
        sizes, dtype = json.loads(shape), getattr(torch, name, None)
        counts = isinstance(sizes, list) and all(type(s) is int and s >= 0 for s in sizes)
        if not counts or math.prod(sizes) > MOST_NUMBERS or not isinstance(dtype, torch.dtype):
            raise ValueError(f"the shape and dtype {text!r:.40}")
        return cls(tuple(sizes), dtype)


State = tuple[TensorSpec, ...]


class Cost(NamedTuple):
    """What one evaluation takes: floating-point operations, bytes moved, kernel launches, seconds.

    ``seconds`` is predicted by a :class:`~pararealize.ir.plan.Machine` or measured. A tuple, as a
    cut adds hundreds of thousands of them.
    """

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        flops, moved, launches, seconds = self
        f, m, n, s = other
        return tuple.__new__(Cost, (flops + f, moved + m, launches + n, seconds + s))

    def __sub__(self, other: Cost) -> Cost:
        flops, moved, launches, seconds = self
        f, m, n, s = other
        return tuple.__new__(Cost, (flops - f, moved - m, launches - n, seconds - s))


@dataclass(frozen=True)
class Profile:
    """What every value of a program looks like and what it costs to compute it.

    ``specs`` maps a value to its :class:`TensorSpec`, or to ``None`` for what is no tensor;
    ``draws`` are the values for which random numbers are drawn, ``repeated`` what it costs each
    subnetwork to compute for itself what depends on the inputs alone, which is no layer's cost.
    """

    specs: Mapping[str, TensorSpec | None]
    costs: Mapping[str, Cost]
    inputs: Mapping[str, Any]
    draws: frozenset[str] = frozenset()
    repeated: Mapping[str, Cost] = field(default_factory=dict)

    def cost(self, operations: Iterable[Operation]) -> Cost:
        """Cost of operations one after another."""
        return sum((self.costs.get(o.name, Cost()) for o in operations), Cost())


@dataclass(frozen=True)
class Interface:
    """A position between two layers whose live values are known.

    ``values`` are the live values in the train program, ``eval_values`` the same ones in the eval
    program; ``stop`` and ``eval_stop`` are the positions just after the interface.
    """

    name: str
    module: str
    values: tuple[str, ...]
    eval_values: tuple[str, ...]
    stop: int
    eval_stop: int
    state: State

    @property
    def bytes(self) -> int:
        """Size of the state that crosses it, in bytes."""
        return sum(spec.bytes for spec in self.state)

    def __str__(self) -> str:
        return self.module or self.name


@dataclass(frozen=True)
class Layer:
    """The operations between two neighbouring interfaces.

    ``branch`` names φ(x) where the layer is residual, x + φ(x); ``signature`` is equal for layers
    that compute the same function of equal shapes with other weights. ``span`` names the call
    where the layer is a step in time that can span several. ``normalises`` says whether it scales
    states by what they are.
    """

    name: str
    start: int
    stop: int
    parameters: tuple[str, ...]
    cost: Cost
    preserves: bool
    branch: str | None
    signature: tuple[Any, ...]
    span: str | None = None
    normalises: bool = False

    @property
    def is_weighted(self) -> bool:
        """Whether it multiplies by weights: what a coarse network leaves out to be cheap."""
        return self.cost.flops > 0

    @property
    def steps(self) -> bool:
        """Whether it can stand for several."""
        return self.branch is not None or self.span is not None


@dataclass(frozen=True)
class Chain:
    """Layers in order; ``interfaces[i]`` lies between ``layers[i]`` and ``layers[i + 1]``.

    ``whole`` says of each module that could not be looked into why, ``infinite`` whether states may
    hold infinite values, ``unverified`` why the programs were not compared with the network, where
    they were not; ``reads`` are the attributes that they were made of, ``guards`` say for which
    shapes of inputs they were made, of train and of eval mode. ``blocks`` are the lists of blocks
    that were found where the network's own forward is ``untraced``, for the reason given.
    """

    train: Program
    eval: Program
    profile: Profile
    layers: tuple[Layer, ...]
    interfaces: tuple[Interface, ...]
    sizes: Mapping[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)
    infinite: bool = False
    unverified: str = ""
    reads: tuple[Read, ...] = ()
    entered: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    untraced: str = ""
    guards: tuple[Any, ...] = ()

    def segment(self, first: int, last: int, *, training: bool) -> Segment:
        """Layers ``first`` … ``last - 1`` as a function of the state before them."""
        program = self.train if training else self.eval
        (start, state), (stop, results) = (self._entry(i, training) for i in (first, last))
        return cut_segment(program, start, stop, state or (), results)

    def _entry(self, layer: int, training: bool) -> tuple[int, tuple[str, ...] | None]:
        """Where ``layer`` begins in a mode's program, and the values live there, if any are."""
        if layer == len(self.layers):
            return len(self.train if training else self.eval), None
        if layer == 0:
            return 0, ()
        i = self.interfaces[layer - 1]
        return (i.stop, i.values) if training else (i.eval_stop, i.eval_values)

    @cached_property
    def repeats(self) -> tuple[tuple[int, int], ...]:
        """For every layer the period and the count of the equal blocks that begin there.

        The period is the shortest of at most ``LONGEST`` layers with two blocks or more; where
        there is none, both are 0. A block has a layer that steps, and others without weights.
        """
        kinds: dict[Any, int] = {}
        keys = [kinds.setdefault((x.signature, x.steps), len(kinds)) for x in self.layers]
        fits = [x.preserves and (x.steps or not x.is_weighted) for x in self.layers]
        found = [(0, 0)] * len(keys)
        for period in range(LONGEST, 0, -1):
            equal = 0  # layers from i on that are like those one period later
            for i in range(len(keys) - period - 1, -1, -1):
                same = fits[i] and fits[i + period] and keys[i] == keys[i + period]
                equal = equal + 1 if same else 0
                if equal >= period and any(x.steps for x in self.layers[i : i + period]):
                    found[i] = (period, 1 + equal // period)
        return tuple(found)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """For every layer, and past the last, the first from there on at which blocks repeat."""
        found = [len(self.layers)]
        for i in range(len(self.layers) - 1, -1, -1):
            found.append(i if self.repeats[i][0] else found[-1])
        return tuple(reversed(found))

    def state(self, layer: int) -> State:
        """Specs of the state before ``layer``; empty before the first and after the last."""
        return self.interfaces[layer - 1].state if 0 < layer < len(self.layers) else ()

    def cost(self, first: int, last: int) -> Cost:
        """Cost of the layers ``first`` … ``last - 1``."""
        return sum((layer.cost for layer in self.layers[first:last]), Cost())


@dataclass(frozen=True)
class Partition:
    """A chain cut into subnetworks: piece j holds layers ``bounds[j-1]`` … ``bounds[j] - 1``.

    The layers from ``bounds[-1]`` on are the head h, applied to the corrected last state.
    """

    chain: Chain
    bounds: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of subnetworks."""
        return len(self.bounds) - 1

    @property
    def has_head(self) -> bool:
        """Whether layers follow the last subnetwork."""
        return self.bounds[-1] < len(self.chain.layers)

    def piece(self, j: int) -> tuple[int, int]:
        """First layer of subnetwork j (counted from 1) and the one after its last."""
        return self.bounds[j - 1], self.bounds[j]

    def merged(self, points: tuple[int, ...]) -> Partition:
        """The chain cut at some of the interfaces only, by number, and at both ends."""
        return Partition(self.chain, tuple(self.bounds[point] for point in points))

    def interface(self, j: int) -> Interface:
        """The interface after subnetwork j."""
        return self.chain.interfaces[self.bounds[j] - 1]
