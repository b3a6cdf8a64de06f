"""Refine: a deeper residual network that starts from a trained one, as on a finer grid in depth.

Nested iteration: Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep
Neural Network Training" (arXiv:1912.08974).
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from pararealize.models.resnet import PreActBottleneck, ResNet


@torch.no_grad()
def refine(deep: nn.Module, trained: nn.Module) -> None:
    """Give every block of ``deep`` the weights of the trained block at the same relative depth.

    A block x + φ(x) of ``trained`` that m blocks stand for becomes m blocks x + φ(x)/m: as many
    steps of a third, a fifth … of the length. The first block of a stage, which changes the
    shape, the stem and the classifier are copied.

    Raises:
        ValueError: they are no ResNets, or ``deep`` has fewer blocks a stage than ``trained``, or
            ``trained`` has none to repeat.

    """
    stages = [(_stage(deep, i), _stage(trained, i)) for i in (1, 2, 3)]
    if any(not 1 < len(coarse) <= len(fine) for fine, coarse in stages):
        raise ValueError("a network is refined to more blocks a stage, from two or more.")
    for name in ("conv1", "bn", "fc"):
        _copy(deep.get_submodule(name), trained.get_submodule(name))
    for fine, coarse in stages:
        _copy(fine[0], coarse[0])
        blocks, sources = fine[1:], coarse[1:]
        chosen = [i * len(sources) // len(blocks) for i in range(len(blocks))]
        shares = Counter(chosen)
        for block, i in zip(blocks, chosen, strict=True):
            _copy(block, sources[i])
            block.conv3.weight.div_(shares[i])


def _stage(network: nn.Module, i: int) -> list[PreActBottleneck]:
    if not isinstance(network, ResNet):
        raise ValueError(f"a {type(network).__name__} has no stages of blocks to refine.")
    return [
        block
        for block in network.get_submodule(f"layer{i}").children()
        if isinstance(block, PreActBottleneck)
    ]


def _copy(to: nn.Module, source: nn.Module) -> None:
    to.load_state_dict(source.state_dict())
