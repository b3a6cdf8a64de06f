"""Kept functions: those of other libraries that a trace records whole, as they ask what values are.

einops takes tensors apart by rules that it makes of their shapes, packed sequences are ordered by
their lengths, and distributions look at their parameters. Names are bound anew where forward code
looks them up, in its globals and in the library. Classes of distributions get stand-ins there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.distributions import Distribution

from pararealize.tracing.names_bound import names_bound

#: By the library that has to be imported for anybody to use them.
NAMES: Mapping[str, tuple[str, ...]] = {
    "einops": ("rearrange", "reduce", "repeat", "einsum", "pack", "unpack"),
    "torch.nn.utils.rnn": (
        *("pack_padded_sequence", "pad_packed_sequence", "pack_sequence", "unpack_sequence"),
        *("pad_sequence", "unpad_sequence"),
    ),
    "torch.distributions": ("kl_divergence",),
    "torch.distributions.kl": ("kl_divergence",),
}
#: ``record(function, args, kwargs)``: what is made of a call.
Record = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def functions_kept(
    scopes: Iterable[dict[str, Any]], record: Record, concerns: Callable[[Any], bool]
) -> Iterator[None]:
    """Hand calls of such functions to ``record`` for a while, those whose arguments concern it."""
    libraries = [sys.modules[name] for name in NAMES if name in sys.modules]
    known = [vars(module).get(name) for module in libraries for name in NAMES[module.__name__]]
    kept = {id(function) for function in known if function is not None}

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        concerned = concerns((args, kwargs))
        return record(function, args, kwargs) if concerned else function(*args, **kwargs)

    with ExitStack() as stack:
        for scope in (*scopes, *map(vars, libraries)):
            functions = {k: partial(call, v) for k, v in scope.items() if id(v) in kept}
            kinds = {k: _Kind.of(v, call) for k, v in scope.items() if _is_distribution(v)}
            stack.enter_context(names_bound(scope, {**functions, **kinds}))
        yield


def _is_distribution(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Distribution)


class _Kind(type):
    """A class that has another one's instances, and hands over what makes them."""

    @classmethod
    def of(cls, kind: type, call: Callable[..., Any]) -> type:
        """The stand-in of a class."""
        made = cls(kind.__name__, (kind,), {})
        made.make = partial(call, kind)  # type: ignore[attr-defined]
        return made

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance, or what stands for one."""
        return cls.make(*args, **kwargs)  # type: ignore[attr-defined]

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.__mro__[1])

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.__mro__[1])
