"""Shapes: torch's functions on tensors that have a type, a shape and a device, and no numbers.

    forward ── torch.add(x, w) ──► on meta twins of x, w ──► a tensor on the device of x, empty

To the code that calls them they are plain ``torch.Tensor``, so that ``type(x)``, ``x.shape`` and
``x.device`` answer as in any call; asking for a number is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

META = torch.device("meta")
#: Methods that tell of the tensor itself, without its numbers.
PLAIN = frozenset(
    {
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "type"),
        *("is_contiguous", "is_floating_point", "is_complex", "is_signed", "element_size"),
        *("get_device", "__len__", "__hash__", "is_inference", "is_shared", "is_conj", "is_neg"),
        *("has_names", "is_pinned", "register_hook", "retain_grad", "requires_grad_"),
    }
)
#: Methods that ask for numbers.
NUMBERS = frozenset(
    {
        *("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"),
        *("__complex__", "__array__", "equal", "allclose", "is_nonzero", "__contains__"),
        *("__repr__", "__format__", "data_ptr", "backward", "nonzero"),
    }
)


class NumbersWantedError(Exception):
    """A function asks for the numbers of a tensor that has none."""


@final
class ShapesOnly(TorchFunctionMode):
    """Every function of torch that is given a known tensor gives empty ones, which are known then.

    Args:
        known: tensors to begin with; they keep their numbers, which nobody reads.
        seen: is told of every such call, its arguments and its result.

    """

    def __init__(
        self, known: Iterable[Tensor], seen: Callable[[Any, Any, Any, Any], None]
    ) -> None:
        super().__init__()
        self.seen = seen
        self.twins: dict[int, Tensor] = {}
        self.alive: list[Tensor] = []
        self.views: dict[tuple[int, str], Tensor] = {}
        self.results: dict[Any, Any] = {}
        for tensor in known:
            self.know(tensor, tensor.to(META))

    def know(self, tensor: Tensor, twin: Tensor) -> Tensor:
        """Add a tensor, with its twin on the meta device."""
        self.twins[id(tensor)] = twin
        self.alive.append(tensor)
        return tensor

    def knows(self, value: Any) -> bool:
        """Whether a known tensor is in the value."""
        return any(isinstance(v, Tensor) and id(v) in self.twins for v in tree_leaves(value))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function on shapes where a known tensor is among its arguments, else as it is."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if not self.knows((args, kwargs)) or name in {"__set__", "__delete__"}:
            return func(*args, **kwargs)
        if name == "__get__":
            return self._read(func, args[0])
        if name in NUMBERS:
            self.seen(func, args, kwargs, None)
            raise NumbersWantedError(f"it asks for the numbers of a tensor, by {name.strip('_')}")
        if name in PLAIN:
            result = func(*args, **kwargs)
        else:
            result = self.run(func, args, kwargs)
        self.seen(func, args, kwargs, result)
        return result

    def run(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The function's result, by shapes alone."""
        key = self._key(func, args, kwargs)
        if key in self.results:
            shaped = self.results[key]
        else:
            twins = tree_map(self._twin, (args, kwargs))
            with torch.device(META):
                shaped = func(*twins[0], **twins[1])
            kept = [id(v) for v in tree_leaves(twins) if isinstance(v, Tensor)]
            alias = any(id(v) in kept for v in tree_leaves(shaped) if isinstance(v, Tensor))
            if alias:
                return self._aliased(shaped, (args, kwargs), twins)
            self.results[key] = shaped
        device = _device(args, kwargs)
        return tree_map(lambda v: self._empty(v, device) if isinstance(v, Tensor) else v, shaped)

    def _key(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        leaves = tree_leaves((args, kwargs))
        return func, len(args), tuple(kwargs), tuple(map(_form, leaves))

    def _read(self, getter: Any, tensor: Tensor) -> Any:
        name = str(getattr(getter.__self__, "__name__", ""))
        result = getter(tensor)
        if not isinstance(result, Tensor) or name in {"grad", "_base"}:
            return result
        if (id(tensor), name) not in self.views:
            twin = getattr(self.twins[id(tensor)], name)
            self.views[id(tensor), name] = self._empty(twin, tensor.device)
        return self.views[id(tensor), name]

    def _twin(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return META
        if isinstance(value, str) and value.split(":")[0] in {"cpu", "cuda", "mps", "xpu"}:
            return META
        if not isinstance(value, Tensor):
            return value
        twin = self.twins.get(id(value))
        return value.to(META) if twin is None else twin

    def _aliased(self, shaped: Any, given: Any, twins: Any) -> Any:
        """What is given back itself, as by functions that write in place."""
        values, theirs = tree_leaves(given), tree_leaves(twins)
        own = {id(t): v for v, t in zip(values, theirs, strict=True) if isinstance(t, Tensor)}
        device = _device(*given)

        def visit(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            found = own.get(id(value))
            return self._empty(value, device) if found is None else found

        return tree_map(visit, shaped)

    def _empty(self, twin: Tensor, device: torch.device) -> Tensor:
        shape, stride = twin.shape, twin.stride()
        empty = torch.empty_strided(shape, stride, dtype=twin.dtype, device=device)
        empty.untyped_storage().resize_(0)
        return self.know(empty.requires_grad_() if twin.requires_grad else empty, twin)


def _form(value: Any) -> Any:
    """What of an argument decides about the shapes of a result."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.requires_grad
    return type(value), repr(value)


def _device(args: Any, kwargs: Any) -> torch.device:
    leaves = tree_leaves((args, kwargs))
    named = [v for v in leaves if isinstance(v, torch.device)]
    tensors = [v.device for v in leaves if isinstance(v, Tensor)]
    return (named or tensors)[0]
