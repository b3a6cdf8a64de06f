"""Fresh networks: a subnetwork's own kinds of layers with weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Segment
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.compiled import compile_segment
from pararealize.propagators.narrow import narrowed
from pararealize.propagators.surroundings import Inside, Surroundings
from pararealize.runtime.values.infinities import without_infinities
from pararealize.runtime.values.pytree import device_of, map_tensors

NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


@final
class Fresh(nn.Module):
    """A segment run with copies of the layers it names, whose weights are their own.

    Args:
        root: the network the segment was taken from.
        segment: the operations to run; modes do not matter (no operation of it reads a flag).
        bias: whether layers keep their biases. Without biases and normalisation a network of
            ReLUs is positively homogeneous, F(a r) = a F(r) for a ≥ 0: no jump gives no
            correction, a small jump a small one.
        trained: whether weights start as those of ``root``; else they are drawn, and only its
            layers' kinds and sizes are read.
        ranks: of layers that are to have low rank, by their path; those are not ``trained``.

    Where most layers were left out it is not to see infinities that these would have masked with:
    ``guarded`` says whether states may hold any, and is ``None`` for networks that may see them.
    """

    guarded: bool | None = None

    def __init__(
        self,
        root: nn.Module,
        segment: Segment,
        *,
        bias: bool,
        trained: bool = False,
        ranks: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self._trained = trained
        names = _keys(o.target for o in segment.operations if o.kind == "module")
        for path, key in names.items():
            layer, rank = root.get_submodule(path), ranks.get(path)
            if rank is None:
                self.layers[key] = _copied(layer) if trained else _renewed(layer, bias)
            else:
                self.layers[key] = _plain(narrowed(layer, rank, bias=bias))
        self.weights = nn.ParameterDict()
        self._weight_keys = _keys(o.target for o in segment.operations if o.kind == "attribute")
        outside = (o.target for o in segment.operations if isinstance(o.target, OutsideBlocks))
        if (function := next(outside, None)) is not None:
            self.around = Surroundings(root, function.calls)
        operations = tuple(self._adopt(o, root, names) for o in segment.operations)
        self.segment = replace(segment, operations=operations)
        self._function = self._compile()

    def _adopt(self, operation: Operation, root: nn.Module, names: dict[str, str]) -> Operation:
        if operation.kind == "module":
            return replace(operation, target=f"layers.{names[operation.target]}")
        if operation.kind == "training":
            return replace(operation, target="")  # its own flag
        if isinstance(operation.target, OutsideBlocks):
            return replace(operation, target=Inside(operation.target))
        if operation.kind != "attribute":
            return operation
        value = attrgetter(operation.target)(root)
        key = self._weight_keys[operation.target]
        if isinstance(value, nn.Parameter):
            copied = nn.Parameter(value.detach().clone())
            self.weights[key] = copied if self._trained else _like(value)
            return replace(operation, target=f"weights.{key}")
        self.register_buffer(key, value.detach().clone())
        return replace(operation, target=key)

    def _compile(self) -> Callable[..., Any]:
        return compile_segment(self.segment, self, "coarse network")

    def forward(self, *values: Any) -> Any:
        """The segment's result."""
        return self._function(self, *self.spared(values))

    @property
    def function(self) -> Callable[..., Any]:
        """What runs the segment, ``(self, *state, *inputs)``."""
        return self._function

    def spared(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as the segment takes them."""
        if self.guarded is None:
            return values
        without = partial(without_infinities, guarded=self.guarded)
        return tuple(map_tensors(without, value) for value in values)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the compiled function."""
        return {k: v for k, v in self.__dict__.items() if k != "_function"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compile again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._function = self._compile()


def _keys(paths: Iterable[str]) -> dict[str, str]:
    """A name without dots for every path; different ones for ``a.b_c`` and ``a_b.c``."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        key = path.replace(".", "_")
        while key in found.values():
            key += "_"
        found[path] = key
    return found


def _like(value: Tensor) -> nn.Parameter:
    """New numbers of the same mean and spread, drawn from the caller's (forked) random state."""
    spread = value.detach().float().std().item() if value.numel() > 1 else 0.0
    noise = torch.randn(value.shape, dtype=value.dtype).to(value.device)
    return nn.Parameter(value.detach().mean() + spread * noise)


def _copied(layer: nn.Module) -> nn.Module:
    """A layer with the same weights, that writes on nothing and can be trained."""
    return _plain(copy.deepcopy(layer))


def _plain(layer: nn.Module) -> nn.Module:
    for part in layer.modules():
        _clear_hooks(part)
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]
    return layer.requires_grad_(True)


def _renewed(layer: nn.Module, bias: bool) -> nn.Module:
    device = device_of(layer)
    layer = _copied(layer).cpu()  # only the CPU's random state is forked
    strips = not bias and not any(layer.children())  # composite layers may need theirs
    for part in layer.modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
        else:
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, _like(value))
        if strips and isinstance(getattr(part, "bias", None), Tensor):
            part.register_parameter("bias", None)
    layer.requires_grad_(True).to(device).train()  # also what was drawn anew
    return layer  # not what its train gives, which may be nothing


def _clear_hooks(module: nn.Module) -> None:
    """The user's hooks watch the user's layers, not copies of them; torch's own make weights."""
    for hooks in (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks):
        hooks.clear()
    for key, hook in list(module._forward_pre_hooks.items()):
        if not type(hook).__module__.startswith("torch.nn.utils"):
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether the module normalises by the batch in train mode and by what it has seen in eval."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def normalises(module: nn.Module) -> bool:
    """Whether the module is a normalisation layer."""
    return isinstance(module, NORMALISATIONS)
