"""Inputs: the arguments of one call, given, or inferred from the network's first layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cost.profile import profile, unresolved
from pararealize.errors import ShapeError
from pararealize.ir.chain import Expectation, Profile, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.ir.program import Operation, Program, Ref

IMAGE_SIZES = (224, 32, 28, 64, 299, 96, 16, 8)
SEQUENCE_LENGTHS = (128, 32, 512, 16)
BATCH = 2


def bind(
    model: nn.Module, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Example arguments by name, or ``None`` where none are given.

    Raises:
        ShapeError: they are not the arguments of the model's ``forward``.

    """
    if args is None and kwargs is None:
        return None
    if isinstance(args, Tensor):
        args = (args,)
    try:
        bound = inspect.signature(model.forward).bind(*(args or ()), **(kwargs or {}))
    except TypeError as error:
        raise ShapeError(
            f"example_inputs do not fit {type(model).__name__}.forward"
            f"{inspect.signature(model.forward)}: {error}. Write example_inputs=(x,)."
        ) from error
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}  # as torch.fx names such inputs
    kinds = {name: p.kind.name for name, p in bound.signature.parameters.items()}
    return {stars.get(kinds[k], "") + k: value for k, value in bound.arguments.items()}


def decisive(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Flags and strings among example arguments: forward code branches on them."""
    return {k: v for k, v in (given or {}).items() if isinstance(v, (bool, str))}


def expectations(program: Program, model: nn.Module) -> dict[str, Expectation]:
    """For every input read first by a convolution or linear layer, what that layer expects."""
    found: dict[str, Expectation] = {}
    for operation in program:
        if operation.kind != "module" or not operation.args:
            continue
        first = operation.args[0]
        source = program[first.name] if isinstance(first, Ref) else None
        if source is not None and source.kind == "input" and source.target not in found:
            expected = _expectation(model.get_submodule(operation.target), operation.target)
            if expected is not None:
                found[source.target] = expected
    return found


def _expectation(module: nn.Module, path: str) -> Expectation | None:
    for axes, kind in ((3, nn.Conv1d), (4, nn.Conv2d), (5, nn.Conv3d)):
        if isinstance(module, kind):
            return Expectation(axes, 1, module.in_channels, f"{path} = {module}")
    if isinstance(module, nn.Linear):
        return Expectation(0, -1, module.in_features, f"{path} = {module}")
    return None


def infer_profile(program: Program, model: nn.Module, machine: Machine) -> Profile:
    """Profile of the network for inputs found by trying candidates; no value is computed.

    A candidate is taken when every operation accepts it and no adaptive pooling has to enlarge
    its input, which is the sign of an image smaller than the network was written for.

    Raises:
        ShapeError: no candidate fits; the message shows the call to write.

    """
    names = unresolved(program)
    if len(names) == 1:
        for spec in _candidates(program, model):
            found = _try(program, model, {names[0]: spec}, machine)
            if found is not None:
                return found
    takes = ", ".join(names) or "no tensor"
    given = ", ".join("torch.randn(batch, ...)" for _ in names)
    raise ShapeError(
        f"the shapes of {type(model).__name__}'s inputs ({takes}) cannot be inferred from its "
        f"first layers: write pararealize(model, n, example_inputs=({given},))."
    )


def likely_inputs(model: nn.Module) -> Iterator[TensorSpec]:
    """Candidates for a network that is not traced yet: its first layer is the one defined first."""
    layers = ((path, m) for path, m in model.named_modules() if not m._modules and path)
    operations = (Operation(path, "module", path) for path, _ in layers)
    return _candidates(Program(tuple(operations)), model)


def fits(program: Program, model: nn.Module, inputs: Mapping[str, Any], machine: Machine) -> bool:
    """Whether every operation accepts the inputs, as :func:`infer_profile` wants it."""
    return _try(program, model, dict(inputs), machine) is not None


def _try(
    program: Program, model: nn.Module, inputs: dict[str, TensorSpec], machine: Machine
) -> Profile | None:
    try:
        profiled = profile(program, model, inputs, machine)
    except ShapeError:
        return None
    for operation in (o for o in program if o.kind == "module" and o.uses):
        if isinstance(model.get_submodule(operation.target), nn.AdaptiveAvgPool2d):
            ends = profiled.specs[operation.uses[0]], profiled.specs[operation.name]
            source, result = (spec.shape[2:] if spec else () for spec in ends)
            if any(a < b for a, b in zip(source, result, strict=False)):
                return None
    return profiled


def _candidates(program: Program, model: nn.Module) -> Iterator[TensorSpec]:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for operation in program:
        if operation.kind != "module":
            continue
        layer = model.get_submodule(operation.target)
        expected = _expectation(layer, operation.target)
        if isinstance(layer, nn.Embedding):
            yield from (TensorSpec((BATCH, t), torch.int64) for t in SEQUENCE_LENGTHS)
        if isinstance(layer, nn.Conv2d):
            yield from (
                TensorSpec((BATCH, layer.in_channels, s, s), dtype) for s in _image_sizes(layer)
            )
        elif expected is not None:
            yield from _other(expected, dtype)
        if expected is not None:
            return


def _image_sizes(layer: nn.Conv2d) -> tuple[int, ...]:
    """Candidate sizes, likeliest first: one channel speaks for digits, a small stem for 32×32."""
    if layer.in_channels == 1:
        return (28, 32, *IMAGE_SIZES)
    small = layer.kernel_size[0] <= 3 and layer.stride[0] == 1
    return (32, *IMAGE_SIZES) if small else IMAGE_SIZES


def _other(expected: Expectation, dtype: torch.dtype) -> Iterator[TensorSpec]:
    size = expected.size
    match expected.rank:
        case 3:
            yield from (TensorSpec((BATCH, size, t), dtype) for t in SEQUENCE_LENGTHS)
        case 5:
            yield from (TensorSpec((BATCH, size, 16, s, s), dtype) for s in (112, 32))
        case _:
            yield TensorSpec((BATCH, size), dtype)
            yield from (TensorSpec((BATCH, t, size), dtype) for t in SEQUENCE_LENGTHS)
            side = round(size**0.5)
            if side * side == size:
                yield TensorSpec((BATCH, 1, side, side), dtype)
            if size % 3 == 0 and (side := round((size // 3) ** 0.5)) ** 2 * 3 == size:
                yield TensorSpec((BATCH, 3, side, side), dtype)
