"""A traced network as plain data: operations in the order they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch.fx.node import map_aggregate

Kind = (
    Literal["input", "attribute", "training", "context"]
    | Literal["module", "function", "method", "network", "output"]
)

#: Operations that any segment may repeat for itself: they are no part of the state.
AMBIENT: frozenset[str] = frozenset({"input", "attribute", "training", "context"})
#: Among an input's ``kwargs``, the one value that it was traced with: ``None`` where not given.
FIXED = "fixed"


@dataclass(frozen=True)
class Ref:
    """A use of another operation's value."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class CheckpointRegion:
    """One call of ``torch.utils.checkpoint``: a stretch of operations that the backward repeats.

    ``preserve`` says whether with the same random numbers.
    """

    number: int
    preserve: bool


@dataclass(frozen=True)
class Operation:
    """One step of the network.

    ``kind`` says how ``target`` is meant: an argument's name, an attribute's or a module's path,
    the path of the module whose ``training`` flag is read, a function, or a method's name.
    A function of kind ``network`` or ``context`` takes the whole network before its arguments;
    ``context`` is what any segment may compute again from the inputs.
    ``scope`` is the path of the innermost module whose ``forward`` wrote the operation, ``draws``
    says that it was seen to draw random numbers, ``recomputed`` is the region in which the backward
    pass computes its value again, instead of keeping it, and ``writes`` are the values that it was
    seen to write on, besides what its name says.
    """

    name: str
    kind: Kind
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    draws: bool = False
    recomputed: CheckpointRegion | None = None
    writes: tuple[str, ...] = ()

    @cached_property
    def uses(self) -> tuple[str, ...]:
        """Names of the values this operation reads, in order of first use."""
        found: dict[str, None] = {}
        self.map_refs(lambda ref: found.setdefault(ref.name))
        return tuple(found)

    def map_refs(self, change: Callable[[Ref], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with ``change`` applied to every reference in them."""

        def visit(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Ref) else leaf

        arguments: Any = map_aggregate((self.args, dict(self.kwargs)), visit)
        return tuple(arguments[0]), dict(arguments[1])

    def renamed(self, names: Mapping[str, str]) -> Operation:
        """The operation reading other values where ``names`` says so."""
        args, kwargs = self.map_refs(lambda ref: Ref(names.get(ref.name, ref.name)))
        writes = tuple(names.get(name, name) for name in self.writes)
        return replace(self, args=args, kwargs=kwargs, writes=writes)

    @property
    def call(self) -> str:
        """The name of the function or method, or the path, that it calls."""
        return str(getattr(self.target, "__name__", self.target))

    @property
    def describe(self) -> str:
        """What a reader of an error message recognises: the module's path, or the call."""
        inside = self.scope and self.kind != "module"
        return f"{self.call} in {self.scope}" if inside else self.call


@dataclass(frozen=True)
class Program:
    """The operations of one mode (train or eval), in single-assignment form."""

    operations: tuple[Operation, ...]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of every value's operation."""
        return {operation.name: i for i, operation in enumerate(self.operations)}

    def __getitem__(self, name: str) -> Operation:
        return self.operations[self.index[name]]

    @cached_property
    def ambient(self) -> tuple[Operation, ...]:
        """The operations that any segment may repeat for itself."""
        return tuple(o for o in self.operations if o.kind in AMBIENT)

    @property
    def inputs(self) -> tuple[Operation, ...]:
        """The network's arguments."""
        return tuple(o for o in self.ambient if o.kind == "input")


@dataclass(frozen=True)
class Segment:
    """A stretch of a program as a function: (state, inputs) → next state.

    ``state`` names the values it takes, ``inputs`` the network's arguments it reads as well
    (every subnetwork is called with the same ones), ``results`` the values it gives; ``None``
    means that it ends the network and gives whatever the network returns. ``features`` are values
    that depend on the inputs alone and were computed before; they come after the state.
    """

    operations: tuple[Operation, ...]
    state: tuple[str, ...]
    inputs: tuple[str, ...]
    results: tuple[str, ...] | None
    features: tuple[str, ...] = ()

    @property
    def own_operations(self) -> tuple[Operation, ...]:
        """Its operations but the ambient ones."""
        return tuple(o for o in self.operations if o.kind not in AMBIENT)

    def rewritten(self, operations: Iterable[Operation], names: Mapping[str, str]) -> Segment:
        """Other operations in place of its own; ``names`` says what stands for its results."""
        results = self.results and tuple(names.get(name, name) for name in self.results)
        return replace(self, operations=tuple(operations), results=results)


def cut_segment(
    program: Program, start: int, stop: int, state: tuple[str, ...], results: tuple[str, ...] | None
) -> Segment:
    """The operations ``start`` … ``stop - 1`` with the ambient ones they need."""
    own = [o for o in program.operations[start:stop] if o.kind not in AMBIENT]
    inputs = (o.name for o in program.inputs)
    return with_ambient(program.ambient, inputs, own, state, results)


def with_ambient(
    every: Sequence[Operation],
    inputs: Iterable[str],
    own: Sequence[Operation],
    state: tuple[str, ...],
    results: tuple[str, ...] | None,
) -> Segment:
    """A segment of its ``own`` operations with those inputs and ambient operations it reads."""
    read = {name for operation in own for name in operation.uses} | set(results or ())
    for operation in reversed(every):
        if operation.kind == "context" and operation.name in read:
            read.update(operation.uses)
    kinds = AMBIENT - {"input"}
    ambient = (o for o in every if o.name in read and o.kind in kinds)
    return Segment((*ambient, *own), state, tuple(n for n in inputs if n in read), results)
