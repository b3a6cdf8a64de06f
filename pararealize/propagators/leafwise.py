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
    """Networks between the leaves of tuple states; each reads one leaf, and those of one are added.

    ``sources`` are the leaves that they read, ``targets`` those that they make; by default the
    leaf at their place, each its own.
    """

    def __init__(
        self,
        parts: Sequence[nn.Module],
        sources: Sequence[int] | None = None,
        targets: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.sources = tuple(range(len(parts))) if sources is None else tuple(sources)
        self.targets = tuple(range(len(parts))) if targets is None else tuple(targets)

    def forward(self, *leaves: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The mapped leaves, or the one there is."""
        found: dict[int, Tensor] = {}
        for part, source, target in zip(self.parts, self.sources, self.targets, strict=True):
            mapped = part(leaves[source])
            found[target] = found[target] + mapped if target in found else mapped
        return found[0] if len(found) == 1 else tuple(found.values())


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
    source: State,
    target: State,
    known: Mapping,
    passed: Sequence[int | None] = (),
    *,
    reads_all: bool = False,
) -> nn.Module | None:
    """A network from a state to another, or ``None`` where none of the leaves can be mapped.

    ``passed`` says which leaves are those of the state before, untouched. Others are mapped from
    the leaf at their place, or from the first that can be; those that none can be are zero. With
    ``reads_all`` a leaf that nothing has read is mapped to the first that it can be and added: what
    made it would get no gradient otherwise.
    """
    pairs: list[tuple[int, nn.Module]] = []
    alone: list[int] = []
    for place, spec in enumerate(target):
        origin = passed[place] if place < len(passed) else None
        if origin is not None:
            pairs.append((origin, nn.Identity()))
        else:
            pairs.append(_mapped(source, place, spec, known))
            alone.append(place)
    if alone and all(isinstance(pairs[place][1], Blank) for place in alone):
        return None
    made = list(range(len(pairs)))
    unread = set(range(len(source))) - {read for read, _ in pairs} if reads_all else set()
    for i in sorted(unread):
        for to in alone:
            if i in unread and (part := known(source[i], target[to])) is not None:
                pairs.append((i, part))
                made.append(to)
                unread.discard(i)
    sources, parts = zip(*pairs, strict=True)
    return parts[0] if len(source) == len(parts) == 1 else Leafwise(parts, sources, made)


def _mapped(source: State, place: int, spec: TensorSpec, known: Mapping) -> tuple[int, nn.Module]:
    """The leaf that one is mapped from, and the network that does it."""
    order = sorted(range(len(source)), key=lambda i: (i != place, i))
    for i in order:
        if (part := known(source[i], spec)) is not None:
            return i, part
    return order[0], Blank(source[order[0]], spec)
