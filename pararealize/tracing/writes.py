"""Writes: which values the functions and modules that are called whole write on.

That cannot be told from their names: they run once on the meta device, where tensors count how
often they have been written on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import FunctionType
from typing import Any

from torch import nn

from pararealize.ir.program import FIXED, Operation, Program
from pararealize.propagators.meta_run import REFUSALS, MetaRun
from pararealize.propagators.paths import submodule
from pararealize.propagators.step import Step
from pararealize.runtime.effects.statistics import is_torchs
from pararealize.runtime.values.pytree import tensors_of
from pararealize.tracing.copying import without_data
from pararealize.tracing.functions import Applied

#: Modules from elsewhere that write on their statistics alone, and say so where they do more.
KNOWN = (nn.modules.batchnorm._NormBase, Step)


def is_foreign(call: Any) -> bool:
    """Whether a function is the user's, or a library's, and may do whatever it likes."""
    known = ("torch.", "einops.")
    own = isinstance(call, FunctionType) and not (call.__module__ or "").startswith(known)
    return own or isinstance(call, Applied)


def with_writes(program: Program, model: nn.Module, given: Mapping[str, Any]) -> Program:
    """The program with what is written on marked, and without foreign functions of no effect.

    Where no shapes are known, or a function asks for numbers, it may write on all that it reads.
    """
    suspects = {o.name for o in program if _is_suspect(o, model)}
    if not suspects:
        return program
    run = MetaRun(without_data(model), model.training, _arguments(program, given))
    written = {o.name: o.uses for o in program if o.name in suspects}
    with run.running():
        for operation in filter(run.can, program):
            before = _versions(operation, run)
            with suppress(*REFUSALS, KeyError):
                run.evaluate(operation)
                changed = {name for name, old in before.items() if _version(run, name) != old}
                written[operation.name] = tuple(n for n in operation.uses if n in changed)
    read = {name for operation in program for name in operation.uses}
    marked = (replace(o, writes=written[o.name]) if o.name in suspects else o for o in program)
    return Program(tuple(o for o in marked if _acts(o, suspects, read)))


def _acts(operation: Operation, suspects: set[str], read: set[str]) -> bool:
    """Whether an operation has an effect; modules may have others than those on values."""
    idle = operation.name in suspects and operation.name not in read and not operation.writes
    return operation.kind == "module" or not idle


def _is_suspect(operation: Operation, model: nn.Module) -> bool:
    if operation.kind == "function":
        return is_foreign(operation.target)
    if operation.kind != "module":
        return False
    module = submodule(model, operation.target)
    return not is_torchs(module) and not isinstance(module, KNOWN)


def _arguments(program: Program, given: Mapping[str, Any]) -> dict[str, Any]:
    """The network's arguments by the names of their operations, as far as they are known."""
    found: dict[str, Any] = {}
    for operation in program.inputs:
        default = (operation.kwargs.get(FIXED, v) for v in operation.args[:1])
        known = (*(given[k] for k in (operation.target,) if k in given), *default)
        if known:
            found[operation.name] = known[0]
    return found


def _versions(operation: Operation, run: MetaRun) -> dict[str, list[int]]:
    return {name: _version(run, name) for name in operation.uses}


def _version(run: MetaRun, name: str) -> list[int]:
    return [tensor._version for tensor in tensors_of(run.values.get(name))]
