"""Ambient: what depends on the network's inputs alone is no part of a state.

Masks, positions and sizes that many layers read would be guessed, corrected and sent from
subnetwork to subnetwork. Each computes them again instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from pararealize.ir.program import AMBIENT, Operation, Program
from pararealize.propagators.memory import written_by
from pararealize.propagators.repeatable import Repeatable, is_repeatable
from pararealize.tracing.aliasing import sharing
from pararealize.tracing.trace import Trace

#: Products, which are dear; no layer of a network that is not a module is computed twice.
DEAR = frozenset(
    {
        *("matmul", "bmm", "mm", "mv", "dot", "addmm", "baddbmm", "einsum", "linear", "tensordot"),
        *("conv1d", "conv2d", "conv3d", "cdist", "embedding", "__matmul__", "sort", "argsort"),
    }
)


def with_ambient_values(traced: Trace, model: nn.Module) -> Trace:
    """The programs with what is computed of the inputs alone, and used far on, as ambient."""
    train = _rewritten(traced.train, model)
    same = traced.train is traced.eval
    return replace(traced, train=train, eval=train if same else _rewritten(traced.eval, model))


def _rewritten(program: Program, model: nn.Module) -> Program:
    alone = _of_inputs_alone(program, model)
    carried = _needed(program, _carried(program, alone))
    if not carried:
        return program

    def ambient(operation: Operation) -> Operation:
        target = Repeatable(operation.target, operation.kind == "method")
        return replace(operation, kind="context", target=target)

    return Program(tuple(ambient(o) if o.name in carried else o for o in program))


def _of_inputs_alone(program: Program, model: nn.Module) -> set[str]:
    """Values computed of inputs and constants by cheap calls that can be repeated."""
    written = {name for operation in program for name in written_by(operation, model)}
    touched = set[str]()
    if written:
        groups = (group for group in sharing(program, model) if not group.isdisjoint(written))
        touched = set().union(*groups)
    known = {operation.name for operation in program if operation.kind == "input"}
    found = set[str]()
    for operation in program:
        fits = is_repeatable(operation) and operation.call not in DEAR
        if fits and operation.name not in touched and known.issuperset(operation.uses):
            known.add(operation.name)
            found.add(operation.name)
    return found


def _carried(program: Program, alone: set[str]) -> set[str]:
    """Those that are read after something else has been computed."""
    ends = {name: i for i, operation in enumerate(program) for name in operation.uses}
    others = (
        i
        for i, o in enumerate(program)
        if o.name not in alone and o.kind not in AMBIENT and o.kind != "output"
    )
    first = next(others, len(program))
    return {name for name in alone if ends.get(name, -1) > first}


def _needed(program: Program, wanted: Iterable[str]) -> set[str]:
    """The values and all that they are computed of, but for the network's inputs."""
    found = set(wanted)
    for operation in reversed(program.operations):
        if operation.name in found:
            found.update(name for name in operation.uses if program[name].kind != "input")
    return found
