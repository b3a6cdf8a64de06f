"""Measures: how large the jumps of a sweep are, sample by sample, as all ranks know it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pararealize.ir.schedule import Watch
from pararealize.runtime.monitoring.report import Jump
from pararealize.runtime.values.combine import difference
from pararealize.runtime.values.infinities import finite_part
from pararealize.runtime.values.pytree import tensors_of


@dataclass(frozen=True)
class Measure:
    """The jump at one interface in one sweep.

    ``norms[i]`` is the 2-norm of the jump of sample i, ``scales[i]`` that of the new state,
    ``distances[i]`` how far that lies from those of calibration, where that is asked for (else 0):
    float64 on the CPU. Samples are what lies along axis 0, where the batch and all leaves of the
    state share it; otherwise there is one number for all.
    """

    sweep: int
    interface: int
    norms: Tensor
    scales: Tensor
    distances: Tensor

    @property
    def relative(self) -> Tensor:
        """``norms / scales``; infinite where a state is zero that was not, or is not finite."""
        found = torch.where(self.norms == 0, 0.0, self.norms / self.scales)
        return torch.where(self.norms.isnan() | found.isnan(), torch.inf, found)

    def jump(self) -> Jump:
        """The jump of the whole batch, with every sample's relative one."""
        size, scale = (float(torch.linalg.vector_norm(v)) for v in (self.norms, self.scales))
        relative = size / scale if scale else 0.0
        return Jump(
            self.sweep, self.interface, size, relative, samples=tuple(self.relative.tolist())
        )


def batch_of(inputs: Mapping[str, Any]) -> int:
    """Samples in a batch: the first axis of the network's first input that has one."""
    return next((tensor.shape[0] for tensor in tensors_of(dict(inputs)) if tensor.dim()), 0)


def sizes(value: Any, batch: int) -> Tensor:
    """2-norms of the samples of a state, or one of all of it where they are not its first axis."""
    rows = (row.detach() for row in rows_of(value, batch))
    found = [torch.linalg.vector_norm(row.abs(), dim=1, dtype=_wide(row)) for row in rows]
    return torch.linalg.vector_norm(torch.stack(found), dim=0) if found else torch.zeros(1)


def _jump_and_state(new: Any, old: Any, batch: int) -> Tensor:
    """Sizes of a jump and of the new state, a row each; by samples where both are."""
    rows = sizes(difference(new, old), batch), sizes(finite_part(new), batch)
    if len(rows[0]) == len(rows[1]):
        return torch.stack(rows)
    return torch.stack([torch.linalg.vector_norm(row)[None] for row in rows])


def rows_of(value: Any, batch: int) -> list[Tensor]:
    """The leaves of a state that hold numbers, a row for each sample, or one row for all."""
    leaves = [t for t in tensors_of(value) if t.is_floating_point() or t.is_complex()]
    alike = apart(leaves, batch)
    return [leaf.unsqueeze(-1).flatten(1) if alike else leaf.reshape(1, -1) for leaf in leaves]


def apart(leaves: Iterable[Tensor], batch: int) -> bool:
    """Whether samples are the first axis of all of these."""
    return all(leaf.dim() and leaf.shape[0] == batch for leaf in leaves)


def _wide(row: Tensor) -> torch.dtype:
    return torch.float64 if row.dtype in {torch.float64, torch.complex128} else torch.float32


#: By sweep and interface, distances of the samples of a state, of which there are so many.
Known = Mapping[tuple[int, int], Callable[[Any, int], Tensor]]


def tables(
    watches: Iterable[Watch], pairs: Sequence[tuple[Any, Any]], batch: int, known: Known
) -> list[Tensor]:
    """For watched pairs of new and old states, the three rows of a measure: [3, samples].

    Distances are those of ``known`` sweeps and interfaces, zero elsewhere.
    """
    rows = zip(watches, pairs, measured(pairs, batch), strict=True)
    return [
        torch.cat((row, _distances(known.get((w.sweep, w.interface)), new, batch, row.shape[1])))
        for w, (new, _), row in rows
    ]


def _distances(
    known: Callable[[Any, int], Tensor] | None, state: Any, batch: int, samples: int
) -> Tensor:
    """[1, samples]; that of the farthest where samples are not told apart."""
    found = torch.zeros(1, dtype=torch.float64) if known is None else known(state, batch)
    return (found if len(found) == samples else found.amax().expand(samples))[None]


def measured(pairs: Sequence[tuple[Any, Any]], batch: int) -> list[Tensor]:
    """Norms of jumps and of new states, the first two rows of every measure: [2, samples].

    They are on the CPU, after one wait for the device.
    """
    with torch.no_grad():
        rows = [_jump_and_state(new, old, batch) for new, old in pairs]
        together = [row.flatten().to(rows[0].device) for row in rows]
        flat = torch.cat(together).cpu().to(torch.float64) if rows else torch.zeros(0)
    return [part.view(2, -1) for part in flat.split([row.numel() for row in rows])] if rows else []


def shared(
    mine: Mapping[int, Tensor], count: int, batch: int, total: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """All of ``count`` tables [3, samples], of which every rank knows its own.

    ``total`` sums a tensor over ranks.
    """
    numbers = torch.zeros(count, 1 + 3 * max(batch, 1), dtype=torch.float64)
    for i, table in mine.items():
        numbers[i, 0] = table.shape[1]
        numbers[i, 1 : 1 + table.numel()] = table.flatten()
    return [row[1 : 1 + 3 * int(row[0])].view(3, -1) for row in total(numbers)]


def measures(watches: Iterable[Watch], tables: Iterable[Tensor]) -> tuple[Measure, ...]:
    """The jumps by sweep and interface."""
    pairs = zip(watches, tables, strict=True)
    return tuple(Measure(w.sweep, w.interface, *table) for w, table in pairs)
