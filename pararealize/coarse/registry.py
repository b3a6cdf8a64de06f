"""Registry: all kinds of coarse propagators, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any

from pararealize.coarse.copies import Exact, Stepped, Thinned, Whole
from pararealize.coarse.factored import Factored
from pararealize.coarse.generic import Generic, Positions
from pararealize.coarse.intervals import (
    Fitted,
    Identity,
    IntervalKind,
    Mean,
    Rediscretized,
    Sampled,
    Summed,
)
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.network import Auto, Custom, Network, OwnLayers
from pararealize.errors import CoarseError, MethodError
from pararealize.ir.groups import Group
from pararealize.ir.methods import Method
from pararealize.ir.plan import Piece

#: In the order in which they are listed, compared and tried as substitutes.
KINDS: tuple[type[CoarseKind], ...] = (
    *(Network, Exact, Identity, Rediscretized, Mean, Sampled, Summed, Thinned, Stepped),
    *(Factored, Auto, Generic, Positions, OwnLayers, Whole, Fitted),
)


def find(name: str) -> type[CoarseKind] | None:
    """The kind of a name, if there is one."""
    return next((kind for kind in KINDS if kind.name == name), None)


def names(method: str) -> tuple[str, ...]:
    """Names of the kinds that a method, ``"Parareal"`` or ``"MGRIT"``, offers."""
    return tuple(kind.name for kind in KINDS if method in kind.methods)


def heeding(option: str) -> tuple[str, ...]:
    """Names of the kinds that heed an option such as ``"coarse_depth"``."""
    return tuple(kind.name for kind in KINDS if option in kind.heeds)


def candidates() -> tuple[CoarseKind, ...]:
    """What calibration compares."""
    return tuple(kind(**options) for kind in KINDS for options in kind.candidates)


def substitutes() -> tuple[CoarseKind, ...]:
    """What stands in where a subnetwork has no candidate of a kind."""
    return tuple(kind(**options) for kind in KINDS for options in kind.substitutes)


def measurable() -> tuple[type[IntervalKind], ...]:
    """What multigrid chooses from by measured errors, the identity last."""
    found = (kind for kind in reversed(KINDS) if issubclass(kind, IntervalKind))
    return tuple(kind for kind in found if not kind.fits)


def shortest(method: Method) -> str | CoarseKind:
    """The kind that a method was given, or its name where the method makes the same of that."""
    kind = method.coarse
    assert isinstance(kind, CoarseKind)
    named = find(kind.name) is type(kind) and kind.name in names(type(method).__name__)
    return kind.name if named and kind == kind.of(method) else kind


def asked(method: Method, j: int | None = None) -> CoarseKind:
    """The kind that a method asks for, for subnetwork j or for one not known yet."""
    given = method.coarse
    if isinstance(given, CoarseKind):
        return given
    if callable(given):
        return Custom(given)
    if (found := find(str(given))) is None:
        raise MethodError(f"no kind of coarse propagator is called {given!r}.")
    return found.of(method, j)


def described(values: Mapping[str, Any]) -> CoarseKind:
    """The kind that is called ``kind`` among the values; the others are its parameters.

    One that is not among them has its default, which stands for how it was before there was one.

    Raises:
        CoarseError: there is no such kind, or it has other parameters.

    """
    name, options = str(values.get("kind")), {k: v for k, v in values.items() if k != "kind"}
    found = find(name)
    if found is None or not _fit(found, set(options)):
        raise CoarseError(
            f"no kind of coarse propagator is called {name!r} with {sorted(options)}: give it "
            "where it is defined, as load(path, model, coarse=kind)."
        )
    from pararealize.ir.serialise import read  # noqa: PLC0415  cattrs is slow to import

    return read(found, options)


def _fit(kind: type[CoarseKind], given: set[str]) -> bool:
    """Whether these parameters, and defaults of others, make a kind."""
    known = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING}
    return required <= given <= known


def saved_kinds(pieces: Iterable[Piece | Group], method: Method) -> dict[int, CoarseKind]:
    """The kinds that a saved plan chose, by number; a user's own function is asked again.

    Raises:
        CoarseError: a piece names no kind that is known, or its words are not what its data says.

    """
    if callable(method.coarse):
        return {}
    chosen = (piece for piece in pieces if piece.coarse != "none")
    return {piece.index: _saved_kind(piece, method) for piece in chosen}


def _saved_kind(piece: Piece | Group, method: Method) -> CoarseKind:
    given = method.coarse
    if isinstance(given, CoarseKind) and piece.coarse == str(given):
        return given
    if not piece.coarse_kind:
        return kind_of_saved(piece.coarse, method, piece.index)
    try:
        kind = described({**piece.coarse_options, "kind": piece.coarse_kind})
    except ValueError as error:
        raise CoarseError(str(error)) from error
    if str(kind) != piece.coarse:
        raise CoarseError(f"what is called {piece.coarse!r} is described as {str(kind)!r}.")
    return kind


def kind_of_saved(text: str, method: Method, j: int) -> CoarseKind:
    """The kind that plans without parameters wrote as a text, such as ``"thinned 2"``.

    Raises:
        CoarseError: no kind was written so.

    """
    name, _, number = text.partition(" ")
    numbered = {"thinned": (Thinned, int), "stepped": (Stepped, int), "factored": (Factored, float)}
    with suppress(ValueError):
        if name in numbered:
            kind, number_of = numbered[name]
            return kind(number_of(number))
        if found := find(text):
            return found.of(method, j)
    raise CoarseError(f"no kind of coarse propagator was written {text!r}.")
