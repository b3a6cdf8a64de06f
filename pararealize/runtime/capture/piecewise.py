"""Piecewise: networks on several devices or ranks, each of whose pieces is a graph.

No one graph can hold their messages. The schedule, and autograd behind it, launch the graphs of
pieces, forward and backward, in place of their kernels. On ranks, all call it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.propagators.folded import Folds
from pararealize.runtime.capture.cache import GraphCache
from pararealize.runtime.capture.call import key_of, moved_back, runners_in
from pararealize.runtime.capture.compile_options import Asked, compile_options
from pararealize.runtime.capture.device import Device
from pararealize.runtime.capture.mover import Pairs, StepMover, StepOptions
from pararealize.runtime.capture.network import wants_no_gradient
from pararealize.runtime.capture.piece_graphs import PieceGraphs
from pararealize.runtime.capture.pieces import PieceCompiler
from pararealize.runtime.capture.surroundings import autocast_of
from pararealize.runtime.capture.watching import Watching
from pararealize.runtime.effects.lock import Lock
from pararealize.runtime.runners.graph import AdaptiveRunner, GraphRunner
from pararealize.runtime.values.pytree import flatten, map_tensors


@final
class PieceCache:
    """Graphs of a network's pieces, a set of them for each set of shapes."""

    def __init__(
        self,
        modules: Sequence[nn.Module],
        device: Device,
        compiler: PieceCompiler,
        graphs: GraphCache[PieceGraphs],
    ) -> None:
        self.network, self.modules, self.graphs = modules[0], modules, graphs
        self.device, self._compiler = device, compiler
        self.lock = Lock()

    def find(self, leaves: Sequence[Any]) -> PieceGraphs | None:
        """Those for some arguments, to be recorded in the call where there were none."""
        key = self._key(leaves)
        found = self.graphs.find(key)
        if found is not None or self.graphs.is_first(key):
            return found
        return self.graphs.add(key, self.modules, self._made)

    def add(self, leaves: Sequence[Any]) -> PieceGraphs | None:
        """New ones for some arguments."""
        return self.graphs.add(self._key(leaves), self.modules, self._made, asked=True)

    @contextmanager
    def in_force(self, graphs: PieceGraphs | None) -> Iterator[None]:
        """A block in which pieces are replayed, where there are graphs."""
        if graphs is None:
            yield
            return
        with self._compiler.network(self.network), graphs.in_force():
            yield

    def _key(self, leaves: Sequence[Any]) -> tuple[Hashable, ...]:
        if self.device.is_recording:
            raise MethodError(
                "capture inside a capture: a network on several devices or ranks is no part of a "
                "graph; call it outside."
            )
        if isinstance(self.network, Watching) and self.network.follow():
            self.graphs.clear()
        found = key_of(self.device, leaves, anywhere=True)
        return found, 0, self.network.training, autocast_of(leaves)

    def _made(self) -> PieceGraphs:
        self._compiler.begin()
        (runner,) = runners_in([self.network])
        # What is sent, or solved for, may be read after a piece has run again.
        copies = not isinstance(runner, (GraphRunner, AdaptiveRunner))
        strict, folds = self.graphs.is_strict, self._compiler.folds
        parts = runner.propagators
        return PieceGraphs(self.device, parts, copies=copies, strict=strict, folds=folds)


@final
class PiecewiseNetwork:
    """Answers of a network on several devices or ranks, its pieces launched as graphs.

    It is called as :class:`CapturedNetwork` is, with the same options; sweeps that are decided
    while the network runs are decided as ever. On ranks, all call it.
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
        self.network, self._copies, self._watches = network, copies, watches
        self.cache = GraphCache[PieceGraphs](graphs, strict=strict, watches=watches, trains=False)
        how, folds = compile_options(compile_pieces, device), Folds() if fold_norms else None
        self.pieces = PieceCompiler(how, device, graphs, folds)
        self._graphs = PieceCache([network], device, self.pieces, self.cache)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer, without gradients.

        Raises:
            MethodError: an input wants a gradient, or a graph is being recorded.
            ShapeError: there are no graphs for such arguments, and nothing else may run.

        """
        wants_no_gradient(args, kwargs)
        with self._graphs.lock, torch.no_grad():
            if self._watches and self.pieces.folds is not None:
                self.pieces.folds.refresh()
            graphs = self._graphs.find(flatten((args, kwargs))[0])
            with self._graphs.in_force(graphs):
                answer = self.network(*args, **kwargs)
            return map_tensors(Tensor.clone, answer) if self._copies and graphs else answer

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Record for arguments such as these; statistics and random numbers stay. On ranks, all.

        Raises:
            MethodError: with ``strict``, a piece cannot be recorded.

        """
        wants_no_gradient(args, kwargs)
        with self._graphs.lock, torch.no_grad():
            graphs = self._graphs.add(flatten((args, kwargs))[0])
            with moved_back([self.network], ()), self._graphs.in_force(graphs):
                self.network(*args, **kwargs)


@final
class PiecewiseStep:
    """A training step of a network on several devices or ranks, its pieces launched as graphs.

    It is called as :class:`CapturedStep` is, with the same options. The loss, sums of states and
    the optimizer run as they are; gradients are clipped over all devices and ranks.
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
        modules = [network, *([loss] if isinstance(loss, nn.Module) else [])]
        self.cache = GraphCache[PieceGraphs](graphs, strict=strict, watches=watches, trains=True)
        self.pieces = PieceCompiler(compile_options(compile_pieces, device), device, graphs)
        self._graphs = PieceCache(modules, device, self.pieces, self.cache)
        clip: Any = getattr(network, "clip_grad_norm_", None)
        self._mover = StepMover(options, clip)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The loss of these inputs and targets; gradients are in ``p.grad``, or weights moved.

        Raises:
            MethodError: a graph is being recorded, or the call has too few tensors.
            ShapeError: there are no graphs for such shapes, and nothing else may run.

        """
        self.options.check_count(tensors)
        with self._graphs.lock:
            graphs = self._graphs.find(tensors)
            loss, pairs = self._found(graphs, tensors)
            self._mover.after(pairs, done=False)
            return loss

    def prepare(self, *tensors: Tensor) -> None:
        """Record for tensors such as these; nothing moves. On ranks, all call it.

        Raises:
            MethodError: with ``strict``, a piece cannot be recorded.

        """
        self.options.check_count(tensors)
        with self._graphs.lock:
            before = [(weight, weight.grad) for weight in self._parameters()]
            graphs = self._graphs.add(tensors)
            with moved_back(self._graphs.modules, ()):
                self._found(graphs, tensors)
            for weight, gradient in before:
                weight.grad = gradient

    def _parameters(self) -> list[nn.Parameter]:
        every = (p for module in self._graphs.modules for p in module.parameters())
        return [weight for weight in dict.fromkeys(every) if weight.requires_grad]

    def _found(self, graphs: PieceGraphs | None, tensors: Sequence[Tensor]) -> tuple[Tensor, Pairs]:
        """The loss, and every weight that has one with its gradient."""
        weights = self._parameters()
        for weight in weights:
            weight.grad = None
        with self._graphs.in_force(graphs):
            loss, scaled = self.options.losses(self.network, self.loss, tensors)
            torch.autograd.backward(scaled)
        return loss.detach(), [(w, w.grad) for w in weights if w.grad is not None]
