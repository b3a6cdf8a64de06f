"""Capture: a whole training step as a CUDA graph, launched at once instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import final

import torch
from torch import Tensor, nn

from pararealize.errors import MethodError, ShapeError
from pararealize.runtime.communication.lanes import CudaStreams, Lanes
from pararealize.runtime.runners.runner import Runner

#: Steps before the capture, in which libraries choose their kernels and allocate.
WARM_UP = 3


@final
class CudaGraph:
    """A CUDA graph of the current device: records the kernels of a step, launches them again.

    ``lanes`` are where subnetworks that are not applied at once run side by side.

    Raises:
        MethodError: there is none.

    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MethodError(
                "Captured: CUDA graphs need a CUDA device, and this PyTorch sees none: call the "
                "network itself."
            )
        self._graph = torch.cuda.CUDAGraph()
        self.lanes = Lanes(CudaStreams())

    def warm(self, step: Callable[[], Tensor]) -> None:
        """Run a step on its own stream, after what was launched before, ahead of what follows."""
        side, now = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(now)
        with torch.cuda.stream(side):
            step()
        now.wait_stream(side)

    def capture(self, step: Callable[[], Tensor]) -> Tensor:
        """Record a step on torch's capturing stream; replays put the result into the tensor."""
        with torch.cuda.graph(self._graph):
            return step()

    def replay(self) -> None:
        """Run what was recorded, on the current stream."""
        self._graph.replay()


@final
class Captured:
    """A step of forward, loss and backward, captured once and replayed on new numbers.

    After a call every weight's ``grad`` holds this step's gradient; optimizers must leave it
    there: ``zero_grad(set_to_none=False)``, or not at all, as nothing is accumulated.

    A multigrid solver takes the cycles asked for and looks at no residual, for which the host would
    have to wait; its report says so. Slices that are not advanced at once lie on parallel streams,
    where no two share weights or statistics and ``storage`` keeps the states. Networks that draw
    random numbers in several evaluations, or that lie on ranks, cannot be captured.

    Args:
        network: the network, its weights and inputs on one device.
        loss: of the output and of what follows the network's inputs in a call, to one number.
        inputs: of one call, whose shapes all calls have.
        targets: what the loss takes besides the output.
        graph: a CUDA graph unless another is given.

    Raises:
        MethodError: there is no CUDA device, or an input is on none.

    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor] = (),
        graph: CudaGraph | None = None,
    ) -> None:
        self._graph = CudaGraph() if graph is None else graph
        if graph is None and not all(t.is_cuda for t in (*inputs, *targets)):
            raise MethodError("Captured: all inputs and targets must be on the CUDA device.")
        self._network, self._loss, self._count = network, loss, len(inputs)
        self._held = [t.detach().clone() for t in (*inputs, *targets)]
        with self._decided():
            for _ in range(WARM_UP):
                self._graph.warm(self._step)
            self._result = self._graph.capture(self._step)

    @contextmanager
    def _decided(self) -> Iterator[None]:
        """A block in which compiled networks decide nothing by what they see."""
        with ExitStack() as stack:
            for module in self._network.modules():
                runner = getattr(module, "runner", None)
                if isinstance(runner, Runner):
                    stack.enter_context(runner.decided(self._graph.lanes))
            yield

    def _step(self) -> Tensor:
        """Gradients are new tensors, so that replays write them instead of adding to them."""
        self._network.zero_grad(set_to_none=True)
        output = self._network(*self._held[: self._count])
        found = self._loss(output, *self._held[self._count :])
        torch.autograd.backward(found)
        return found.detach()

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The loss at new inputs and targets, in memory that the next call writes again.

        Raises:
            ShapeError: they have not the shapes that were captured.

        """
        shapes = [tuple(t.shape) for t in tensors]
        wanted = [tuple(t.shape) for t in self._held]
        if shapes != wanted:
            raise ShapeError(
                f"a captured step takes tensors of the shapes {wanted}, and got {shapes}: capture "
                "another one for them, Captured(network, loss, inputs, targets)."
            )
        for held, tensor in zip(self._held, tensors, strict=True):
            held.copy_(tensor)
        self._graph.replay()
        return self._result
