"""Fine propagators: stretches of the network itself, run with its own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pararealize.errors import TraceError
from pararealize.ir.program import Segment
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.compiled import compile_segment
from pararealize.propagators.paths import around_of, modules_of
from pararealize.propagators.propagator import Around, Propagator, with_state
from pararealize.propagators.randomness import is_random
from pararealize.runtime.effects.statistics import frozen_statistics, is_torchs
from pararealize.runtime.values.pytree import parameters_of


@final
class Fine(Propagator):
    """Φ_j: the layers between two interfaces, as a view of the network that holds their weights.

    The view owns nothing: modules are found in ``root`` at every call, so that moving, loading or
    replacing them there is enough.

    Args:
        root: the network whose modules the segments name.
        train: operations in train mode.
        evaluate: operations in eval mode (the same object where they do not differ).
        label: how errors name it.
        borrows: it only borrows the layers, whose statistics another propagator moves.

    """

    root: nn.Module

    def __init__(
        self,
        root: nn.Module,
        train: Segment,
        evaluate: Segment,
        label: str,
        *,
        borrows: bool = False,
    ) -> None:
        super().__init__(label, len(train.state))
        self.borrows = borrows
        self.segments = (train, evaluate)
        object.__setattr__(self, "root", root)
        self._functions = self._compile()
        self._paths = [[p.split(".") for p in modules_of(s)] for s in self.segments]
        called = {".".join(path) for paths in self._paths for path in paths}
        self._read = [path for path in dict.fromkeys(self.paths()) if path not in called]
        self._stateful: dict[int, tuple[list[int], tuple[nn.Module, ...]]] = {}

    def _compile(self) -> list[Callable[..., Any]]:
        train, evaluate = (replace(segment, inputs=self.inputs) for segment in self.segments)
        segments = (train,) if train == evaluate else (train, evaluate)
        functions = [compile_segment(segment, self.root, self.label) for segment in segments]
        return [functions[0], functions[-1]]

    def forward(self, *values: Any, commits: bool = True) -> Any:
        """The next state; statistics that are only borrowed never move."""
        return super().forward(*values, commits=commits and not self.borrows)

    def propagate(self, *values: Any) -> Any:
        """Φ_j(state), in the mode of the network.

        Raises:
            TraceError: a module that the trace calls is no longer there.

        """
        if self.replaced is not None:
            return self.replaced(*values)
        function = self.function
        try:
            return function(self.root, *values)
        except KeyError as error:
            missing = self._missing()
            if missing is None:
                raise
            raise TraceError(missing) from error

    @property
    def segment(self) -> Segment:
        """Its operations in the network's mode."""
        return self.segments[0 if self.root.training else 1]

    @property
    def function(self) -> Callable[..., Any]:
        """What runs them, ``(root, *state, *inputs)``."""
        return self._functions[0 if self.root.training else 1]

    def _missing(self) -> str | None:
        """What is wrong where a module was replaced by one that is built otherwise."""
        for path in modules_of(self.segment):
            module = self.root
            for name in path.split("."):
                if name not in module._modules:
                    return (
                        f"{self.label} was traced with {path!r}, and there is no {name!r} in "
                        f"{type(module).__name__} now: replace {path!r} itself, or change the "
                        "original and compile it again."
                    )
                module = module.get_submodule(name)
        return None

    def stateful(self) -> Iterable[nn.Module]:
        """Modules of this stretch that hold state, called or read."""
        mode = 0 if self.root.training else 1
        called = [id(module) for module in self._called(mode)]
        known, found = self._stateful.get(mode, (None, ()))
        if known != called:
            found = tuple(self._find_stateful(self.segments[mode]))
            self._stateful[mode] = called, found
        return found

    def _called(self, mode: int) -> Iterator[nn.Module | None]:
        """The modules called today, looked up as fast as can be."""
        for path in self._paths[mode]:
            module: nn.Module | None = self.root
            for name in path:
                module = module._modules.get(name) if module is not None else None
            yield module

    def _find_stateful(self, segment: Segment) -> Iterable[nn.Module]:
        owners = {o.target.rpartition(".")[0] for o in segment.operations if o.kind == "attribute"}
        paths = dict.fromkeys((*modules_of(segment), *around_of(segment, self.root)))
        found = (attrgetter(path)(self.root) for path in paths)
        called = with_state(module for module in found if isinstance(module, nn.Module))
        read = (self.root.get_submodule(owner) for owner in owners)
        functions = (o.target for o in segment.operations if isinstance(o.target, OutsideBlocks))
        above = (m for f in functions for m in f.calls.above(self.root))
        own = (m for m in above if m._buffers or not is_torchs(m))
        return dict.fromkeys((*called, *(module for module in read if module._buffers), *own))

    def paths(self) -> Iterable[str]:
        """Modules, tensors and flags of the network that either mode uses, by path."""
        for segment in self.segments:
            yield from modules_of(segment)
            yield from around_of(segment, self.root)
            yield from (o.target for o in segment.operations if o.kind == "attribute")
            flags = (o.target for o in segment.operations if o.kind == "training" and o.target)
            yield from (f"{path}.training" for path in flags)

    def called(self) -> Iterable[nn.Module]:
        """Modules that either mode calls, and what is in them."""
        outside = (path for segment in self.segments for path in around_of(segment, self.root))
        read = (attrgetter(path)(self.root) for path in outside)
        for module in (*self._called(0), *self._called(1), *read):
            yield from module.modules() if isinstance(module, nn.Module) else ()

    def weights(self) -> Iterable[Tensor]:
        """Parameters of the network, and buffers that it reads as values, in either mode."""
        for module in dict.fromkeys((*self._called(0), *self._called(1))):
            yield from parameters_of(module) if module is not None else ()
        for path in self._read:
            owner, _, name = path.rpartition(".")
            found = getattr(self.root.get_submodule(owner), name, None)
            if isinstance(found, Tensor):
                yield found
            elif isinstance(found, nn.Module):
                yield from found.parameters()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that either mode reads."""
        train, evaluate = self.segments
        return tuple(dict.fromkeys((*train.inputs, *evaluate.inputs)))

    @property
    def draws(self) -> bool:
        """Whether it may draw random numbers."""
        train, evaluate = self.segments
        both = (train,) if train == evaluate else (train, evaluate)
        return any(is_random(segment, self.root) for segment in both)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the compiled functions."""
        return {k: v for k, v in self.__dict__.items() if k not in {"_functions", "_stateful"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compile again."""
        self.__dict__.update(state)
        self._functions = self._compile()
        self._stateful = {}


@final
class Checkpointed(Around):
    """Φ_j as its intervals one after another, each run again when its adjoint is asked for.

    Args:
        whole: the slice.
        intervals: the same layers in parts, each of which takes the state that the last one made.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.

    """

    inner: Fine
    intervals: tuple[Fine, ...]

    def __init__(self, whole: Fine, intervals: Sequence[Fine]) -> None:
        super().__init__(whole.label, whole.leaves)
        object.__setattr__(self, "inner", whole)
        object.__setattr__(self, "intervals", tuple(intervals))

    def propagate(self, *values: Any) -> Any:
        """Φ_j(state)."""
        inputs = dict(zip(self.inputs, values[self.leaves :], strict=True))
        state = values[: self.leaves]
        for part in self.intervals:
            made = self._run(part, *state, *(inputs[name] for name in part.inputs))
            state = made if isinstance(made, tuple) else (made,)
        return made

    def _run(self, part: Fine, *values: Any) -> Any:
        if not torch.is_grad_enabled():
            return part.propagate(*values)
        contexts = partial(_contexts, part)
        return checkpoint(part.propagate, *values, use_reentrant=False, context_fn=contexts)

    def inner_parts(self) -> Iterable[Propagator]:
        """The intervals."""
        return self.intervals

    def paths(self) -> Iterable[str]:
        """Modules, tensors and flags of the network that the slice reads, by path."""
        return self.inner.paths()

    def weights(self) -> Iterable[Tensor]:
        """Parameters and buffers of the network that the slice reads."""
        return self.inner.weights()


def _contexts(part: Fine) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first run and the second, in which no statistics move."""
    return nullcontext(), frozen_statistics(_stateful_later(part))


def _stateful_later(part: Fine) -> Iterator[nn.Module]:
    """Modules of a part that hold state when they are asked for."""
    yield from part.stateful()
