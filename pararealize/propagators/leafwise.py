"""Leafwise: networks between states of several tensors, one for each that can be mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from torch import Tensor, nn

from pararealize.ir.chain import State, TensorSpec

#: A network between two leaves, or what stands for it where none is built: its cost.
Part = TypeVar("Part")
#: What maps a tensor of one spec to one of another, where that is known.
Mapping = Callable[[TensorSpec, TensorSpec], Part | None]


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
    known: Mapping[nn.Module],
    passed: Sequence[int | None] = (),
    *,
    reads_all: bool = False,
) -> nn.Module | None:
    """A network from a state to another, or ``None`` where none of the leaves can be mapped.

    See :class:`LeafMaps` for what maps which leaf.
    """
    maps = LeafMaps(known, nn.Identity, Blank)
    pairs = maps.between(source, target, passed, reads_all=reads_all)
    if pairs is None:
        return None
    sources, made, parts = zip(*pairs, strict=True)
    return parts[0] if len(source) == len(parts) == 1 else Leafwise(parts, sources, made)


@final
class LeafMaps(Generic[Part]):
    """What maps a state to another one: leaves that are read and made, with what stands between.

    Args:
        known: what maps a leaf of one spec to one of another, where that is known.
        same: makes what hands a leaf on.
        blank: makes what stands for a leaf that none can be mapped to.

    """

    def __init__(
        self,
        known: Mapping[Part],
        same: Callable[[], Part],
        blank: Callable[[TensorSpec, TensorSpec], Part],
    ) -> None:
        self.known, self.same, self.blank = known, same, blank

    def between(
        self,
        source: State,
        target: State,
        passed: Sequence[int | None] = (),
        *,
        reads_all: bool = False,
    ) -> list[tuple[int, int, Part]] | None:
        """The leaf read, the leaf made, and what maps it; ``None`` where none can be mapped.

        ``passed`` says which leaves are those of the state before, untouched. Others are mapped
        from the leaf at their place, or from the first that can be; those that none can be are
        zero. With ``reads_all`` a leaf that nothing has read is mapped to the first that it can be
        and added: what made it would get no gradient otherwise.
        """
        found: list[tuple[int, int, Part]] = []
        alone: list[int] = []
        mapped = False
        for place, spec in enumerate(target):
            origin = passed[place] if place < len(passed) else None
            if origin is not None:
                found.append((origin, place, self.same()))
                continue
            alone.append(place)
            read, part = self._mapped(source, place, spec)
            mapped = mapped or part is not None
            found.append((read, place, self.blank(source[read], spec) if part is None else part))
        if alone and not mapped:
            return None
        unread = set(range(len(source))) - {read for read, *_ in found} if reads_all else set()
        for i in sorted(unread):
            for to in alone:
                if i in unread and (part := self.known(source[i], target[to])) is not None:
                    found.append((i, to, part))
                    unread.discard(i)
        return found

    def _mapped(self, source: State, place: int, spec: TensorSpec) -> tuple[int, Part | None]:
        """The leaf that one is mapped from, and what does it, where one can be."""
        order = sorted(range(len(source)), key=lambda i: (i != place, i))
        for i in order:
            if (part := self.known(source[i], spec)) is not None:
                return i, part
        return order[0], None
