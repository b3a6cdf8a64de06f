"""Depth: train a residual network with blocks left out at random.

Huang, Sun, Liu, Sedra and Weinberger, "Deep Networks with Stochastic Depth" (arXiv:1603.09382).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.models.resnet import PreActBottleneck
from pararealize.models.transformer import TransformerBlock


def branches(model: nn.Module) -> list[list[nn.Module]]:
    """Of every residual block, in order, the modules whose outputs it adds to its input."""
    found: list[list[nn.Module]] = []
    for module in model.modules():
        if isinstance(module, PreActBottleneck):
            found.append([module.conv3] if module.shortcut is None else [])
        elif isinstance(module, TransformerBlock):
            found.append([module.attention, module.mlp])
    return found


@contextmanager
def stochastic(model: nn.Module, rate: float) -> Iterator[None]:
    """A block in which, in train mode, every sample skips residual branches at random.

    Block i of L loses a branch with probability ``rate · i / L``; what stays is scaled so that the
    mean is the same. Outputs are drawn from torch's generator.
    """
    blocks = branches(model)
    handles = [
        branch.register_forward_hook(_skip(rate * i / len(blocks)))
        for i, found in enumerate(blocks, start=1)
        for branch in found
        if rate
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _skip(rate: float) -> Any:
    def hook(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        kept = torch.empty(len(output)).bernoulli_(1 - rate) / (1 - rate)
        return output * kept.reshape(-1, *[1] * (output.dim() - 1))

    return hook
