"""Profile: shapes, floating-point operations and bytes of every value, without computing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from pararealize.cost.drawing import watched
from pararealize.cost.real_run import RealRun
from pararealize.errors import ShapeError
from pararealize.ir.chain import Cost, Profile, State, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.ir.program import Operation, Program
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.meta_run import on_meta
from pararealize.propagators.paths import submodule
from pararealize.propagators.quick_shapes import QuickShapes
from pararealize.runtime.values.pytree import device_of, leaves_of, map_tensors
from pararealize.tracing.copying import without_data, without_gradients
from pararealize.tracing.writes import is_foreign

#: How operations refuse shapes; anything else is a fault of this pass.
REFUSALS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, NotImplementedError),
)

#: Of what computes nothing.
NOTHING = (0.0, 0.0, False, 0)
#: What an operation gives, its floating-point operations and bytes moved, whether it draws, and
#: how many kernels it is.
Measured = tuple[Any, tuple[float, float, bool, int]]


def profile(
    program: Program,
    model: nn.Module,
    inputs: Mapping[str, Any],
    machine: Machine,
    *,
    training: bool = True,
) -> Profile:
    """Shapes and costs of every value for the given inputs (tensors, specs or plain values).

    Runs on meta tensors, which have shapes and no data: nothing is computed, no statistics move,
    no random number is drawn. Layers of equal configuration and input are evaluated once, so that
    the time grows with the number of different layers, not with depth.

    Raises:
        ShapeError: an operation does not take what it is given; names it and the shapes.

    """
    with torch.device("meta"):
        real = RealRun(program, model, inputs, training=training)
        evaluator = _Evaluator(model, training, real)
        values: dict[str, Any] = {}
        found: dict[str, tuple[float, float, bool, int]] = {}
        for operation in program:
            values[operation.name], found[operation.name] = evaluator(operation, values, inputs)
        specs = {
            name: TensorSpec(tuple(v.shape), v.dtype) if isinstance(v, Tensor) else None
            for name, v in values.items()
        }
    launching = {"module", "function", "method", "network"}
    shared = machine.sharing is not None  # where the host launches, a layer costs one launch
    counts = {
        o.name: (max(1, found[o.name][3]) if shared else 1) if o.kind in launching else 0
        for o in program
    }
    costs = {n: machine.cost(*found[n][:2], launches=count) for n, count in counts.items()}
    draws = frozenset(name for name, (_, _, drawn, _) in found.items() if drawn)
    around = (
        o.name for o in program if o.kind == "context" and isinstance(o.target, OutsideBlocks)
    )
    repeated = {name: machine.cost(*found[name][:2], launches=1) for name in around}
    shapes = {o.name: specs[o.name] for o in program.inputs}
    return Profile(specs, costs, shapes, draws, repeated)


def module_cost(module: nn.Module, state: State, machine: Machine) -> Cost:
    """Cost of one call of ``module`` on tensors of the given specs, without computing."""
    return meta_cost(without_data(module).eval(), state, machine)


def meta_cost(module: nn.Module, state: State, machine: Machine) -> Cost:
    """Cost of one call of a module that is on the meta device already, in the mode it is in."""
    with torch.device("meta"):
        inputs = [torch.empty(spec.shape, dtype=spec.dtype) for spec in state]
        leaves = sum(1 for m in module.modules() if not list(m.children()))
        _, (flops, moved, _, kernels) = _measure(module, inputs, {})
    return machine.cost(flops, moved, launches=kernels if machine.sharing else leaves)


def _measure(function: Callable[..., Any], args: Any, kwargs: Any) -> Measured:
    with torch.no_grad():
        return _measured_call(function, args, kwargs)


def _measured_call(function: Callable[..., Any], args: Any, kwargs: Any) -> Measured:
    with FlopCounterMode(display=False) as counter, watched() as draws, QuickShapes():
        call = function.forward if isinstance(function, nn.Module) else function
        result = call(*args, **kwargs)
    tensors = [t for t in leaves_of((args, kwargs, result)) if isinstance(t, Tensor)]
    if isinstance(function, nn.Module):
        tensors.extend(function.parameters())
    moved = sum(t.numel() * t.element_size() for t in tensors)
    return result, (float(counter.get_total_flops()), float(moved), draws.found, draws.kernels)


class _Evaluator:
    """Runs operations on meta tensors; equal leaves with equal inputs are run once."""

    def __init__(self, model: nn.Module, training: bool, real: RealRun) -> None:
        self.model, self.training, self.real = model, training, real
        self.known: dict[Any, Measured] = {}

    def __call__(
        self, operation: Operation, values: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Measured:
        args, kwargs = operation.map_refs(lambda ref: values[ref.name])
        match operation.kind:
            case "input":
                default = operation.args[0] if operation.args else None
                return on_meta(inputs.get(operation.target, default)), NOTHING
            case "attribute":
                return on_meta(attrgetter(operation.target)(self.model)), NOTHING
            case "training":
                return self.training, NOTHING
            case "output":
                return None, NOTHING
        return self._run(operation, args, kwargs)

    def _run(self, operation: Operation, args: Any, kwargs: Any) -> Measured:
        module = submodule(self.model, operation.target) if operation.kind == "module" else None
        key = (_identity(operation, module), _key(args), _key(kwargs))
        if key in self.known:
            return self.known[key]
        try:
            result = _measure(self._callable(operation, module), args, kwargs)
        except REFUSALS as error:
            return self._without_shapes(operation, module, args, kwargs, error)
        if key[0] is not None:
            self.known[key] = result
        return result

    def _without_shapes(
        self,
        operation: Operation,
        module: nn.Module | None,
        args: Any,
        kwargs: Any,
        error: Exception,
    ) -> Measured:
        """What an operation gives that the meta device refuses: of the inputs at hand, or others.

        Around blocks, other numbers may lead a network to other blocks, so that they are tried.
        """
        around = operation.kind in {"network", "context"}
        tensors = [t for t in leaves_of(args) if isinstance(t, Tensor)]
        sparse = any(t.layout != torch.strided for t in tensors)
        whole = operation.kind == "function" and is_foreign(operation.target)
        any_numbers = sparse or whole or around or (module is not None and not _is_torch(module))
        if self.real.is_possible and not sparse and (not around or self.real.is_structured):
            try:
                with torch.device("cpu"):
                    result, cost = self.real.measured(operation, _measured_call)
                return (result if _is_packed(result) else on_meta(result)), cost
            except REFUSALS as refusal:
                error = error if any_numbers else refusal
        if not any_numbers:
            raise ShapeError(_explain(operation, module, args, error)) from error
        owner = self.model if around else module
        return self._computed(operation, owner, args, kwargs)

    @cached_property
    def twin(self) -> nn.Module:
        """The whole network without data."""
        return without_data(self.model)

    def _computed(
        self, operation: Operation, module: nn.Module | None, args: Any, kwargs: Any
    ) -> Measured:
        """The shapes of a module that looks at numbers: it is run once, on random ones.

        So are functions of sparse tensors, which the meta device does not know, and the user's own.
        """
        owner = self.model if module is None else module
        device = device_of(owner)
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                given = map_tensors(partial(random_like, model=owner), (args, kwargs))
                call = self._callable(operation, None)
                if module is not None:
                    twin = without_gradients(copy.deepcopy(module).train(self.training))
                    whole = operation.kind != "module"
                    call = partial(operation.target, twin) if whole else twin
                result, cost = _measure(call, *given)
        except REFUSALS as error:
            raise ShapeError(_explain(operation, module, args, error)) from error
        return on_meta(result), cost

    def _callable(self, operation: Operation, module: nn.Module | None) -> Callable[..., Any]:
        if module is not None:
            return _dropping(without_data(module))
        if operation.kind in {"network", "context"}:
            return partial(operation.target, self.twin)
        if operation.kind == "method":
            name: str = operation.target
            return lambda owner, *args, **kwargs: getattr(owner, name)(*args, **kwargs)
        function: Callable[..., Any] = operation.target
        return function


def random_like(like: Tensor | TensorSpec, model: nn.Module) -> Tensor:
    """A random tensor of a shape and dtype on a model's device; zeros where it counts something."""
    device = device_of(model)
    if isinstance(like, Tensor) and like.layout != torch.strided:
        dense = TensorSpec(tuple(like.shape), like.dtype)
        return random_like(dense, model).to_sparse(layout=like.layout)
    if like.dtype.is_floating_point:
        return torch.randn(like.shape, dtype=like.dtype, device="cpu").to(device)
    return torch.zeros(like.shape, dtype=like.dtype, device=device)


