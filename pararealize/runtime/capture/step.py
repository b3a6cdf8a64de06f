"""Step: forward, loss, backward and optimizer of a training step, by graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, final

from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.runtime.capture.cache import GraphCache
from pararealize.runtime.capture.call import CapturedCall, capture_call, key_of, runners_in
from pararealize.runtime.capture.compile_options import Asked, compile_options
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.capture.mover import Pairs, StepMover, StepOptions, hooked
from pararealize.runtime.capture.pieces import PieceCompiler
from pararealize.runtime.capture.surroundings import autocast_of
from pararealize.runtime.capture.watching import Watching
from pararealize.runtime.effects.lock import Lock
from pararealize.runtime.runners.lane_walk import Launching
from pararealize.runtime.runners.lane_weights import NOW, LaneWeights


@final
class CapturedStep:
    """A training step: ``step(x, y)`` gives the loss, and gradients or moved weights.

    Forward, loss and backward are one graph, and so are clipping and the optimizer where it can be
    (``capturable=True``, with a learning rate in a tensor where schedules change it; or SGD);
    another optimizer, and a scaler, run behind each replay. The first call with new shapes runs
    without a graph. After a call ``p.grad`` holds the gradient of the step, or nothing.

    A multigrid solver takes the cycles asked for, and a network whose sweeps are decided while it
    runs the sweeps asked for. Hooks of weights run where gradients are added up, while the graph
    is recorded: what they do in Python happens then alone.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., Tensor],
        device: Device,
        options: StepOptions,
        *,
        graphs: int = 8,
        strict: bool = False,
        watches: bool = True,
        compile_pieces: Asked = False,
    ) -> None:
        self.network, self.loss, self.options = network, loss, options
        self._device = device
        self._modules = [network, *([loss] if isinstance(loss, nn.Module) else [])]
        self.cache = GraphCache[CapturedCall](graphs, strict=strict, watches=watches, trains=True)
        self._mover = StepMover(options)
        self.pieces = PieceCompiler(compile_options(compile_pieces, device), device, graphs)
        self._lock = Lock()

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The loss of these inputs and targets, in memory that the next call writes again.

        Raises:
            MethodError: a tensor lies on another device, or the step cannot be captured.
            ShapeError: there is no graph for such shapes, and nothing else may run.
            StaleError: an attribute that the network was compiled with has changed.

        """
        if self._device.is_recording:
            raise MethodError(
                "a captured step cannot be called while another graph is recorded: write its "
                "forward, loss and backward there."
            )
        with self._lock:
            key = self._key(tensors)
            call = self.cache.find(key)
            if call is None and not self.cache.is_first(key):
                call = self.cache.add(key, self._modules, partial(self._capture, tensors))
            loss, pairs = self._found(tensors, None) if call is None else call(tensors)
            self._mover.after(pairs, done=call is not None)
            return loss

    def prepare(self, *tensors: Tensor) -> None:
        """Capture for tensors such as these, so that the first call is a replay; nothing moves.

        Raises:
            MethodError: it cannot be captured.

        """
        with self._lock:
            key = self._key(tensors)
            capture = partial(self._capture, tensors)
            self.cache.add(key, self._modules, capture, asked=True)

    def _key(self, tensors: Sequence[Tensor]) -> tuple[Hashable, ...]:
        """What a graph takes over; graphs that took over other options of the optimizer go."""
        key = key_of(self._device, tensors)
        self.options.check_count(tensors)
        recompiled = isinstance(self.network, Watching) and self.network.follow()
        if recompiled or self._mover.has_changed():
            self.cache.clear()
        return key, 0, self.network.training, autocast_of(tensors)

    def _capture(self, tensors: Sequence[Tensor]) -> CapturedCall:
        def step(recording: Recording, arguments: Any) -> Any:
            launching = Launching(self._device.streams, recording.draws)
            loss, pairs = self._found(arguments, launching)
            return loss, self._mover.inside(pairs)

        self.pieces.begin()
        also = self._mover.moves(LaneWeights(self._modules).weights)
        return capture_call(self._device, step, tuple(tensors), self._modules, also)

    def _found(
        self, tensors: Sequence[Tensor], launching: Launching | None
    ) -> tuple[Tensor, Pairs]:
        """The loss, and every weight with its gradient; on lanes where they are given."""
        weights = LaneWeights(self._modules)
        with ExitStack() as stack:
            stack.enter_context(weights.on(NOW))
            called: Callable[..., Any] = self.network
            if launching is not None:
                here = replace(launching, weights=weights)
                for runner in runners_in(self._modules):
                    stack.enter_context(runner.decided(here))
                called = stack.enter_context(self.pieces.network(self.network))
            cached = launching is None
            loss, scaled = self.options.losses(called, self.loss, tensors, cached=cached)
            found = weights.gradients(scaled)
        pairs: Pairs = []
        for weight, gradient in zip(weights.weights, found, strict=True):
            if gradient is None:
                weight.grad = None  # what an earlier step left is none of this one
            else:
                pairs.append((weight, hooked(weight, gradient)))
        return loss.detach(), pairs
