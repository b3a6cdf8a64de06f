"""Capturable: a compiled network that can be captured, by a method of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from pararealize.runtime.capture.capture import capture, capture_step
from pararealize.runtime.capture.network import CapturedNetwork
from pararealize.runtime.capture.piecewise import PiecewiseNetwork, PiecewiseStep
from pararealize.runtime.capture.step import CapturedStep
from pararealize.runtime.capture.watching import Watching


class Capturable(nn.Module, Watching):
    """Has calls and training steps captured in CUDA graphs."""

    def capture(
        self,
        example_inputs: Sequence[Any] = (),
        example_kwargs: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> CapturedNetwork | PiecewiseNetwork:
        """Its answers by CUDA graphs, subnetworks side by side: see :func:`pararealize.capture`.

        Raises:
            MethodError: there is no CUDA device, or the network cannot be captured.

        """
        return capture(self, example_inputs, example_kwargs, **options)

    def capture_step(
        self, loss: Callable[..., Tensor], example_tensors: Sequence[Tensor] = (), **options: Any
    ) -> CapturedStep | PiecewiseStep:
        """A training step of it by CUDA graphs: see :func:`pararealize.capture_step`.

        Raises:
            MethodError: there is no CUDA device, or the network cannot be captured.

        """
        return capture_step(self, loss, example_tensors, **options)
