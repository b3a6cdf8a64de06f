"""Alike: every rank calibrates with the same batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from pararealize.calibration.data import Inputs
from pararealize.errors import CalibrationError
from pararealize.runtime.communication.fingerprint import fingerprint, other
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.values.pytree import tensors_of


def alike(batches: Iterable[Inputs], transport: Transport | None) -> Iterator[Inputs]:
    """The batches, while all ranks have the same; what one of them cannot read ends all.

    Raises:
        CalibrationError: ranks have other batches, or not as many; or this rank's own problem.
        PeerError: another rank's.

    """
    each = iter(batches)
    for number in count(1):
        problem, inputs = None, None
        try:
            inputs = next(each, None)
        except CalibrationError as error:
            if transport is None:
                raise
            problem = error
        if transport is not None:
            mine = 0 if inputs is None else fingerprint(tensors_of(inputs))
            _compare(transport.exchange(mine, problem), number)
        if inputs is None:
            return
        yield inputs


def _compare(rows: list[int], number: int) -> None:
    """Raise unless all ranks have this batch, or none has."""
    ends = [rank for rank, found in enumerate(rows) if not found]
    if 0 < len(ends) < len(rows):
        raise CalibrationError(
            f"rank {ends[0]} has {number - 1} batches to calibrate with, and others have more: "
            "every rank has to get the same data, in the same order."
        )
    rank = other(rows)
    if rank is not None:
        raise CalibrationError(
            f"rank {rank} has another batch {number} to calibrate with than rank 0: every rank has "
            "to get the same data, in the same order. Shuffle with one seed, or not at all."
        )