def _is_packed(value: Any) -> bool:
    """Whether a value has a packed sequence in it, which cannot be without numbers."""
    items = value if isinstance(value, (tuple, list)) else ()
    return isinstance(value, PackedSequence) or any(map(_is_packed, items))


def _dropping(module: nn.Module) -> nn.Module:
    """The copy in train mode, in which layers draw; but for BatchNorm, which counts its samples."""
    for part in module.modules():
        part.training = part.training or not isinstance(part, nn.modules.batchnorm._NormBase)
    return module


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _identity(operation: Operation, module: nn.Module | None) -> Any:
    """What decides the result besides the inputs; ``None`` where that is not known."""
    if operation.kind in {"network", "context"}:
        return None
    if module is None:
        return (operation.kind, operation.target)
    if not _is_torch(module):
        return None
    weights = tuple((t.shape, t.dtype) for t in module.parameters())
    return (type(module), repr(module), weights)


def _key(argument: Any) -> Any:
    """A hashable stand-in for an argument: tensors by shape, layout and dtype."""
    if isinstance(argument, Tensor):
        strided = argument.layout == torch.strided
        return (argument.shape, argument.stride() if strided else argument.layout, argument.dtype)
    if isinstance(argument, (tuple, list)):
        return tuple(_key(item) for item in argument)
    if isinstance(argument, dict):
        return tuple((name, _key(item)) for name, item in argument.items())
    return (type(argument), str(argument))


def _explain(operation: Operation, module: nn.Module | None, args: Any, error: Exception) -> str:
    shapes = [str(list(a.shape)) for a in leaves_of(args) if isinstance(a, Tensor)]
    what = f"layer {operation.describe}" + (f" = {module}" if module is not None else "")
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return (
        f"{what} cannot take an input of shape {', '.join(shapes) or 'unknown'}: {reason} "
        "Give inputs that the network takes: pararealize(model, n, "
        "example_inputs=(torch.randn(2, channels, height, width),))."
    )


def unresolved(program: Program) -> tuple[str, ...]:
    """Names of inputs that have no default, in order."""
    return tuple(str(o.target) for o in program.inputs if not o.args)
