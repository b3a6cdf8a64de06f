"""Call checks: whether the arguments of a call are such as the network was compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pararealize.emit.emission import Emission
from pararealize.errors import ShapeError
from pararealize.ir.chain import Expectation
from pararealize.ir.program import FIXED, Operation
from pararealize.propagators.shape_guards import ShapeGuards


def check_call(emission: Emission, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise where an argument does not fit the first layers, or what the network was traced with.

    The other ranks hear of it.

    Raises:
        ShapeError: names the argument, what was found and what was expected.

    """
    try:
        _check(emission.arguments, emission.decisions.expectations, args, kwargs)
        _check_absent(emission, args, kwargs)
        check_shapes(emission, args, kwargs)
    except ShapeError as error:
        if emission.transport is not None:
            emission.transport.refuse(error)
        raise


def check_shapes(emission: Emission, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise where the network would take another way than the program, for shapes as these.

    Raises:
        ShapeError: names the line that branches.

    """
    guards: tuple[ShapeGuards | None, ...] = emission.decisions.partition.chain.guards
    if not any(guards):
        return
    training = emission.serial.training
    mine = guards[0] if training else guards[-1]
    given = _named(emission.arguments, args, kwargs)
    problem = "" if mine is None else mine.broken(training, given)
    if problem:
        raise ShapeError(problem)


def _named(
    arguments: tuple[Operation, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call gives, by the names of the network's arguments."""
    return {**dict(zip((a.target for a in arguments), args, strict=False)), **kwargs}


def _check(
    arguments: tuple[Operation, ...],
    expectations: Mapping[str, Expectation],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    given = _named(arguments, args, kwargs)
    for argument in arguments:
        if FIXED in argument.kwargs and argument.target in given:
            _check_fixed(argument.target, given[argument.target], argument.kwargs[FIXED])
    for name, expected in expectations.items():
        value = given.get(name)
        if isinstance(value, Tensor) and (problem := expected.mismatch(tuple(value.shape))):
            raise ShapeError(
                f"the input {name!r} has shape {list(value.shape)}, and {problem}: give one with "
                f"{expected.size} on axis {expected.axis}."
            )


def _check_absent(emission: Emission, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise where what was a tensor is absent; around its blocks a network sees that for itself."""
    if emission.plan.tracing.blocks:
        return
    given = _named(emission.arguments, args, kwargs)
    for argument in emission.arguments:
        optional = argument.args == (None,) and FIXED not in argument.kwargs
        if optional and given.get(argument.target) is None:
            name = argument.target
            raise ShapeError(
                f"the input {name!r} was given when the network was compiled, and is not now: give "
                f"it, {name}=..., or compile another network without it."
            )


def _check_fixed(name: str, found: Any, fixed: Any) -> None:
    same = found is fixed or (type(found) is type(fixed) and not isinstance(found, Tensor))
    if same and found == fixed:
        return
    if fixed is None:
        raise ShapeError(
            f"the input {name!r} was not given when the network was compiled, so what it does is "
            "not part of it: write pararealize(model, n, example_inputs=..., "
            f"example_kwargs={{{name!r}: {name}}})."
        )
    raise ShapeError(
        f"the input {name!r} is {fixed!r} in this network, which was compiled with "
        f"concrete_args={{{name!r}: {fixed!r}}}: compile another one for {found!r:.60}."
    )
