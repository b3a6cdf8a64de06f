"""Surroundings: what lies around the blocks of a coarse network, by a copy of the network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from pararealize.ir.target import ADDED
from pararealize.propagators.block_list import Between, OutsideBlocks
from pararealize.propagators.calls import Calls


@final
class Surroundings(nn.Module):
    """A copy of a network without its blocks: stems and masks of a coarse network come from it.

    It is in eval mode whatever mode the coarse network is in, and its weights are not trained, as
    the embeddings of a conversion are not.
    """

    def __init__(self, root: nn.Module, calls: Calls) -> None:
        super().__init__()
        own = {prefix: root._modules.get(prefix) for prefix in ADDED}
        left = [*map(root.get_submodule, dict.fromkeys(calls.blocks)), *own.values()]
        without: dict[int, Any] = {id(module): None for module in left if module is not None}
        self.network: nn.Module = copy.deepcopy(root, without)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Surroundings:
        """Eval mode."""
        del mode
        return super().train(False)


@final
@dataclass(frozen=True)
class Inside:
    """A function of the whole network, as one of a coarse network that has its surroundings."""

    function: OutsideBlocks

    def __call__(self, owner: nn.Module, *values: Any) -> Any:
        """What the function gives, of the copy."""
        around: Any = owner._modules["around"]
        return self.function(around.network, *values)


def can_surround(function: object) -> bool:
    """Whether a copy gives what the network does: for the network's inputs alone, and not drawn."""
    if not isinstance(function, OutsideBlocks):
        return False
    tells = isinstance(function, Between) and function.tells
    return function.of_blocks == 0 and not tells
