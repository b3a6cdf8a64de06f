"""Parameters: those of a network, of which a rank holds some."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator

from torch import Tensor, nn

from pararealize.emit.collect import clip_over_ranks
from pararealize.emit.emission import Emission
from pararealize.runtime.communication.readers import watched


class HoldsParameters(nn.Module, ABC):
    """A module whose parameters may be some of a network's, the others with other ranks."""

    _emission: Emission

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of this process.

        Raises:
            RankError: on ranks, what reads them needs those of all: an optimizer that adds up over
                parameters, or torch's own clipping of gradients.

        """
        found = super().parameters(recurse)
        transport = self._emission.transport
        return found if transport is None or transport.size == 1 else watched(found)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Clip gradients by their norm over the whole network, and return that norm.

        Torch's function of this name would see one rank's parameters only. On ranks, all call it.
        """
        return clip_over_ranks(self, self._emission.share, max_norm, norm_type)
