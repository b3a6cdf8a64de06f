"""Interval error: how far a coarse propagator is from the layers that it stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pararealize.cost.probe import Probe, perturbed
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import MGRIT
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.report import norm
from pararealize.runtime.values.combine import combine


def interval_error(
    probe: Probe, span: tuple[int, int], start: int, coarse: Coarse, method: MGRIT
) -> float:
    """The relative error to expect of states and adjoints after the method's cycles.

    With e = ‖Φ(u) - G(u)‖ / ‖Φ(u)‖, ρ what a cycle leaves of a jump, and e' the like of e for
    adjoints: max(e ρ^K, e' ρ^(K' - 1)) after K cycles forward and K' back, whose last takes no
    correction. ``start`` is the slice boundary at which the span of layers begins.
    """
    assert coarse.segment is not None
    state, fine = probe.trajectory[start], probe.layers(*span)
    rough = borrowed(probe.copy, coarse.segment, coarse.averages, coarse.kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(probe.seed)
        exact, guess = _run(probe, fine, state), _run(probe, rough, state)
        error = _relative(guess, exact)
        if state is None:
            return error
        moved = tree_map_only(Tensor, perturbed, state)
        jump = combine("+-", _run(probe, fine, moved), exact)
        response = combine("+-", _run(probe, rough, moved), guess)
        rate = _relative(response, jump)
        adjoint = tree_map_only(Tensor, torch.randn_like, exact)
        back = [_transposed(probe, p, state, adjoint) for p in (rough, fine)]
    forward = error * rate**method.forward_cycles
    return max(forward, _relative(*back) * rate ** (method.backward_cycles - 1))


@torch.no_grad()
def _run(probe: Probe, propagator: Propagator, state: Any) -> Any:
    return probe.run(propagator, state)


def _transposed(probe: Probe, propagator: Propagator, state: Any, adjoint: Any) -> Any:
    """The adjoint before a propagator, of the one after it."""
    with torch.enable_grad():
        leaf = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(), state)
        result = probe.run(propagator, leaf)
        found = torch.autograd.grad(tree_leaves(result), tree_leaves(leaf), tree_leaves(adjoint))
    return tuple(found)


def _relative(found: Any, wanted: Any) -> float:
    return norm(combine("+-", found, wanted)) / max(norm(wanted), 1e-30)
