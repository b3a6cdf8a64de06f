"""Serialise: frozen data as JSON values and back, every value held against its field's type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import cattrs
from cattrs import transform_error
from cattrs.errors import (
    BaseValidationError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.v import format_exception

from pararealize.errors import MethodError, PararealizeError
from pararealize.ir.methods import MGRIT, Method, Parareal, coarse_registry
from pararealize.ir.options import CoarseFactory, DescribedKind
from pararealize.ir.saved_factory import CALLABLE, SavedFactory

T = TypeVar("T")

#: Larger integers are no count of anything.
LARGEST = 2**63

#: What methods are called in saved plans.
METHODS: Mapping[str, type[Parareal] | type[MGRIT]] = {"parareal": Parareal, "mgrit": MGRIT}


def values_of(data: Any) -> Any:
    """A frozen dataclass as JSON values."""
    return _converter().unstructure(data)


def read(kind: type[T], values: Any) -> T:
    """A frozen dataclass of the values that :func:`values_of` gave.

    Raises:
        ValueError: they are none; says what is wrong where.

    """
    try:
        found: T = _converter().structure(values, kind)
        return found
    except BaseValidationError as error:
        refused = error.subgroup(PararealizeError)
        while isinstance(refused, BaseExceptionGroup):
            refused = refused.exceptions[0]  # type: ignore[assignment]
        raise refused or ValueError("; ".join(transform_error(error, "$", _said))) from error
    except AttributeError as error:
        raise ValueError("a list or a number stands where an object was expected") from error


def _said(error: BaseException, kind: type | None) -> str:
    """What is wrong with one entry."""
    told = isinstance(error, (TypeError, ValueError)) and str(error)
    return str(error) if told else format_exception(error, kind)


@cache
def _converter() -> cattrs.Converter:
    """What knows the types of this package's fields; strings are no numbers, flags are none."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    for plain in (int, float, str, bool):
        converter.register_structure_hook(plain, _plain)
    origin: Callable[[Any], Any] = get_origin
    hooks: tuple[tuple[Any, Any], ...] = (
        (lambda kind: origin(kind) is tuple, partial(_tuple, converter)),
        (lambda kind: origin(kind) in {dict, Mapping}, partial(_mapping, converter)),
        (lambda kind: origin(kind) in {Union, UnionType}, partial(_either, converter)),
        (lambda kind: kind == Method, partial(_method, converter)),
        (lambda kind: kind == CoarseFactory, _factory),
        # Itself alone: what has its methods passes for a subclass, to Python 3.13 also here.
        (lambda kind: kind is DescribedKind, _kind),
    )
    for fits, hook in hooks:
        converter.register_structure_hook_func(fits, hook)
    for name, kind in METHODS.items():
        converter.register_unstructure_hook(kind, partial(_method_values, name))
    return converter


def _plain(value: Any, kind: type) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    fits = {int: whole, float: whole or isinstance(value, float)}
    if not fits.get(kind, isinstance(value, kind)):
        raise TypeError(f"expected a {kind.__name__}, found {value!r:.40}")
    return value


def _tuple(converter: cattrs.Converter, values: Any, kind: Any) -> tuple[Any, ...]:
    parts = get_args(kind)
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"expected a list, found {values!r:.40}")
    parts = parts[:1] * len(values) if ... in parts else parts
    if len(values) != len(parts):
        raise ValueError(f"expected {len(parts)} entries, found {len(values)}")
    made, problems = [], []
    for i, (value, part) in enumerate(zip(values, parts, strict=True)):
        try:
            made.append(converter.structure(value, part))
        except Exception as error:
            note = IterableValidationNote(f"at entry {i}", i, part)
            error.__notes__ = [*getattr(error, "__notes__", []), note]
            problems.append(error)
    if problems:
        raise IterableValidationError("entries of a list", problems, kind)
    return tuple(made)


def _mapping(converter: cattrs.Converter, values: Any, kind: Any) -> dict[Any, Any]:
    """JSON's keys are text, also where they were numbers."""
    key, part = get_args(kind)
    if not isinstance(values, Mapping):
        raise TypeError(f"expected an object, found {values!r:.40}")
    return {
        int(k) if key is int else _plain(k, str): converter.structure(v, part)
        for k, v in values.items()
    }


def _either(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    """The value as the last of the types that it fits: names of functions look like text."""
    problem: Exception | None = None
    for part in reversed(get_args(kind)):
        if part is type(None) and value is None:
            return None
        try:
            if part is not type(None):
                return converter.structure(value, part)
        except (TypeError, ValueError, KeyError, BaseValidationError) as error:
            problem = error
    raise problem or TypeError(f"found {value!r:.40}")


def _factory(value: Any, _: Any) -> Any:
    if isinstance(value, str) and value.startswith(CALLABLE):
        return SavedFactory(value)
    raise TypeError(f"expected a function's name, found {value!r:.40}")


def _kind(values: Any, _: Any) -> Any:
    """A kind of coarse propagator; one that is not of this package must be given again."""
    if not isinstance(values, Mapping) or "kind" not in values:
        raise TypeError(f"expected a kind and its parameters, found {values!r:.40}")
    known = coarse_registry().find(str(values["kind"])) is not None
    return coarse_registry().described(values) if known else SavedFactory(dict(values))


def _method(converter: cattrs.Converter, values: Any, _: Any) -> Method:
    if not isinstance(values, Mapping):
        raise TypeError(f"expected an object, found {values!r:.40}")
    options = dict(values)
    kind = METHODS.get(str(options.pop("method", None)))
    if kind is None:
        raise MethodError(f"unknown method {values.get('method')!r}: expected parareal or mgrit.")
    unknown = sorted(set(options) - {field.name for field in fields(kind)})
    if unknown:
        raise MethodError(f"unknown options {unknown} of {kind.__name__}.")
    return converter.structure(options, kind)


def _method_values(name: str, method: Method) -> dict[str, Any]:
    """A method's name, and its options with functions named."""
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(method).items()}
    return {"method": name, **options, "coarse": _coarse_values(method.coarse)}


def _coarse_values(coarse: str | CoarseFactory | DescribedKind) -> Any:
    if isinstance(coarse, SavedFactory):
        return coarse.values
    if callable(coarse):
        return f"{CALLABLE}{getattr(coarse, '__qualname__', coarse)}"
    return coarse if isinstance(coarse, str) else {"kind": coarse.name, **coarse.options}
