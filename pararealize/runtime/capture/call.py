"""Call: a function of tensors, captured: inputs are copied in, and results lie in the graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import MethodError
from pararealize.propagators.averaged import Averaged
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.capture.watching import Watching
from pararealize.runtime.effects.statistics import Statistics
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.pytree import flatten, unflatten

#: Steps before one is recorded, in which libraries choose their kernels and allocate.
WARM_UP = 2


@final
@dataclass
class CapturedCall:
    """A recorded function: its inputs' and its result's memory, which every call writes again.

    ``moves`` says whether it moves buffers of the network; ``means`` are propagators that keep
    means of weights, ``moved`` are tensors that a replay writes on.
    """

    recording: Recording
    held: Sequence[Any]
    result: Any
    seen: Sequence[tuple[Runner, Any]]
    moves: bool
    means: Sequence[Averaged] = ()
    moved: Sequence[Tensor] = ()

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """The result for other numbers: the leaves of the arguments, in order."""
        for held, leaf in zip(self.held, leaves, strict=True):
            if isinstance(held, Tensor):
                held.copy_(leaf)
        self.recording.replay()
        for runner, seen in self.seen:
            runner.seen = seen
        for part in self.means:
            part.forget()
        if self.moved:  # a device writes without saying so
            torch.autograd.graph.increment_version(self.moved)
        return self.result


def capture_call(
    device: Device,
    function: Callable[[Recording, Any], Any],
    arguments: Any,
    modules: Sequence[nn.Module],
    also: Sequence[Tensor] = (),
) -> CapturedCall:
    """The function of a recording and of arguments, recorded.

    What warming up and recording move is put back: statistics and what else the modules keep,
    the tensors ``also``, and generators.

    Raises:
        MethodError: a graph is being recorded already.

    """
    recording = device.recording()
    leaves, structure = flatten(arguments)
    held = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    inputs = unflatten(list(held), structure)
    runners = runners_in(modules)
    means = [p for r in runners for p in r.propagators if isinstance(p, Averaged)]
    with moved_back(modules, also):
        for _ in range(WARM_UP):
            recording.warm(lambda: function(recording, inputs))
        before = _versions(modules)
        for part in means:
            part.forget()
        result = recording.capture(lambda: function(recording, inputs))
        for part in means:  # those of the recording have no numbers yet
            part.forget()
        after = _versions(modules)
    # As in any call: those that operations say that they write on, which statistics are not.
    buffers = (buffer for module in modules for buffer in module.buffers())
    moved = [b for b, was, now in zip(buffers, before, after, strict=False) if was != now]
    seen = [(r, r.seen) for r in runners]
    return CapturedCall(recording, held, result, seen, before != after, means, [*also, *moved])


def _versions(modules: Sequence[nn.Module]) -> list[int]:
    """How often buffers have been written on."""
    return [buffer._version for module in modules for buffer in module.buffers()]


@contextmanager
def moved_back(modules: Sequence[nn.Module], also: Sequence[Tensor]) -> Iterator[None]:
    """A block after which modules, tensors and generators are what they were."""
    parts = dict.fromkeys(part for module in modules for part in module.modules())
    before = Statistics(part for part in parts if not isinstance(part, Watching))
    roots = (part for part in parts if isinstance(part, Watching))  # whose report is not to go back
    also = (*also, *(b for root in roots for b in vars(root)["_buffers"].values() if b is not None))
    numbers = [(tensor, tensor.detach().clone()) for tensor in also]
    devices = sorted({t.device.index or 0 for m in modules for t in m.parameters() if t.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            before.restore()
            for tensor, old in numbers:
                tensor.data.copy_(old)


def runners_in(modules: Sequence[nn.Module]) -> list[Runner]:
    """What runs the compiled networks among modules and their parts."""
    parts = dict.fromkeys(part for module in modules for part in module.modules())
    found = (getattr(part, "runner", None) for part in parts)
    return [runner for runner in found if isinstance(runner, Runner)]


def is_apart(network: nn.Module) -> bool:
    """Whether a network lies on several devices or ranks, where no one graph can hold a call."""
    runner = getattr(network, "runner", None)
    return isinstance(runner, Runner) and runner.is_apart


def key_of(
    device: Device, leaves: Sequence[Any], *, anywhere: bool = False
) -> tuple[Hashable, ...]:
    """What a graph takes over from arguments: shapes, precisions, and values that are no tensors.

    They may lie ``anywhere`` where pieces are brought their states.

    Raises:
        MethodError: a tensor lies elsewhere, or a value is neither a tensor nor can be compared.

    """
    found: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if not anywhere and not device.holds(leaf):
                raise MethodError(
                    f"capture: an input of shape {list(leaf.shape)} lies on {leaf.device}, and the "
                    "network is captured on another device: move it there first, "
                    "x = x.to(next(net.parameters()).device)."
                )
            found.append((tuple(leaf.shape), leaf.dtype))
        elif isinstance(leaf, Hashable):
            found.append((type(leaf), leaf))
        else:
            raise MethodError(
                f"capture: an argument is a {type(leaf).__name__}, which a graph can neither copy "
                "in nor compare with the next one: pass tensors, numbers or strings."
            )
    return tuple(found)
