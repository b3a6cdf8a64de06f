"""Shapes: torch's functions on tensors that have a type, a shape and a device, and no numbers.

    forward ── torch.add(x, w) ──► on meta twins of x, w ──► a tensor on the device of x, empty

To the code that calls them they are plain ``torch.Tensor``, so that ``type(x)``, ``x.shape`` and
``x.device`` answer as in any call; asking for a number is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from sys import getrefcount
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from pararealize.propagators.quick_shapes import QuickShapes

#: References to a tensor that only its list's former element and a call's argument are.
UNHELD = 2
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
#: Attributes that are tensors themselves.
VIEWS = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})
#: Arguments that are part of a key as they are.
PRIMITIVES = (bool, int, float, str, type(None))
#: Methods that ask for numbers.
NUMBERS = frozenset(
    {
        *("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"),
        *("__complex__", "__array__", "equal", "allclose", "is_nonzero", "__contains__"),
        *("__repr__", "__format__", "data_ptr", "backward", "nonzero"),
    }
)


def _untold(_function: Any, _args: Any, _kwargs: Any, _result: Any) -> None:
    """For nobody to be told."""


class NumbersWantedError(Exception):
    """A function asks for the numbers of a tensor that has none."""


@final
class ShapesOnly(TorchFunctionMode):
    """Every function of torch that is given a known tensor gives empty ones, which are known then.

    Args:
        known: tensors to begin with; they keep their numbers, which nobody reads.
        seen: is told of every such call, its arguments and its result.

    """

    def __init__(self, known: Iterable[Tensor], seen: Callable[[Any, Any, Any, Any], None]) -> None:
        super().__init__()
        self.seen = seen
        self.twins: dict[int, Tensor] = {}
        self.alive: list[Tensor] = []
        self.views: dict[tuple[int, str], Tensor] = {}
        self.results: dict[Any, Any] = {}
        self.given_back: dict[Any, int] = {}
        for tensor in known:
            self.know(tensor, tensor.to(META))

    def know(self, tensor: Tensor, twin: Tensor) -> Tensor:
        """Add a tensor, with its twin on the meta device."""
        self.twins[id(tensor)] = twin
        self.alive.append(tensor)
        return tensor

    def knows(self, value: Any) -> bool:
        """Whether a known tensor is in the value."""
        return any(id(v) in self.twins for v in leaves_in(value) if isinstance(v, Tensor))

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
        if name == "__get__":
            return self._read(func, args[0])
        leaves = leaves_in((args, kwargs))
        known = any(id(v) in self.twins for v in leaves if isinstance(v, Tensor))
        if not known or name in {"__set__", "__delete__"}:
            return func(*args, **kwargs)
        if name in NUMBERS:
            self.seen(func, args, kwargs, None)
            raise NumbersWantedError(f"it asks for the numbers of a tensor, by {name.strip('_')}")
        plain = name in PLAIN
        result = func(*args, **kwargs) if plain else self._run(func, args, kwargs, leaves)
        self.seen(func, args, kwargs, result)
        return result

    def quietly(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of one's own gives, by shapes alone; nobody is told of its calls.

        Also where torch's functions are not overridden: tensors without memory would be read there
        by a constructor that looks at numbers, as distributions do.
        """
        seen, self.seen = self.seen, _untold
        try:
            with torch._C._EnableTorchFunction(), self:
                return function(*args, **kwargs)
        finally:
            self.seen = seen

    def _run(
        self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], leaves: list[Any]
    ) -> Any:
        """The function's result, by shapes alone."""
        key = func, len(args), tuple(kwargs), tuple(map(_form, leaves))
        device = _device(leaves)
        if key in self.given_back:
            return leaves[self.given_back[key]]
        if key in self.results:
            return self._emptied(self.results[key], device)
        twins = map_leaves(self._twin, (args, kwargs))
        with torch.device(META), QuickShapes():
            shaped = func(*twins[0], **twins[1])
        places = {id(t): i for i, t in enumerate(leaves_in(twins)) if isinstance(t, Tensor)}
        if id(shaped) in places:  # as functions do that write in place
            self.given_back[key] = places[id(shaped)]
            return leaves[places[id(shaped)]]
        self.results[key] = shaped
        return self._emptied(shaped, device)

    def _emptied(self, shaped: Any, device: torch.device) -> Any:
        if type(shaped) is Tensor:
            return self.empty_like(shaped, device)
        return tree_map_only(Tensor, lambda twin: self.empty_like(twin, device), shaped)

    def _read(self, getter: Any, tensor: Tensor) -> Any:
        name = str(getattr(getter.__self__, "__name__", ""))
        is_view = name in VIEWS and id(tensor) in self.twins
        return self.view(tensor, name) if is_view else getter(tensor)

    def release(self) -> None:
        """Forget all tensors; those that somebody still holds get memory, and NaN for numbers.

        Without memory they would be read out of bounds.
        """
        self.twins, self.views = {}, {}
        while self.alive:
            tensor = self.alive.pop()
            if getrefcount(tensor) > UNHELD and tensor.numel() and not _bytes(tensor):
                last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
                tensor.untyped_storage().resize_((last + 1) * tensor.element_size())
                tensor.data.fill_(torch.nan if tensor.is_floating_point() else 0)

    def attribute(self, value: Any, name: str) -> Any:
        """An attribute of any value, known or not."""
        is_view = name in VIEWS and isinstance(value, Tensor) and id(value) in self.twins
        return self.view(value, name) if is_view else getattr(value, name)

    def view(self, tensor: Tensor, name: str) -> Tensor:
        """A known tensor's attribute that is a tensor, always the same one."""
        if (id(tensor), name) not in self.views:
            twin = getattr(self.twins[id(tensor)], name)
            self.views[id(tensor), name] = self.empty_like(twin, tensor.device)
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

    def empty_like(self, twin: Tensor, device: torch.device) -> Tensor:
        """A tensor without numbers on a device, of which the twin tells the shape."""
        shape, stride = twin.shape, twin.stride()
        empty = torch.empty_strided(shape, stride, dtype=twin.dtype, device=device)
        empty.untyped_storage().resize_(0)
        return self.know(empty.requires_grad_() if twin.requires_grad else empty, twin)


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def leaves_in(value: Any) -> list[Any]:
    """What is in tuples, lists, dictionaries and dataclasses, in order; as fast as can be."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    if isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif type(value) is not Tensor and is_dataclass(value) and not isinstance(value, type):
        for item in vars(value).values():
            _collect(item, found)
    else:
        found.append(value)


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """The value with ``change`` applied to all that is in tuples, lists and dictionaries."""
    if isinstance(value, tuple):
        items = [map_leaves(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_leaves(change, item) for item in value]
    if isinstance(value, dict):
        return {key: map_leaves(change, item) for key, item in value.items()}
    return change(value)


def _form(value: Any) -> Any:
    """What of an argument decides about the shapes of a result."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.requires_grad
    return type(value), value if isinstance(value, PRIMITIVES) else repr(value)


def _device(leaves: list[Any]) -> torch.device:
    named = [v for v in leaves if isinstance(v, torch.device)]
    tensors = [v.device for v in leaves if isinstance(v, Tensor)]
    return (named or tensors)[0]


def form_of_layer(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What decides about the shape that a plain layer of torch gives, or ``None`` for others."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    torchs = type(module).__module__.startswith("torch.nn.modules")
    if hooks or kwargs or not torchs or module._modules or len(args) != 1:
        return None
    given = args[0]
    if type(given) is not Tensor:
        return None
    weights = tuple((p.shape, p.dtype) for p in module._parameters.values() if p is not None)
    own = type(module), module.extra_repr(), module.training, weights
    return own, given.shape, given.stride(), given.dtype, given.requires_grad
