"""Parameters: those of a network, of which a rank holds some."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pararealize.emit.clipping import clip_over_ranks
from pararealize.emit.emission import Emission
from pararealize.emit.optimizer_state import State, gathered, scatter
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

    def gather_optimizer(self, optimizer: Optimizer) -> State:
        """The state of an optimizer of this network, whole, to save or to go on with elsewhere.

        It is shaped as ``optimizer.state_dict()``, with names of parameters in place of numbers,
        on the CPU, and the same on any number of ranks. On ranks, all call it, and all get it.

        Raises:
            MethodError: the optimizer has parameters that are not the network's.
            RankError: on ranks, the optimizer has other groups or options on one of them.

        """
        return gathered(self, self._emission.share, optimizer)

    def scatter_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Give an optimizer of this network what :meth:`gather_optimizer` returned.

        The number of ranks may have changed in between, the number of subnetworks may not. On
        ranks, all call it, with the same state.

        Raises:
            MethodError: the state is of another network, or the optimizer has other groups.

        """
        scatter(self, self._emission.share, optimizer, state)
