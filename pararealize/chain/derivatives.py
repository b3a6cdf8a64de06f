"""Derivatives: what lies between a value and a derivative by it cannot be parted.

    x ── energy(x) ── torch.autograd.grad(energy, x)

A subnetwork that begins in between has other tensors, of which x knows nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from pararealize.ir.program import AMBIENT, Program, Ref


def derivative_spans(program: Program) -> list[tuple[int, int]]:
    """First and last operation of every stretch that has to lie in one subnetwork."""
    found = []
    for i, operation in enumerate(program):
        if operation.target is torch.autograd.grad:
            by = (*operation.args[1:2], *(v for k, v in operation.kwargs.items() if k == "inputs"))
            found.append((min((_begin(program, n) for n in _names(by)), default=i), i))
    return found


def _names(values: tuple[Any, ...]) -> list[str]:
    return [leaf.name for leaf in tree_leaves(values) if isinstance(leaf, Ref)]


def _begin(program: Program, name: str) -> int:
    """Where a value is made; of what every subnetwork has, where it is used first."""
    if program[name].kind not in AMBIENT:
        return program.index[name]
    return next(i for i, operation in enumerate(program) if name in operation.uses)
