"""Leafwise: networks between states of several tensors, one for each that can be mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor, nn

from pararealize.ir.chain import State, TensorSpec

#: Makes a network from a tensor of one spec to one of another, where one is known.
Mapping = Callable[[TensorSpec, TensorSpec], nn.Module | None]


@final
class Leafwise(nn.Module):
    """One network for each leaf of a tuple state; ``sources`` are the leaves that they read."""

    def __init__(self, parts: list[nn.Module], sources: Sequence[int] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.sources = tuple(range(len(parts))) if sources is None else tuple(sources)

    def forward(self, *leaves: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The mapped leaves, or the one there is."""
        pairs = zip(self.parts, self.sources, strict=True)
        found = tuple(part(leaves[source]) for part, source in pairs)
        return found[0] if len(found) == 1 else found


@final
class Blank(nn.Module):
    """Zeros of a shape: of a leaf of which nothing is known no jump is corrected.

    ``[batch, …] -> [batch, *size]``, or any shape without a batch.
    """

    def __init__(self, source: TensorSpec, target: TensorSpec) -> None:
        super().__init__()
        self.shape, self.dtype = target.shape, target.dtype
        self.batched = bool(target.shape) and source.shape[:1] == target.shape[:1]

    def forward(self, x: Tensor) -> Tensor:
        """The zeros, on the device of the leaf that is read."""
        shape = (len(x), *self.shape[1:]) if self.batched else self.shape
        floating = self.dtype.is_floating_point and x.is_floating_point()
        return x.new_zeros(shape, dtype=x.dtype if floating else self.dtype)

    def extra_repr(self) -> str:
        """The shape."""
        return f"{list(self.shape)}"


def leafwise(
    source: State, target: State, known: Mapping, passed: Sequence[int | None] = ()
) -> nn.Module | None:
    """A network from a state to another, or ``None`` where none of the leaves can be mapped.

    ``passed`` says which leaves are those of the state before, untouched. Others are mapped from
    the leaf at their place, or from the first that can be; those that none can be are zero.
    """
    pairs: list[tuple[int, nn.Module]] = []
    alone: list[nn.Module] = []
    for place, spec in enumerate(target):
        origin = passed[place] if place < len(passed) else None
        if origin is not None:
            pairs.append((origin, nn.Identity()))
        else:
            pairs.append(_mapped(source, place, spec, known))
            alone.append(pairs[-1][1])
    if alone and all(isinstance(part, Blank) for part in alone):
        return None
    sources, parts = zip(*pairs, strict=True)
    return parts[0] if len(source) == len(parts) == 1 else Leafwise(list(parts), sources)


def _mapped(source: State, place: int, spec: TensorSpec, known: Mapping) -> tuple[int, nn.Module]:
    """The leaf that one is mapped from, and the network that does it."""
    order = sorted(range(len(source)), key=lambda i: (i != place, i))
    for i in order:
        if (part := known(source[i], spec)) is not None:
            return i, part
    return order[0], Blank(source[order[0]], spec)
