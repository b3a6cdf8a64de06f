"""Solve error: what a multigrid network's answers and gradients are wrong by, measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from pararealize.coarse.intervals import IntervalKind
from pararealize.coarse.levels import LevelBuilder, find_levels
from pararealize.cost.probe import Probe
from pararealize.emit.assemble import assemble, with_levels
from pararealize.emit.emission import Emission
from pararealize.emit.runner import runner_of
from pararealize.errors import DivergenceWarning, InaccurateWarning
from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.hierarchy import MANY, Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.runtime.effects.generators import kept, other_generators
from pararealize.runtime.effects.statistics import Statistics
from pararealize.runtime.values.infinities import is_real
from pararealize.runtime.values.pytree import tensors_of

#: Cycles, the coarse propagators that they apply, and the plan.
Levels = tuple[Iteration, Mapping[Target, Coarse], Plan]
#: Results of a call, and gradients of all weights.
Answer = tuple[list[Tensor], list[Tensor]]


def measured_levels(
    builder: LevelBuilder,
    decide: Callable[[IntervalKind | None], Levels],
    decisions: Callable[[Levels], Decisions],
) -> Levels:
    """The levels of the first kind of coarse propagator with which a solve is as exact as wanted.

    Kinds are tried as estimates of one interval rank them, errors measured on one solve of the
    probe's inputs; where none does, it is the most accurate one. Errors of intervals add up: in
    chains of many slices a kind is not tried whose estimate is above an error that was measured.
    ``decide`` makes the levels of a kind, or of the one that is asked for.

    Warns:
        InaccurateWarning: no kind is as exact as wanted.

    """
    method = builder.method
    if not builder.chooses:
        return decide(None)
    trials, best, least, name = Trials(builder.probe), None, math.inf, ""
    many = builder.partition.n > MANY
    for kind, estimate in builder.ranked(find_levels(builder.partition, method)):
        if many and estimate >= least:
            continue
        found = decide(kind)
        if not found[1]:
            return found  # no cycle applies any
        error = float(f"{trials.error(decisions(found)):.2e}")
        if best is None or error < least:
            least, name, best = error, kind.name, _with_error(found, error)
        if error <= method.wanted_error:
            return best
    assert best is not None  # there are kinds to choose among
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


@final
class Trials:
    """Solves of a probe's inputs with several choices of coarse propagators, in eval mode.

    All run on the probe's one copy of the network, whose answer is computed once, as the slices are
    compiled once.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe, modules = probe, list(probe.copy.modules())
        self._before, self._generators = Statistics(modules), other_generators(modules)
        self._emission: Emission | None = None
        self._exact: Answer | None = None

    def error(self, decisions: Decisions) -> float:
        """The relative error of the answer, or of the gradient of all weights, the larger one.

        Against the serial network; infinite where the solve did not converge.
        """
        twin, inputs = self.probe.copy, self.probe.arguments
        if self._emission is None:
            self._emission = assemble(decisions, twin)
        else:
            self._emission = with_levels(self._emission, decisions.levels)
        emission = self._emission
        runner = runner_of(emission, twin)

        def solve(*args: Any) -> Any:
            emission.begin_step()
            return runner.run(args, {}, None)

        names = [o.target for o in decisions.partition.chain.train.inputs]
        given = {n: v for n, v in zip(names, inputs, strict=True) if not n.startswith("*")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)
            if self._exact is None:
                self._exact = self._answer(lambda: twin(**given))
            found = self._answer(lambda: solve(*inputs))
        if runner.solver is not None and runner.solver.tally.serial_steps:
            return math.inf
        return max(_relative(f, e) for f, e in zip(found, self._exact, strict=True))

    def _answer(self, call: Callable[[], Any]) -> Answer:
        """The answer, and the gradients of the weights by a fixed functional of it.

        What the call moves in the network is put back.
        """
        torch.manual_seed(0)
        with kept(self._generators), torch.enable_grad():
            result = [tensor for tensor in tensors_of(call()) if is_real(tensor)]
            wanted = [tensor for tensor in result if tensor.requires_grad]
            torch.manual_seed(0)
            torch.autograd.backward(wanted, [torch.randn_like(tensor) for tensor in wanted])
        weights = list(self.probe.copy.parameters())
        grads = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in weights]
        self.probe.copy.zero_grad(set_to_none=True)
        self._before.restore()
        return [tensor.detach() for tensor in result], grads


def _relative(found: list[Tensor], exact: list[Tensor]) -> float:
    pairs = list(zip(found, exact, strict=True))
    error = sum(float(torch.linalg.vector_norm(f - e)) ** 2 for f, e in pairs if f.numel())
    size = sum(float(torch.linalg.vector_norm(e)) ** 2 for e in exact if e.numel())
    ratio = math.sqrt(error / size) if size else math.sqrt(error)
    return ratio if math.isfinite(ratio) else math.inf
