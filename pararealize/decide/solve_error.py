"""Solve error: what a multigrid network's answers and gradients are wrong by, measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.coarse.intervals import IntervalKind
from pararealize.coarse.levels import LevelBuilder
from pararealize.emit.assemble import assemble
from pararealize.emit.runner import runner_of
from pararealize.errors import DivergenceWarning, InaccurateWarning
from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.runtime.values.infinities import is_real
from pararealize.runtime.values.pytree import tensors_of
from pararealize.tracing.copying import copy_tree

#: Cycles, the coarse propagators that they apply, and the plan.
Levels = tuple[Iteration, Mapping[Target, Coarse], Plan]


def measured_levels(
    builder: LevelBuilder,
    decide: Callable[[IntervalKind | None], Levels],
    decisions: Callable[[Levels], Decisions],
) -> Levels:
    """The levels of the first kind of coarse propagator with which a solve is as exact as wanted.

    Kinds are tried as estimates of one interval rank them, errors measured on one solve of the
    probe's inputs; where none does, it is the most accurate one. ``decide`` makes the levels of a
    kind, or of the one that is asked for.

    Warns:
        InaccurateWarning: no kind is as exact as wanted.

    """
    method, best = builder.method, decide(None)
    if not builder.chooses or not best[1]:
        return best
    least, name = math.inf, ""
    for kind in builder.ranked(best[0].levels):
        found = decide(kind)
        error = float(f"{solve_error(decisions(found), builder):.2e}")
        if error < least or not name:
            least, name, best = error, kind.name, _with_error(found, error)
        if error <= method.wanted_error:
            return best
    warnings.warn(InaccurateWarning(_advice(method, name, least)), stacklevel=2)
    return best


def _with_error(levels: Levels, error: float) -> Levels:
    cycles, coarse, plan = levels
    pieces = tuple(replace(piece, error=error) for piece in plan.pieces)
    coarse = {target: replace(choice, error=error) for target, choice in coarse.items()}
    return cycles, coarse, replace(plan, pieces=pieces)


def _advice(method: MGRIT, name: str, error: float) -> str:
    forward, backward = method.forward_cycles, method.backward_cycles
    return (
        f"MGRIT(coarse='auto'): no coarse propagator reaches wanted_error={method.wanted_error:g} "
        f"with forward_cycles={forward}, backward_cycles={backward}; the best, {name!r}, is "
        f"measured to be {error:.1%} off the serial network in its answer or its gradient. Write "
        f"MGRIT(forward_cycles={forward + 1}, backward_cycles={backward + 1}), a smaller "
        "coarsening, or a larger wanted_error."
    )


def solve_error(decisions: Decisions, builder: LevelBuilder) -> float:
    """The relative error of the answer, or of the gradient of all weights, whichever is larger.

    Of one call in eval mode, against the serial network; infinite where the solve did not converge.
    """
    serial, inputs = builder.probe.model, builder.probe.arguments
    twins = [copy_tree(serial).eval() for _ in range(2)]
    emission = assemble(decisions, twins[1])
    runner = runner_of(emission, emission.serial)

    def solve(*args: Any) -> Any:
        emission.begin_step()
        return runner.run(args, {}, None)

    names = [o.target for o in decisions.partition.chain.train.inputs]
    given = {n: v for n, v in zip(names, inputs, strict=True) if not n.startswith("*")}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        exact = _answer(lambda: twins[0](**given), twins[0])
        found = _answer(lambda: solve(*inputs), twins[1])
    if runner.solver is not None and runner.solver.tally.serial_steps:
        return math.inf
    return max(_relative(f, e) for f, e in zip(found, exact, strict=True))


def _answer(call: Callable[[], Any], module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The answer, and the gradients of the weights by a fixed functional of it."""
    torch.manual_seed(0)
    with torch.enable_grad():
        result = [tensor for tensor in tensors_of(call()) if is_real(tensor)]
        wanted = [tensor for tensor in result if tensor.requires_grad]
        torch.manual_seed(0)
        torch.autograd.backward(wanted, [torch.randn_like(tensor) for tensor in wanted])
    zeros = (p.new_zeros(p.shape) if p.grad is None else p.grad for p in module.parameters())
    return [tensor.detach() for tensor in result], list(zeros)


def _relative(found: list[Tensor], exact: list[Tensor]) -> float:
    pairs = list(zip(found, exact, strict=True))
    error = sum(float(torch.linalg.vector_norm(f - e)) ** 2 for f, e in pairs if f.numel())
    size = sum(float(torch.linalg.vector_norm(e)) ** 2 for e in exact if e.numel())
    ratio = math.sqrt(error / size) if size else math.sqrt(error)
    return ratio if math.isfinite(ratio) else math.inf
