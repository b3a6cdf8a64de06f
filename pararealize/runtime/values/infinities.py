"""Infinities: sums and differences of states that hold infinite values, or none that can be added.

Masks of -inf and running minima of +inf are carried as they are: ∞ - ∞ is no jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pararealize.runtime.values.pytree import map_tensors


def is_real(leaf: Any) -> bool:
    """Whether a leaf of a state holds numbers that sums and adjoints are known of."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def can_look(leaf: Tensor) -> bool:
    """Whether numbers of a tensor can be looked at now, without waiting for a device."""
    if torch.compiler.is_compiling() or type(leaf) is not Tensor or leaf.device.type != "cpu":
        return False
    if torch._C._len_torch_dispatch_stack() and _is_recorded():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(leaf)


def _is_recorded() -> bool:
    """Whether operations are recorded, to be done again on other numbers."""
    return getattr(_get_current_dispatch_mode(), "is_recording", False)


def is_finite(leaf: Tensor) -> bool:
    """Whether all numbers are finite, and so is their sum; leaves that can be looked at."""
    total = leaf.detach().sum().item()
    return total - total == 0  # neither infinite nor NaN


def differ(one: Tensor, other: Tensor, *, measured: bool = False) -> Tensor:
    """One - other, zero where that is ∞ - ∞ or NaN - NaN.

    An infinite value against a finite one is no jump that could be corrected, and zero as well,
    unless it is ``measured``. A NaN against a number stays one.
    """
    plain = one - other
    kept = torch.isfinite(plain) | (torch.isnan(one) ^ torch.isnan(other))
    if measured:
        kept = kept | (torch.isinf(one) ^ torch.isinf(other))
    return torch.where(kept, plain, torch.zeros_like(plain))


def add(one: Tensor, other: Tensor) -> Tensor:
    """One + other, and one where that is ∞ - ∞."""
    plain = one + other
    opposite = torch.isnan(plain) & ~torch.isnan(one) & ~torch.isnan(other)
    return torch.where(opposite, one, plain)


def correct(first: Tensor, fine: Tensor, old: Tensor) -> Tensor:
    """First + (fine - old) of G(new), v and G(old).

    Where fine - old is no number, v = G(old) gives G(new), and otherwise v stands uncorrected: with
    G(new) = G(old) there is no jump.
    """
    plain = fine - old
    nan = torch.isnan(fine) | torch.isnan(old)
    uncorrected = ~torch.isfinite(plain) & ~nan & (fine != old)
    summed = add(first, differ(fine, old))
    return torch.where(uncorrected, fine, summed)


def combined(signs: str, leaves: Sequence[Tensor]) -> Tensor:
    """± a ± b …, of leaves of which some may be infinite."""
    if signs == "++-":
        return correct(*leaves)
    first = -leaves[0] if signs[0] == "-" else leaves[0]
    for sign, leaf in zip(signs[1:], leaves[1:], strict=True):
        first = add(first, leaf) if sign == "+" else differ(first, leaf)
    return first


@final
class Cancelled(Function):
    """First + (v - v) = first, of which v's adjoint is none.

    Were it zeros, it would run through what v was computed of, a guess of no meaning: 0 · ∞ is NaN.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, _value: Tensor) -> Tensor:
        """The first."""
        return first.view_as(first)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(_ctx: Any, adjoint: Tensor) -> Any:
        """The first's alone."""
        return adjoint, None

    @staticmethod
    def jvp(_ctx: Any, tangent: Tensor, _other: Tensor) -> Tensor:
        """The first's alone."""
        return tangent.view_as(tangent)


def chosen(signs: str, leaves: Sequence[Any]) -> Any:
    """What stands for the sum of leaves that cannot be added: booleans, whole numbers, anything.

    The first; of G(new) + v - G(old) it is v, unless that is G(old), which has no jump.
    """
    if signs != "++-":
        return leaves[0]
    first, fine, old = leaves
    if not isinstance(first, Tensor):
        return first if fine == old else fine
    return first if fine is old else torch.where(fine == old, first, fine)


def finite_part(value: Any) -> Any:
    """The state with zeros in place of infinities, whose norm says how large it is."""
    return map_tensors(_finite, value)


def _finite(leaf: Tensor) -> Tensor:
    return torch.where(torch.isinf(leaf), 0, leaf) if is_real(leaf) else leaf


def without_infinities(leaf: Tensor, *, guarded: bool) -> Tensor:
    """A tensor with zeros in place of infinities, which linear maps would spread.

    Looked for as sums look for them: where that needs no waiting, or where it may hold them.
    """
    if not is_real(leaf):
        return leaf
    if can_look(leaf):
        return leaf if is_finite(leaf) else _finite(leaf)
    return _finite(leaf) if guarded else leaf
