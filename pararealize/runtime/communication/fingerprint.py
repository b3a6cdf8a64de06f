"""Fingerprint: a number that tells tensors apart, but not two roundings of one tensor."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pararealize.errors import DisagreementError

#: Numbers of a tensor that are looked at.
SAMPLE = 4096

#: Relative difference up to which tensors count as equal; bfloat16 rounds by a tenth of it.
ALIKE = 1e-2

#: The first calls are compared, and then every so many.
FIRST, EVERY = 3, 16


def is_compared(call: int) -> bool:
    """Whether the call of this number is one of those whose tensors ranks compare."""
    return call <= FIRST or call % EVERY == 0


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A weighted sum and the norm of some of the numbers, in 63 bits; never zero."""
    total, squares = 0.0, 0.0
    for tensor in tensors:
        numbers = _sample(tensor)
        weights = torch.cos(1.7 * torch.arange(numbers.numel(), dtype=torch.float64))
        total += float(numbers @ weights)
        squares += float(numbers @ numbers)
    content = struct.pack(">ff", *(min(max(x, -3e38), 3e38) for x in (total, squares**0.5)))
    norm, weighted = content[4:], content[:4]  # a norm has no sign, and an integer one bit less
    return 1 + int.from_bytes(norm + weighted, "big")


def _sample(tensor: Tensor) -> Tensor:
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    numbers = numbers.detach().reshape(-1)
    step = max(1, numbers.numel() // SAMPLE)
    return numbers[::step].to("cpu", torch.float64).nan_to_num(1.0, 2.0, -2.0)


def _read(number: int) -> tuple[float, float]:
    norm, weighted = struct.unpack(">ff", (number - 1).to_bytes(8, "big"))
    return weighted, norm


def other(fingerprints: Sequence[int]) -> int | None:
    """The first rank whose tensors are not those of rank 0; zeros are not compared."""
    if not all(fingerprints):
        return None
    total, norm = _read(fingerprints[0])
    for rank, number in enumerate(fingerprints):
        weighted, length = _read(number)
        bound = ALIKE * max(norm, length)
        if abs(weighted - total) > bound or abs(length - norm) > bound:
            return rank
    return None


def check_same_batch(fingerprints: Sequence[int]) -> None:
    """Raise where ranks were called with inputs of other values.

    Raises:
        DisagreementError: names the first rank that was.

    """
    rank = other(fingerprints)
    if rank is not None:
        raise DisagreementError(
            f"rank {rank} was called with other inputs than rank 0, of the same shape: every rank "
            "has to get the same batch, in the same order. Shuffle with one seed on all of them, "
            "and use no DistributedSampler among the ranks of one network."
        )
