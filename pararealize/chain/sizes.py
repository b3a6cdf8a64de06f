"""Sizes: what a network reads of shapes is found again where it is used, and is no state.

    h = stem(x);  B, N, C = h.shape;  …  layers  …;  y.reshape(B, H, W, C)

A subnetwork that begins between the two finds B by the shapes of the network's inputs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pararealize.ir.chain import Profile
from pararealize.ir.program import AMBIENT, FIXED, Operation, Program, Ref
from pararealize.propagators.repeatable import Repeatable
from pararealize.propagators.shape_table import ShapeQuery, ShapeTable, is_size
from pararealize.tracing.copying import without_data
from pararealize.tracing.trace import Trace

#: Positions in a program, and the values that cross them.
Live = Callable[[Program, int], Mapping[int, Sequence[str]]]
#: The flag that tells the network's mode.
MODE = Operation("training_of_root", "training", "")


def with_sizes_recomputed(
    traced: Trace, model: nn.Module, profile: Profile, width: int, live: Live
) -> Trace:
    """The programs with sizes as ambient values wherever they would keep them from being cut.

    That is where at most ``width`` other values cross, as ``live`` finds them.
    """
    train = _rewritten(traced.train, model, profile, width, live)
    if traced.train is traced.eval:
        return traced if train is traced.train else replace(traced, train=train, eval=train)
    return replace(traced, train=train, eval=_rewritten(traced.eval, model, profile, width, live))


def _rewritten(
    program: Program, model: nn.Module, profile: Profile, width: int, live: Live
) -> Program:
    sizes = sizes_in(program)
    carried = _carried(program, sizes, width, live) if sizes else {}
    table = _table(program, carried, model, profile) if carried else None
    if table is None:
        return program
    arguments = (Ref(MODE.name), *(Ref(o.name) for o in table.inputs))

    def again(operation: Operation) -> Operation:
        target = Repeatable(ShapeQuery(table, operation.name), is_method=False)
        return replace(operation, kind="context", target=target, args=arguments, kwargs={})

    operations = [again(o) if o.name in table.wanted else o for o in program]
    modes = [] if MODE.name in program.index else [MODE]
    return Program((*modes, *_without_unused(operations, sizes)))


def sizes_in(program: Program) -> frozenset[str]:
    """The values that are made of shapes alone, and are no tensors."""
    found: set[str] = set()
    for operation in program:
        if is_size(operation, found):
            found.add(operation.name)
    return frozenset(found)


def _carried(program: Program, sizes: frozenset[str], width: int, live: Live) -> dict[str, None]:
    """Sizes that something reads which lies behind a position where else a cut would be legal."""
    others = tuple(replace(o, kind="context") if o.name in sizes else o for o in program)
    legal = sorted(live(Program(others), width))
    starts = _starts(program, sizes)
    found: dict[str, None] = {}
    for i, operation in enumerate(program):
        if operation.name in sizes or operation.kind in AMBIENT:
            continue
        for name in operation.uses:
            if name in sizes and bisect_right(legal, i) > bisect_right(legal, starts[name]):
                found[name] = None
    return found


def _starts(program: Program, sizes: frozenset[str]) -> dict[str, int]:
    """For every size the position behind which, for its sake alone, something is kept."""
    ends = {n: i for i, o in enumerate(program) if o.name not in sizes for n in o.uses}
    found: dict[str, int] = {}
    for i, operation in enumerate(program):
        if operation.name in sizes:
            found[operation.name] = i
            for name in operation.uses:
                if program[name].kind not in AMBIENT:
                    needed = max(ends.get(name, 0), program.index[name])
                    start = found[name] if name in sizes else needed
                    found[operation.name] = min(found[operation.name], start)
    return found


def _table(
    program: Program, wanted: Iterable[str], model: nn.Module, profile: Profile
) -> ShapeTable | None:
    """The table of those sizes that shapes alone tell; ``None`` where they tell none."""
    twin = without_data(model)
    table = ShapeTable(program, wanted, twin)
    given = [_given(operation, profile) for operation in table.inputs]
    if any(value is None for value in given):
        return None
    told = table.told(tuple(given))
    return ShapeTable(program, told, twin) if told else None


def _given(operation: Operation, profile: Profile) -> Any:
    """What the network was given as an argument, without numbers; ``None`` if that is unknown."""
    spec = profile.inputs.get(operation.name)
    if spec is not None:
        return spec
    return operation.kwargs.get(FIXED, operation.args[0] if operation.args else None)


def _without_unused(operations: Sequence[Operation], sizes: frozenset[str]) -> list[Operation]:
    """The operations but for sizes that none of them reads."""
    read: set[str] = set()
    kept = []
    for operation in reversed(operations):
        if operation.name not in sizes or operation.name in read:
            read.update(operation.uses)
            kept.append(operation)
    return kept[::-1]
