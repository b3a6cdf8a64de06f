"""Piece graphs: the pieces of a network that no one graph can hold, each recorded by itself.

The schedule, or autograd, launches them: what lies between them (sums, messages, the loss) runs as
it is. A piece that is evaluated several times in a step has graphs for each evaluation, since what
one of them keeps for its adjoint the next one must not overwrite.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import CaptureWarning, MethodError
from pararealize.propagators.canonical import Canonical, bound, canonical, parts_in, tensors_read
from pararealize.propagators.folded import Folds
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.capture.device import Device
from pararealize.runtime.capture.piece_graph import Leaves, PieceCall, PieceGraph, record_piece
from pararealize.runtime.capture.pieces import CompiledPiece, Evaluated, first_line, form, forms
from pararealize.runtime.capture.surroundings import autocast_of, autocast_without_cache
from pararealize.runtime.values.pytree import flatten, unflatten


@final
class PieceGraphs:
    """Graphs of a network's pieces, made when a piece is first called as it is then.

    Args:
        device: what they are recorded on.
        parts: what the tasks apply.
        copies: hand out copies, where values may be read after the piece is called again.
        strict: raise where a piece cannot be recorded.
        folds: normalisations that are part of convolutions.

    """

    def __init__(
        self,
        device: Device,
        parts: Iterable[Propagator],
        *,
        copies: bool,
        strict: bool,
        folds: Folds | None = None,
    ) -> None:
        self.device, self.copies, self._strict = device, copies, strict
        found = parts_in(parts)
        self._pieces = {part: GraphedPiece(self, canonical(part, folds)) for part in found}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """A step: pieces are replayed in the block, and in its backward pass."""
        before = {part: part.replaced for part in self._pieces}
        for part, piece in self._pieces.items():
            piece.begin(before[part])
            part.replaced = piece
        try:
            yield
        finally:
            for part, replaced in before.items():
                part.replaced = replaced

    def refuse(self, label: str, why: object) -> None:
        """A piece runs without a graph.

        Raises:
            MethodError: nothing may.

        """
        told = f"{label} cannot be captured: {first_line(why)}"
        if self._strict:
            raise MethodError(told)
        warnings.warn(f"{told} It runs without a graph.", CaptureWarning, stacklevel=2)

    def __len__(self) -> int:
        return sum(len(piece.graphs) for piece in self._pieces.values())


@final
class GraphedPiece:
    """A piece as a callable of its state and inputs, by graphs."""

    def __init__(self, of: PieceGraphs, piece: Canonical) -> None:
        self._of, self._piece = of, piece
        self._function: Evaluated = piece.function()
        self._evaluate = self._function
        self._own = set(map(id, self._tensors()))
        self._evaluations: Counter[Hashable] = Counter()
        self._is_refused = False
        self.graphs: dict[Hashable, PieceGraph] = {}

    def begin(self, replaced: Callable[..., Any] | None) -> None:
        """A step begins; its layers run compiled where they are ``replaced``."""
        self._evaluations.clear()
        if isinstance(replaced, CompiledPiece):
            self._evaluate = replaced.evaluate
        else:
            self._evaluate = self._function

    def __call__(self, *values: Any) -> Any:
        """What the piece gives."""
        arguments, read = self._piece.prepared(values), self._piece.read()
        tensors, (leaves, structure) = self._tensors(), flatten(arguments)
        if self._is_refused or self._of.device.is_recording:
            return self._evaluate(self._piece.view, *arguments, *read)
        learns = torch.is_grad_enabled() and any(
            each.requires_grad for each in (*leaves, *tensors) if isinstance(each, Tensor)
        )
        key = self._key(leaves, structure, tensors, read, learns=learns)
        graph = self.graphs.get(key) or self._recorded(key, leaves, structure, tensors, learns)
        if graph is None:
            return self._evaluate(self._piece.view, *arguments, *read)
        with self._of.device.at((*leaves, *tensors)):
            return graph(leaves, tensors)

    def _tensors(self) -> list[Tensor]:
        read = (value for value in self._piece.read() if isinstance(value, Tensor))
        return [*tensors_read(self._piece.view), *read]

    def _key(
        self,
        leaves: Leaves,
        structure: Any,
        tensors: Sequence[Tensor],
        read: Sequence[Any],
        *,
        learns: bool,
    ) -> Hashable:
        """What graphs are made for, and which evaluation of the step this is."""
        own = tuple(id(tensor) in self._own for tensor in tensors)
        plain = tuple(repr(value) for value in read if not isinstance(value, Tensor))
        autocast = autocast_of(leaves)
        key = tuple(map(form, leaves)), str(structure), forms(tensors), own, plain, autocast, learns
        if not learns and self._of.copies:
            return key, 0  # nothing is kept for an adjoint, and answers are copies
        self._evaluations[key] += 1
        return key, self._evaluations[key]

    def _recorded(
        self, key: Hashable, leaves: Leaves, structure: Any, tensors: Sequence[Tensor], learns: bool
    ) -> PieceGraph | None:
        def run(held: Leaves, memory: Sequence[Tensor]) -> Any:
            with bound(self._piece, memory) as read, autocast_without_cache(held):
                arguments = unflatten(list(held), structure)
                return self._evaluate(self._piece.view, *arguments, *read)

        device, modules = self._of.device, tuple(self._piece.view.modules())
        own = [id(tensor) in self._own for tensor in tensors]
        call = PieceCall(run, leaves, tensors, own, modules, self._of.copies)
        elsewhere = [t for t in (*leaves, *tensors) if isinstance(t, Tensor) and not device.can(t)]
        try:
            if elsewhere:
                raise MethodError(f"it lies on {elsewhere[0].device}.")
            with device.at((*leaves, *tensors)):
                self.graphs[key] = record_piece(device, call, learns=learns)
        except (MethodError, RuntimeError) as error:
            self._is_refused = True
            self._of.refuse(self._piece.label, error)
            return None
        return self.graphs[key]
