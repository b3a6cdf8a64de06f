"""Overflow: gradients in half precision that are infinite on one rank are so on all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn

from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.values.pytree import parameters_of


def is_half(tensors: Iterable[Tensor]) -> bool:
    """Whether numbers are in float16, so that gradients may overflow, and are scaled."""
    autocast = (k for k in ("cpu", "cuda") if torch.is_autocast_enabled(k))
    kinds = {tensor.dtype for tensor in tensors} | {torch.get_autocast_dtype(k) for k in autocast}
    return torch.float16 in kinds


@final
class Overflow:
    """Lets every rank know that a gradient of the network is not finite.

    A ``torch.amp.GradScaler`` leaves a step out where it finds such a gradient, and lowers its
    scale. It sees one rank's gradients only, and ranks would take different steps.
    """

    def __init__(self, network: nn.Module, transport: Transport) -> None:
        self._network, self._transport = network, transport

    def spread(self) -> None:
        """Make all gradients infinite where those of any rank are; all call it."""
        own = [p.grad for p in parameters_of(self._network) if p.grad is not None]
        finite = not own or bool(nn.utils.get_total_norm(own, math.inf).isfinite())
        found = self._transport.sum(torch.tensor([float(not finite)]))
        if float(found) > 0:
            for gradient in own:
                gradient.fill_(math.inf)
