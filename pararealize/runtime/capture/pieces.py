"""Pieces: what a captured network applies, compiled once for every structure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import CaptureWarning
from pararealize.propagators.canonical import (
    Canonical,
    canonical,
    of_module,
    parts_in,
    tensors_read,
)
from pararealize.propagators.fine import Fine
from pararealize.propagators.folded import Folds
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered
from pararealize.runtime.capture.call import runners_in
from pararealize.runtime.capture.compile_options import CompileOptions
from pararealize.runtime.capture.device import Device
from pararealize.runtime.capture.surroundings import HOOKS, autocast_of
from pararealize.runtime.values.pytree import flatten

#: A piece as a function of its view, its arguments and what it reads besides.
Evaluated = Callable[..., Any]
#: What torch says of a call that would have to be compiled again.
AGAIN = "Detected recompile"


@final
@dataclass
class Code:
    """A compiled function with a code object of its own; ``used`` is the last capture it served."""

    function: Callable[..., Any]
    used: int
    is_compiled: bool = False


@final
class PieceCompiler:
    """Compiles the pieces of a network that is captured: those of equal structure once.

    Each structure, with the shapes and precisions that it is called with, has a code object of its
    own, which is compiled once: ``torch.compile`` gives up on one that it has compiled eight times.
    A piece finds its weights at every call, as lanes and changes have left them.

    Args:
        options: how; ``None`` compiles nothing.
        device: what is captured on.
        most: captures after which code that none of them has used is dropped.
        folds: normalisations that are part of convolutions, where that is asked for.

    """

    def __init__(
        self,
        options: CompileOptions | None,
        device: Device,
        most: int,
        folds: Folds | None = None,
    ) -> None:
        self.options, self.device, self._most = options, device, most
        self.folds = folds
        self.codes: dict[Hashable, Code] = {}
        self._pieces: dict[Propagator, CompiledPiece] = {}
        self._told: set[str] = set()
        self._captures = 0

    def begin(self) -> None:
        """A capture begins."""
        self._captures += 1
        kept = {k: c for k, c in self.codes.items() if c.used > self._captures - 1 - self._most}
        self.codes = kept
        self._pieces.clear()
        if self.folds is not None:
            self.folds.refresh(anew=True)

    @contextmanager
    def network(self, network: nn.Module) -> Iterator[Callable[..., Any]]:
        """A block in which the pieces of a network run compiled; gives what to call.

        A network that has none is compiled whole.
        """
        runners = runners_in([network])
        parts = (part for runner in runners for part in runner.propagators)
        if self.options is not None and any(r.solver and r.solver.setting.stacks for r in runners):
            why = (
                'slices of equal structure are one batch: MGRIT(batched="never") has them compiled.'
            )
            self.tell("what MGRIT advances side by side", why)
        if self._leaves_all or runners:
            with self._parts(parts):
                yield network
            return
        draws = any(part.training for part in network.modules())
        yield CompiledPiece(self, of_module(network, "the network"), draws=draws)

    @contextmanager
    def _parts(self, parts: Iterable[Propagator]) -> Iterator[None]:
        """A block in which propagators, and those that they apply, run compiled."""
        found = [] if self._leaves_all else parts_in(parts)
        for part in found:
            part.replaced = self._piece(part)
        try:
            yield
        finally:
            for part in found:
                part.replaced = None

    @property
    def _leaves_all(self) -> bool:
        return self.options is None and self.folds is None

    def _piece(self, part: Fine | Registered) -> CompiledPiece:
        if part not in self._pieces:
            piece = canonical(part, self.folds)
            self._pieces[part] = CompiledPiece(self, piece, draws=part.draws)
        return self._pieces[part]

    def code(self, piece: Canonical, key: Hashable, *, draws: bool) -> Code | None:
        """The code for a piece and what it is called with; none is begun while a graph is recorded.

        Compiling asks the device for times and memory, which a recording cannot.
        """
        assert self.options is not None
        if key not in self.codes:
            if self.device.is_recording:
                return None
            function = self.options.compiled(piece.function(), draws=draws)
            self.codes[key] = Code(function, self._captures)
        found = self.codes[key]
        found.used = self._captures
        return found

    def tell(self, label: str, why: object) -> None:
        """Warn, once, of a piece that runs uncompiled."""
        if label not in self._told:
            self._told.add(label)
            told = f"{label} runs uncompiled: {first_line(why)}"
            warnings.warn(told, CaptureWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.codes)


@final
class CompiledPiece:
    """A piece as a callable of its state and inputs: compiled, or as it is where that fails."""

    def __init__(self, compiler: PieceCompiler, piece: Canonical, *, draws: bool) -> None:
        self._compiler, self._piece, self._draws = compiler, piece, draws
        self._function: Evaluated = piece.function()
        self._structure: Hashable = (piece.structure, draws)
        self._is_alone = False
        self._why: object = None
        hooks = (vars(part)[name] for part in piece.view.modules() for name in HOOKS)
        if compiler.options is not None and any(hooks):
            self._refuse("its layers have hooks, which the compiler takes for what they were.")

    def __call__(self, *values: Any, **named: Any) -> Any:
        """What the piece gives."""
        piece = self._piece
        return self.evaluate(piece.view, *piece.prepared(values), *piece.read(), **named)

    def evaluate(self, view: nn.Module, *arguments: Any, **named: Any) -> Any:
        """The same of all that the piece's function takes."""
        if self._why is not None or self._compiler.options is None:
            return self._function(view, *arguments, **named)
        code = self._code((arguments, named))
        if code is None:
            self._refuse("while it is recorded it is called otherwise than before.")
            return self._function(view, *arguments, **named)
        try:
            return self._run(code, arguments, named)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._refuse(error)
        except RuntimeError as error:
            if AGAIN not in str(error):
                raise
            if self._is_alone:
                self._refuse("it would have to be compiled at every call.")
            self._is_alone = True  # it differs from the piece that the code was made for
        return self.evaluate(view, *arguments, **named)

    def _code(self, arguments: Any) -> Code | None:
        alone = id(self._piece.view) if self._is_alone else None
        tensors = tensors_read(self._piece.view)
        leaves, structure = flatten(arguments)
        autocast = autocast_of(arguments)
        forms_now = tuple(map(form, leaves)), str(structure), forms(tensors), autocast
        key = self._structure, forms_now, torch.is_grad_enabled(), alone
        return self._compiler.code(self._piece, key, draws=self._draws)

    def _run(self, code: Code, arguments: Any, named: dict[str, Any]) -> Any:
        stance: Any = "fail_on_recompile" if code.is_compiled else "default"
        with torch.compiler.set_stance(stance), self._compiler.device.entered():
            result = code.function(self._piece.view, *arguments, **named)
        code.is_compiled = True
        return result

    def _refuse(self, why: object) -> None:
        self._why = why
        self._compiler.tell(self._piece.label, why)


def first_line(why: object) -> str:
    """What an error says at first, or its name where it says nothing."""
    return next(iter(str(why).strip().splitlines()), type(why).__name__)


def forms(tensors: Sequence[Tensor]) -> Hashable:
    """How tensors look, and which of them are the same."""
    first: dict[int, int] = {}
    return tuple((form(t), first.setdefault(id(t), i)) for i, t in enumerate(tensors))


def form(leaf: Any) -> Hashable:
    """What code is made for: the kind of a value, or the value where it is no tensor."""
    if not isinstance(leaf, Tensor):
        return type(leaf), repr(leaf)
    layout = leaf.stride() if leaf.layout == torch.strided else ()
    kind = type(leaf), leaf.dtype, leaf.device, leaf.requires_grad
    return (*kind, tuple(leaf.shape), layout)
