"""Recomputed: operations whose values are computed again in the backward pass.

Where a forward keeps memory low by ``torch.utils.checkpoint``, its operations stay under one: those
of one region that stand together in a segment, so that an interface may lie within a region.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pararealize.ir.program import AMBIENT, Operation, Ref, Segment
from pararealize.propagators.propagator import with_state
from pararealize.runtime.effects.statistics import attributes_kept, buffer_copies


@final
@dataclass(frozen=True)
class Recomputed:
    """A function of the whole network that keeps its arguments, and no value between.

    Attributes:
        function: the operations, as ``(root, *arguments)``.
        modules: paths of the modules that they call.
        preserve: whether the same random numbers are drawn again.

    """

    function: Callable[..., Any]
    modules: tuple[str, ...]
    preserve: bool

    def __call__(self, root: nn.Module, *values: Any) -> Any:
        """The results of the operations."""
        run = partial(self.function, root)
        if not torch.is_grad_enabled():
            return run(*values)
        apart = partial(checkpoint, use_reentrant=False, preserve_rng_state=self.preserve)
        if torch.compiler.is_compiling():
            return apart(run, *values)
        again = _Again(with_state(map(root.get_submodule, self.modules)))
        return apart(run, *values, context_fn=lambda: (nullcontext(), again))


@final
class _Again:
    """Around the second run, which works on the buffers of the first, and any later one.

    Statistics move as under torch's own checkpoint: twice where those of the first run stayed, on
    the copies that it wrote on where they did not. Where a backward pass is repeated they stay.

    Args:
        parts: modules that hold state, as the first run is about to find them.

    """

    def __init__(self, parts: list[nn.Module]) -> None:
        self.parts, self.buffers = parts, [dict(part._buffers) for part in parts]
        self.moves, self.inside = True, ExitStack()

    def __enter__(self) -> None:
        self.inside = ExitStack()
        self.inside.enter_context(attributes_kept(self.parts))
        self.inside.enter_context(_with_buffers(self.parts, self.buffers))
        if not self.moves:
            self.inside.enter_context(buffer_copies(self.parts))
        self.moves = False

    def __exit__(self, *error: object) -> None:
        self.inside.close()


@contextmanager
def _with_buffers(
    parts: list[nn.Module], buffers: list[dict[str, Tensor | None]]
) -> Iterator[None]:
    present = [dict(part._buffers) for part in parts]
    for part, kept in zip(parts, buffers, strict=True):
        part._buffers.update(kept)
    try:
        yield
    finally:
        for part, now in zip(parts, present, strict=True):
            part._buffers.update(now)


def with_regions(
    segment: Segment, compiled: Callable[[Segment], Callable[..., Any]]
) -> tuple[Operation, ...]:
    """The segment's operations, those of one region that stand together as one."""
    if all(operation.recomputed is None for operation in segment.operations):
        return segment.operations
    ambient = [o for o in segment.operations if o.kind in AMBIENT]
    found = list(ambient)
    for region, run in groupby(segment.own_operations, key=lambda o: o.recomputed):
        operations = tuple(run)
        ends = operations[-1].kind == "output"
        parted = region is None or ends
        found += operations if parted else _region(segment, operations, compiled)
    return tuple(found)


def _region(
    segment: Segment,
    run: tuple[Operation, ...],
    compiled: Callable[[Segment], Callable[..., Any]],
) -> Iterator[Operation]:
    """One operation for the run, and one for each of its values that is read elsewhere."""
    own = {operation.name for operation in run}
    names = [name for operation in run for name in operation.uses]
    # What the inputs alone decide is computed outside, where the inputs are.
    ambient = {o.name: o for o in segment.operations if o.kind in AMBIENT - {"context"}}
    read = tuple(n for n in dict.fromkeys(names) if n not in own and n not in ambient)
    later = {n for o in segment.operations if o.name not in own for n in o.uses}
    later |= set(segment.results or ())
    given = tuple(operation.name for operation in run if operation.name in later)
    inner = tuple(replace(o, recomputed=None) for o in run)
    before = tuple(ambient[n] for n in dict.fromkeys(names) if n in ambient)
    part = Segment((*before, *inner), read, (), given)
    modules = tuple(dict.fromkeys(o.target for o in run if o.kind == "module"))
    region = run[0].recomputed
    assert region is not None
    name = f"recomputed_{run[0].name}"
    target = Recomputed(compiled(part), modules, region.preserve)
    single = len(given) == 1
    yield Operation(given[0] if single else name, "network", target, tuple(map(Ref, read)))
    for i, result in enumerate(() if single else given):
        yield Operation(result, "function", operator.getitem, (Ref(name), i))
