"""Network: the answers of a network, by graphs that are captured once and launched at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.propagators.folded import Folds
from pararealize.runtime.capture.cache import GraphCache
from pararealize.runtime.capture.call import CapturedCall, capture_call, key_of, runners_in
from pararealize.runtime.capture.compile_options import Asked, compile_options
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.capture.pieces import PieceCompiler
from pararealize.runtime.capture.surroundings import autocast_of, autocast_without_cache
from pararealize.runtime.capture.watching import Watching
from pararealize.runtime.effects.lock import Lock
from pararealize.runtime.runners.graph import AdaptiveRunner, StageCall
from pararealize.runtime.runners.lane_walk import Launching
from pararealize.runtime.values.pytree import flatten, map_tensors, tensors_of


@final
class CapturedNetwork:
    """Answers of a network without gradients, by CUDA graphs, its subnetworks on streams.

    It is called as the network is. Arguments of new shapes run without a graph at first, and are
    captured when they come again. Weights that change in place are followed; where a weight lies
    elsewhere, a module, hook, mode or attribute has changed, a graph is captured anew. Where
    sweeps are decided by what is seen, every stage is a graph, and the host decides between them.

    Args:
        network: a compiled network, or any module.
        device: what it is captured on.
        graphs: how many are kept, one for each set of shapes.
        strict: raise where there is no graph, instead of running without one.
        copies: hand out copies of answers, which the next call leaves alone.
        watches: look for what graphs would miss, at every call.
        compile_pieces: how propagators are compiled; see :func:`pararealize.capture`.
        fold_norms: whether normalisations are part of convolutions.

    """

    def __init__(
        self,
        network: nn.Module,
        device: Device,
        *,
        graphs: int = 8,
        strict: bool = False,
        copies: bool = True,
        watches: bool = True,
        compile_pieces: Asked = False,
        fold_norms: bool = False,
    ) -> None:
        self.network, self._device, self._copies, self._watches = network, device, copies, watches
        self.cache = GraphCache[CapturedCall](graphs, strict=strict, watches=watches, trains=False)
        how, folds = compile_options(compile_pieces, device), Folds() if fold_norms else None
        self.pieces = PieceCompiler(how, device, graphs, folds)
        self._lock = Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer, without gradients.

        Raises:
            MethodError: an input wants a gradient, lies elsewhere, or cannot be captured.
            ShapeError: there is no graph for such arguments, and nothing else may run.
            StaleError: an attribute has changed, and the network cannot be compiled again.

        """
        wants_no_gradient(args, kwargs)
        if self._device.is_recording:  # of another graph, of which this becomes a part
            return self.network(*args, **kwargs)
        with self._lock, torch.no_grad():
            if self._watches and self.pieces.folds is not None:
                self.pieces.folds.refresh()
            if (runner := self._adaptive) is not None:
                with runner.calls.made_by(self._stage):
                    return self._handed(self.network(*args, **kwargs))
            leaves, _ = flatten((args, kwargs))
            key = self._key(leaves)
            if (call := self.cache.unchecked(key)) is not None and not call.moves:
                answer = self._handed(call(leaves))  # the device is at it while changes are sought
                self._follow()
                if self.cache.is_current(key):
                    return answer
            call = self._found(key, partial(self._capture, args, kwargs))
            if call is None:
                return self.network(*args, **kwargs)
            return self._handed(call(leaves))

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Capture for arguments such as these, so that the first call with them is a replay.

        Raises:
            MethodError: it cannot be captured.

        """
        if self._adaptive is not None:
            with self.cache.asked():
                self(*args, **kwargs)
            return
        wants_no_gradient(args, kwargs)
        with self._lock, torch.no_grad():
            key = self._key(flatten((args, kwargs))[0])
            capture = partial(self._capture, args, kwargs)
            self.cache.add(key, [self.network], capture, asked=True)

    @property
    def _adaptive(self) -> AdaptiveRunner | None:
        """What decides sweeps while the network runs, if anything does.

        Raises:
            MethodError: the network trains, and later sweeps would move statistics back.

        """
        runner = getattr(self.network, "runner", None)
        if not isinstance(runner, AdaptiveRunner):
            return None
        if self.network.training:
            raise MethodError(
                "a network whose sweeps are decided while it runs moves statistics back in train "
                "mode, which graphs of single stages cannot: call net.eval(), or capture its "
                "training step with net.capture_step(loss), which takes the sweeps asked for."
            )
        return runner

    def _key(self, leaves: Sequence[Any], stage: int = 0) -> tuple[Hashable, ...]:
        found = key_of(self._device, leaves)
        return found, stage, self.network.training, autocast_of(leaves)

    def _found(
        self, key: tuple[Hashable, ...], capture: Callable[[], CapturedCall]
    ) -> CapturedCall | None:
        """The graph of a key, captured where that is due."""
        self._follow()
        call = self.cache.find(key)
        later = self.cache.is_strict and key[1]  # stages come when they are needed
        if call is not None or (not later and self.cache.is_first(key)):
            return call
        return self.cache.add(key, [self.network], capture)

    def _capture(self, args: Any, kwargs: Any) -> CapturedCall:
        def answer(recording: Recording, arguments: Any) -> Any:
            own, named = arguments
            with ExitStack() as stack:
                stack.enter_context(autocast_without_cache(arguments))
                launching = Launching(self._device.streams, recording.draws)
                for runner in runners_in([self.network]):
                    stack.enter_context(runner.decided(launching))
                called = stack.enter_context(self.pieces.network(self.network))
                return called(*own, **named)

        self.pieces.begin()
        return capture_call(self._device, answer, (args, kwargs), [self.network])

    def _stage(self, called: StageCall) -> Any:
        """A stage of a network whose sweeps are decided by the host, by a graph of its own."""

        def stage(recording: Recording, inputs: Any) -> Any:
            compiled = self.pieces.network(self.network)
            with autocast_without_cache(inputs), compiled:
                launching = Launching(self._device.streams, recording.draws)
                return called.launched(launching, inputs)

        leaves, _ = flatten(called.inputs)
        capture = partial(capture_call, self._device, stage, called.inputs, [self.network])
        self.pieces.begin()
        call = self._found(self._key(leaves, called.number), capture)
        return called.graph(*called.inputs) if call is None else call(leaves)

    def _follow(self) -> None:
        """Forget graphs of a network that was compiled again."""
        if isinstance(self.network, Watching) and self._watches and self.network.follow():
            self.cache.clear()

    def _handed(self, answer: Any) -> Any:
        """The answer as it is handed out: a copy, unless the graph's own memory is wanted."""
        return map_tensors(Tensor.clone, answer) if self._copies else answer


def wants_no_gradient(args: Any, kwargs: Any) -> None:
    """Check the arguments of a call that is captured without its backward pass.

    Raises:
        MethodError: one of them wants a gradient.

    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_of((args, kwargs))):
        raise MethodError(
            "a captured network answers without gradients, and an input wants one: call the "
            "network itself, or net.capture_step(loss) to train."
        )
