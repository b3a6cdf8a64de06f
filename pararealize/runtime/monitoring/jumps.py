"""Jumps: how far sweeps move the states, as a number that can be made small by training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import MethodError
from pararealize.ir.schedule import Watch
from pararealize.runtime.monitoring.measures import rows_of
from pararealize.runtime.monitoring.report import Jump, Report, norm
from pararealize.runtime.values.combine import combine, difference, join
from pararealize.runtime.values.infinities import finite_part
from pararealize.runtime.values.pytree import tensors_of

#: A watch with the new and the old state.
Watched = tuple[Watch, Any, Any]


@final
class Jumps:
    """The jumps of the last call in a block, with autograd's graph."""

    def __init__(self) -> None:
        self._penalty: Tensor | None = None

    def forget(self) -> None:
        """A call begins."""
        self._penalty = None

    def keep(self, penalty: Tensor, output: Any) -> None:
        """The penalty of a call, where its output lies and as wide as that, but 32 bits at least.

        There is none in half precision, where squares of small jumps are zero.
        """
        like = next((t for t in tensors_of(output) if t.is_floating_point()), penalty)
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._penalty = penalty.to(like.device, wide)

    def penalty(self) -> Tensor:
        """The mean of ‖u_new - u_old‖² / ‖u_new‖² over interfaces, sweeps and samples; a scalar.

        The denominator is a constant to autograd, so that large states are no way out. Where no
        sweep has left a jump, zero. On ranks it is the same number everywhere, and its gradient
        reaches every rank's parameters: all add it to the loss.

        Raises:
            MethodError: the network was not called in the block.

        """
        if self._penalty is None:
            raise MethodError(
                "no jumps: the network was not called yet, or ran compiled by torch.compile. "
                "Write: with net.jumps() as jumps: loss = criterion(net(x), y) + 0.1 * "
                "jumps.penalty()."
            )
        return self._penalty


def watched_report(watched: Iterable[Watched], sweeps: int) -> Report:
    """The jumps between new and old states, slices of a batch put together."""
    jumps = []
    for (sweep, interface), pairs in by_jump(watched).items():
        size = norm([difference(new, old) for new, old in pairs])
        scale = norm([finite_part(new) for new, _ in pairs])
        jumps.append(Jump(sweep, interface, size, size / scale if scale else 0.0))
    return Report(tuple(jumps), sweeps=sweeps)


def summed_jumps(watched: Iterable[Watched], watches: Iterable[Watch], batch: int) -> Tensor:
    """What jumps seen here contribute to the mean over all watches of a call's relative squares.

    Jumps seen slice by slice are put together again. A state that is zero counts as one of size 1.
    """
    number = len({(watch.sweep, watch.interface) for watch in watches})  # slices put together
    terms = [_mean_square(pairs, batch) for pairs in by_jump(watched).values()]
    total = torch.stack([t.to(terms[0]) for t in terms]).sum() if terms else torch.zeros(())
    return total / max(1, number)


def by_jump(watched: Iterable[Watched]) -> dict[tuple[int, int], list[tuple[Any, Any]]]:
    """New and old states by sweep and interface, one pair for each slice of the batch."""
    slices: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
    for watch, new, old in watched:
        slices.setdefault((watch.sweep, watch.interface), []).append((new, old))
    return slices


def _mean_square(pairs: Sequence[tuple[Any, Any]], batch: int) -> Tensor:
    new, old = pairs[0]
    if len(pairs) > 1:
        new, old = (join(side) for side in zip(*pairs, strict=True))
    size = _squares(combine("+-", new, old, guarded=True), batch)
    with torch.no_grad():
        scale = _squares(finite_part(new), batch)
    found: Tensor = (size / torch.where(scale > 0, scale, 1.0)).mean()
    return found


def _squares(value: Any, batch: int) -> Tensor:
    """Squared 2-norms of the samples of a state."""
    rows = rows_of(value, batch)
    if not rows:
        return torch.zeros(1)
    wide = [row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]
    return torch.stack([(row * row.conj()).real.sum(1).to(wide[0].device) for row in wide]).sum(0)
