"""Nested iteration: train a shallow network, interpolate its weights in depth, train on.

Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep Neural Network
Training" (arXiv:1912.08974).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from pararealize.errors import RefinementError
from pararealize.layers.depths import sources


def refine(coarse: nn.Module, fine: nn.Module) -> nn.Module:
    """Copy the weights of ``coarse`` into ``fine``, piecewise constant in depth.

    ``W_fine[i] = W_coarse[floor(i m / f)]`` for every ``nn.Sequential`` or ``nn.ModuleList`` of m
    blocks in ``coarse`` and f ≥ m in ``fine``; what else a ``state_dict`` holds is copied by name
    and shape. Other buffers, as a step size, stay ``fine``'s own. Returns ``fine``; ``coarse``
    stays as it is. Raises :class:`RefinementError`, before anything is copied, where the two
    networks differ in more than depth.
    """
    known, wanted = coarse.state_dict(), sources(coarse, fine)
    fine.load_state_dict({name: known[source] for name, source in wanted.items()})
    return fine


def nested_iteration(
    factory: Callable[[int], nn.Module], depths: Sequence[int], train: Callable[[nn.Module], None]
) -> nn.Module:
    """Train on the first depth, then refine and train on every further one.

    ``net[k] = train(refine(net[k - 1], factory(depths[k])))``; the last one is returned.
    ``depths`` increase; ``train`` changes weights in place and makes its own optimizer, whose state
    fits one depth only. Raises :class:`RefinementError` for depths that do not increase, or where
    :func:`refine` does.
    """
    if not depths or any(first >= second for first, second in pairwise(depths)):
        raise RefinementError(f"depths increase, as in [8, 16, 32]; they are {list(depths)}")
    net = factory(depths[0])
    train(net)
    for depth in depths[1:]:
        net = refine(net, factory(depth))
        train(net)
    return net
