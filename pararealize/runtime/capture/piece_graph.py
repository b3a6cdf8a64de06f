"""Piece graph: one evaluation of a piece in a step, its forward and its backward recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pararealize.runtime.capture.call import WARM_UP
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.effects.statistics import Statistics
from pararealize.runtime.values.pytree import flatten, unflatten

Leaves = Sequence[Any]


@final
@dataclass
class PieceGraph:
    """A piece's graphs: what they read, what they give, and gradients in and out.

    Attributes:
        held: memory of the arguments' leaves, and values that are no tensors.
        given: memory of tensors that stand for the piece's own, by their place among these.
        wanted: places of arguments, and of the piece's tensors, that want gradients.
        results: leaves of what it gives, in memory that every replay writes again.
        reach: for every result that has a gradient, which of those wanted it depends on.

    """

    forward: Recording
    held: Leaves
    given: Mapping[int, Tensor]
    wanted: tuple[tuple[int, ...], tuple[int, ...]]
    results: Leaves
    structure: Any
    copies: bool
    backward: Recording | None = None
    incoming: list[Tensor] = field(default_factory=list)
    found: Leaves = ()
    reach: Sequence[Sequence[bool]] = ()

    def __call__(self, leaves: Leaves, tensors: Sequence[Tensor]) -> Any:
        """What the piece gives for arguments, with tensors that stand for its own."""
        if self.backward is None:
            return unflatten(self.replay(leaves, tensors), self.structure)
        arguments, own = self.wanted
        links = [*(leaves[i] for i in arguments), *(tensors[i] for i in own)]
        given = iter(_Replay.apply(self, leaves, tensors, *links))  # type: ignore[no-untyped-call]
        every = [next(given) if isinstance(each, Tensor) else each for each in self.results]
        return unflatten(every, self.structure)

    def replay(self, leaves: Leaves, tensors: Sequence[Tensor]) -> list[Any]:
        """The results of the forward graph."""
        with torch.no_grad():
            for held, leaf in zip(self.held, leaves, strict=True):
                if isinstance(held, Tensor):
                    held.detach().copy_(leaf)
            for place, memory in self.given.items():
                memory.copy_(tensors[place])
            self.forward.replay()
            return [self._handed(each) for each in self.results]

    def gradients(self, adjoints: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of what is wanted; ``None`` where no adjoint leads there."""
        assert self.backward is not None
        with torch.no_grad():
            for memory, adjoint in zip(self.incoming, adjoints, strict=True):
                if adjoint is None:
                    memory.zero_()
                else:
                    memory.copy_(adjoint)
            self.backward.replay()
            rows = [row for row, a in zip(self.reach, adjoints, strict=True) if a is not None]
            reached = [any(column) for column in zip(*rows, strict=True)]
            reached = reached or [False] * len(self.found)
            pairs = zip(self.found, reached, strict=True)
            return [self._handed(found) if is_reached else None for found, is_reached in pairs]

    def _handed(self, value: Any) -> Any:
        """A result as it leaves the graph's memory."""
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone() if self.copies else value.detach()


class _Replay(torch.autograd.Function):
    """Forward and backward are replays."""

    @staticmethod
    def forward(
        ctx: Any, graph: PieceGraph, leaves: Leaves, tensors: Sequence[Tensor], *_links: Tensor
    ) -> tuple[Tensor, ...]:
        """The results that are tensors."""
        ctx.graph = graph
        ctx.set_materialize_grads(False)
        results = [each for each in graph.replay(leaves, tensors) if isinstance(each, Tensor)]
        learns = [each.requires_grad for each in graph.results if isinstance(each, Tensor)]
        ctx.learns = learns
        pairs = zip(results, learns, strict=True)
        ctx.mark_non_differentiable(*(each for each, does in pairs if not does))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Any, ...]:
        """Gradients of the links."""
        chosen = [a for a, does in zip(adjoints, ctx.learns, strict=True) if does]
        return (None, None, None, *ctx.graph.gradients(chosen))


@dataclass(frozen=True)
class PieceCall:
    """A call of a piece that is to be recorded.

    Attributes:
        run: the piece, of its arguments' leaves and of tensors that stand for its own.
        leaves: those of its arguments.
        tensors: its parameters, buffers and what else it reads, as they are now.
        own: which of these lie where they will lie in later calls.
        modules: in which it may move something.
        copies: whether results are handed out as copies.

    """

    run: Callable[[Leaves, Sequence[Tensor]], Any]
    leaves: Leaves
    tensors: Sequence[Tensor]
    own: Sequence[bool]
    modules: Sequence[nn.Module]
    copies: bool


def record_piece(device: Device, call: PieceCall, *, learns: bool) -> PieceGraph:
    """The graphs of a piece; what recording moves is put back, and nothing has a value yet.

    Raises:
        MethodError: it cannot be recorded.

    """
    held = [_held(leaf) for leaf in call.leaves]
    first = {id(tensor): i for i, tensor in reversed(list(enumerate(call.tensors)))}
    given = {i: _held(call.tensors[i]) for i in first.values() if not call.own[i]}
    bound = [given.get(first[id(tensor)], tensor) for tensor in call.tensors]
    arguments = tuple(i for i, leaf in enumerate(held) if learns and _learns(leaf))
    own = tuple(i for i in sorted(first.values()) if learns and bound[i].requires_grad)
    wanted = [*(held[i] for i in arguments), *(bound[i] for i in own)]
    reach: list[list[bool]] = []

    def forward() -> Any:
        return call.run(held, bound)

    def warm() -> None:
        reach[:] = _reach(forward(), wanted)

    recording = device.recording()
    with _moved_back(call), torch.set_grad_enabled(learns), _keeping():
        for _ in range(WARM_UP):
            recording.warm(warm)
        results, structure = flatten(recording.capture(forward))
        graph = PieceGraph(
            recording, held, given, (arguments, own), results, structure, call.copies, reach=reach
        )
        outputs = [each for each in results if _learns(each)]
        if outputs and wanted:
            _record_backward(device, graph, outputs, wanted)
    return graph


def _record_backward(
    device: Device, graph: PieceGraph, outputs: list[Tensor], wanted: list[Tensor]
) -> None:
    graph.incoming = [torch.zeros_like(output).detach() for output in outputs]
    graph.backward = device.recording()
    graph.found = graph.backward.capture(
        lambda: torch.autograd.grad(outputs, wanted, graph.incoming, allow_unused=True)
    )


def _reach(value: Any, wanted: Sequence[Tensor]) -> list[list[bool]]:
    """For every result that has a gradient, which of the tensors it depends on; warms backward."""
    outputs = [leaf for leaf in flatten(value)[0] if _learns(leaf)]
    rows = []
    for number, output in enumerate(outputs):
        more = number < len(outputs) - 1
        grads = torch.autograd.grad(
            output, wanted, torch.zeros_like(output), retain_graph=more, allow_unused=True
        )
        rows.append([each is not None for each in grads])
    return rows if wanted else []


def _learns(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _held(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _keeping() -> AbstractContextManager[Any]:
    """A block whose backward pass finds what it needs; a checkpoint around it would drop that."""
    return torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def _moved_back(call: PieceCall) -> Iterator[None]:
    """A block after which modules and generators are what they were."""
    before = Statistics(call.modules)
    devices = sorted({t.device.index or 0 for t in call.tensors if t.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            before.restore()
