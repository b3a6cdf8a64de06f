"""Combine: sums and differences of states, leaf by leaf, and parts of their batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pararealize.errors import ShapeError
from pararealize.runtime.values.infinities import (
    Cancelled,
    can_look,
    chosen,
    combined,
    differ,
    is_finite,
    is_real,
)
from pararealize.runtime.values.pytree import flatten, unflatten


def combine(signs: str, *values: Any, guarded: bool = False) -> Any:
    """± a ± b …, leaf by leaf: ``combine("+-", new, old)`` is the jump new - old.

    The first is added to the sum of the others: in a + (v - g) with v = g nothing is rounded.
    Equal values make no jump, infinite ones neither, which are looked for where that needs no
    waiting for a device; elsewhere where states may hold them (``guarded``).

    A state is a tensor or a pytree of them. Leaves that are no floating-point tensors (indices,
    masks) cannot be corrected and are taken from the first value, or where the first is a coarse
    propagator's, from the fine one.

    Raises:
        ShapeError: the values differ in shape, so that adding them would broadcast.

    """
    flat = [flatten(value) for value in values]
    first, structure = flat[0]
    for leaves, other in flat[1:]:
        if other != structure:
            raise ShapeError(f"states of different structure meet: {structure} and {other}.")
        _check_shapes(first, leaves)
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    if signs == "++-" and _cancels(columns) and _may_be_infinite(flat[1][0], guarded):
        columns = [_without_cancelled(*column) for column in columns]
    return unflatten([_combine_leaf(signs, column, guarded) for column in columns], structure)


def difference(new: Any, old: Any) -> Any:
    """New - old as it is measured: what cannot be corrected and is not equal is an infinite jump.

    That is an infinite value against a finite one, or another boolean or whole number.
    """
    (leaves, structure), (others, _) = flatten(new), flatten(old)
    return unflatten([_apart(*pair) for pair in zip(leaves, others, strict=True)], structure)


def _apart(new: Any, old: Any) -> Any:
    if is_real(new):
        return differ(new, old, measured=True)
    return torch.where(new == old, 0.0, torch.inf) if isinstance(new, Tensor) else new


def _check_shapes(first: list[Any], other: list[Any]) -> None:
    for a, b in zip(first, other, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
            raise ShapeError(
                f"a state of shape {list(a.shape)} meets a guess or correction of shape "
                f"{list(b.shape)}: compile for inputs of this size, "
                "pararealize(model, n, example_inputs=(x,))."
            )


def _combine_leaf(signs: str, leaves: tuple[Any, ...], guarded: bool) -> Any:
    first = leaves[0]
    if not is_real(first):
        return chosen(signs, leaves)
    if len(leaves) == 1:
        return -first if signs[0] == "-" else first
    if can_look(first):
        found = _sum(signs, leaves)
        return found if is_finite(found) else combined(signs, leaves)
    return combined(signs, leaves) if guarded else _sum(signs, leaves)


def _cancels(columns: Sequence[tuple[Any, ...]]) -> bool:
    """Whether first + (fine - old) has leaves of fine that are those of old."""
    return any(fine is old and is_real(first) for first, fine, old in columns)


def _may_be_infinite(state: Sequence[Any], guarded: bool) -> bool:
    """Whether an adjoint of zeros could become NaN on its way through what the state was made of.

    One leaf may be finite although what all were made of is not, as tanh(∞) is.
    """
    if torch.compiler.is_compiling():  # which takes no function with a derivative of its own
        return False
    return guarded or any(is_real(x) and can_look(x) and not is_finite(x) for x in state)


def _without_cancelled(first: Any, fine: Any, old: Any) -> tuple[Any, ...]:
    """The terms of first + (fine - old) that the sum's adjoint has to reach."""
    if fine is not old or not is_real(first):
        return first, fine, old
    return (Cancelled.apply(first, fine),)  # type: ignore[no-untyped-call]


def _sum(signs: str, leaves: tuple[Any, ...]) -> Any:
    first = -leaves[0] if signs[0] == "-" else leaves[0]
    rest = leaves[1]
    for sign, leaf in zip(signs[2:], leaves[2:], strict=True):
        rest = rest + leaf if sign == signs[1] else rest - leaf
    return torch.add(first, rest) if signs[1] == "+" else torch.sub(first, rest)


def cut(value: Any, parts: int) -> list[Any]:
    """A state's batch in so many parts, as equal as can be; the last ones may be empty."""
    leaves, structure = flatten(value)
    columns = [torch.tensor_split(leaf, parts) for leaf in leaves]
    return [unflatten(list(row), structure) for row in zip(*columns, strict=True)]


def join(parts: Sequence[Any]) -> Any:
    """The state whose batch these parts are."""
    flat = [flatten(part) for part in parts]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return unflatten([torch.cat(column) for column in columns], flat[0][1])
