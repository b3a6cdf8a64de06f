"""MG/OPT: train a deep network mostly on shallow ones, whose gradients are corrected.

Nash, "A Multigrid Approach to Discretized Optimization Problems" (2000); Gaedke-Merzhäuser,
Kopaničáková and Krause, "Multilevel Minimization for Deep Residual Networks" (arXiv:2004.06196);
von Planta, Kopaničáková and Krause, "Training of Deep Residual Networks with Stochastic MG/OPT"
(arXiv:2108.04052).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pararealize.errors import MethodError, RefinementError
from pararealize.ir.options import is_count
from pararealize.layers.depth_level import DepthLevel
from pararealize.layers.transfer import Transfer
from pararealize.layers.vcycle import Smoothing, VCycle

#: Called after every cycle; training ends where it answers True.
OnCycle = Callable[["MultilevelTraining"], bool | None]


@dataclass(frozen=True)
class MultilevelTraining:
    """What training on several depths came to, so far or in the end.

    ``net`` has the last depth; ``losses`` are those of every gradient on it; ``gradients`` counts
    gradient evaluations on every depth, the shallowest first, and ``work`` all evaluations in those
    of the last depth: in proportion to depth, and a third where no gradient is taken.
    """

    net: nn.Module
    losses: tuple[float, ...]
    gradients: tuple[int, ...]
    work: float


def mgopt(
    factory: Callable[[int], nn.Module],
    depths: Sequence[int],
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    optimizer: Callable[[nn.Module], Optimizer],
    *,
    before: int = 0,
    coarse_steps: int = 8,
    after: int = 1,
    line_search: bool = False,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    on_cycle: OnCycle = lambda _training: None,
) -> MultilevelTraining:
    """Train ``factory(depths[-1])`` in V-cycles over all depths, each with an optimizer of its own.

    From weights θ_h a cycle goes down to θ_H = R θ_h (means over blocks) and minimises
    L_H(θ) - ⟨v, θ⟩ with v = ∇L_H(R θ_h) - R ∇L_h(θ_h) there, whose gradient at R θ_h is R ∇L_h:
    shallow steps begin as those of the deep network would. What they change comes back to
    θ_h + τ P(θ_H - R θ_h) (copies to blocks). Every step takes a new batch; v is of one batch.
    Momenta, mean squares and numbers of steps go down and up with the weights.

    Args:
        factory: makes the network of a depth; networks of one family, as :func:`refine` says. The
            one of the last depth is trained as it is made, and may come from elsewhere.
        depths: increasing; with a single one every step is the optimizer's.
        loss: of a network and a batch, a scalar whose derivative autograd knows.
        batches: each for one step; training ends with them.
        optimizer: of a network; SGD, Adagrad, Adam, AdamW, NAdam or RAdam. One learning rate
            suits all depths, as gradients are those of the mean over blocks.
        before: steps on every depth but the first before a correction.
        coarse_steps: steps on the first depth, each time.
        after: steps on every depth but the first after a correction.
        line_search: halve τ from 1 until the loss of v's batch falls enough (Armijo), or do not
            correct; τ = 1 always otherwise.
        scheduler: of an optimizer; stepped once a cycle on every depth.
        on_cycle: called after every cycle.

    Raises:
        MethodError: an option has a value that it cannot have, or mgopt does not know the
            optimizer's state.
        RefinementError: depths do not increase, or the networks differ in more than depth.
        NonFiniteError: a loss is infinite or not a number.

    """
    smoothing = _checked(before, coarse_steps, after, line_search)
    levels = _levels(factory, depths, optimizer)
    cycle = VCycle(levels, loss, smoothing)
    schedulers = [scheduler(level.optimizer) for level in levels] if scheduler else []
    source = iter(batches)
    while chosen := list(islice(source, cycle.batches)):
        cycle.run(chosen)
        for each in schedulers:
            each.step()
        if on_cycle(_outcome(cycle)):
            break
    return _outcome(cycle)


def _checked(before: int, coarse_steps: int, after: int, line_search: bool) -> Smoothing:
    for name, value, least in (
        ("before", before, 0),
        ("coarse_steps", coarse_steps, 1),
        ("after", after, 0),
    ):
        if not is_count(value, least):
            raise MethodError(f"{name}={value!r}: expected a number of steps, {least} or more")
    return Smoothing(before, coarse_steps, after, line_search)


def _levels(
    factory: Callable[[int], nn.Module],
    depths: Sequence[int],
    optimizer: Callable[[nn.Module], Optimizer],
) -> list[DepthLevel]:
    """A level for every depth, the shallowest first."""
    if not depths or any(first >= second for first, second in pairwise(depths)):
        raise RefinementError(f"depths increase, as in [8, 16, 32]; they are {list(depths)}")
    nets = [factory(depth) for depth in depths]
    levels: list[DepthLevel] = []
    counts = None
    for i in reversed(range(len(nets))):
        down = Transfer.between(nets[i - 1], nets[i], counts) if i else None
        cost = depths[i] / depths[-1]
        levels.append(DepthLevel.of(nets[i], optimizer, counts, down, cost))
        if down is not None:
            counts = down.coarse_counts
    return levels[::-1]


def _outcome(cycle: VCycle) -> MultilevelTraining:
    net, losses, gradients = cycle.levels[-1].net, tuple(cycle.losses), tuple(cycle.gradients)
    return MultilevelTraining(net, losses, gradients, cycle.work)
