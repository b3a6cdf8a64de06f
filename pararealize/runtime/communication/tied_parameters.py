"""Tied parameters: one parameter that layers on several ranks use, and the sum of its gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.runtime.communication.transport import Transport

#: The ranks that hold a weight, and its place among those that they hold.
Copied = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Tie:
    """A parameter that ``ranks`` hold, by its name here; the first of them counts it in norms."""

    name: str
    ranks: tuple[int, ...]


@final
class Ties:
    """Keeps a rank's tied parameters at the gradient of the one parameter that they stand for.

    Each rank finds the gradient of its own uses. They are added in the order of the ranks, so that
    all get the same numbers and, with the same optimizer, stay equal.
    """

    def __init__(self, ties: Sequence[Tie], network: nn.Module, transport: Transport) -> None:
        self.ties, self._network, self._transport = tuple(ties), network, transport
        self._found: dict[str, Tensor] = {}
        self._watched: dict[str, tuple[Tensor, Any]] = {}

    @property
    def copies(self) -> dict[Copied, Tensor]:
        """The weights that are trained here and elsewhere, by what all their ranks know them by."""
        found: dict[Copied, Tensor] = {}
        counts: Counter[tuple[int, ...]] = Counter()
        for tie in self.ties:
            weight = self._network.get_parameter(tie.name)
            if weight.requires_grad:
                found[tie.ranks, counts[tie.ranks]] = weight
            counts[tie.ranks] += 1
        return found

    def watch(self) -> None:
        """Take the gradients of the backward pass to come instead of letting them accumulate."""
        self._found.clear()
        for tie in self.ties:
            parameter = self._network.get_parameter(tie.name)
            known, handle = self._watched.get(tie.name, (None, None))
            if known is parameter and parameter.requires_grad:
                continue
            if handle is not None:
                handle.remove()
            self._watched.pop(tie.name, None)
            if parameter.requires_grad:
                self._watched[tie.name] = parameter, parameter.register_hook(self._taker(tie.name))

    def _taker(self, name: str) -> Callable[[Tensor], Tensor]:
        def take(gradient: Tensor) -> Tensor:
            self._found[name] = gradient
            return torch.zeros_like(gradient)

        return take

    def sum(self, tag: int) -> None:
        """Exchange what every rank found, and add it up; all ranks of a tie call it.

        One ``tag`` does: all ranks go through the ties in one order, and messages keep theirs.
        """
        own = [self._own(tie) for tie in self.ties]
        for tie, mine in zip(self.ties, own, strict=True):
            for peer in self._others(tie):
                self._transport.send(mine.reshape(-1), peer, tag)
        for tie, mine in zip(self.ties, own, strict=True):
            parts = {self._transport.rank: mine}
            for peer in self._others(tie):
                self._transport.task = f"the gradient of {tie.name}, which rank {peer} shares"
                parts[peer] = torch.empty_like(mine)
                self._transport.receive(parts[peer].view(-1), peer, tag)()
            self._add(tie, [parts[rank] for rank in tie.ranks])
        self._found.clear()

    def _others(self, tie: Tie) -> list[int]:
        return [rank for rank in tie.ranks if rank != self._transport.rank]

    def _own(self, tie: Tie) -> Tensor:
        parameter = self._network.get_parameter(tie.name)
        found = self._found.get(tie.name)
        return torch.zeros_like(parameter.detach()) if found is None else found.contiguous()

    def _add(self, tie: Tie, parts: list[Tensor]) -> None:
        parameter = self._network.get_parameter(tie.name)
        if not parameter.requires_grad:
            return
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        parameter.grad = total if parameter.grad is None else parameter.grad + total
