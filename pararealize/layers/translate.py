"""Options of TorchBraid in the words of MGRIT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from pararealize.errors import MethodError
from pararealize.ir.methods import MGRIT
from pararealize.ir.options import is_count


def _same(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: dict.fromkeys(names, value)


def _relaxation(count: Any) -> dict[str, Any]:
    """``"F" + count × "CF"``."""
    if not is_count(count, 0):
        raise MethodError(
            f"num_relax={count!r}: expected the number of C-relaxations of a cycle, 0 for 'F', "
            "1 for 'FCF'."
        )
    return {"relaxation": "F" + "CF" * count}


def _storage(kept: Any) -> dict[str, Any]:
    """C-points or all points for XBraid's numbers; MGRIT's own words go as they are."""
    numbers = {-1: "intervals", 0: "all"}
    return {"storage": numbers.get(kept, kept) if isinstance(kept, int) else kept}


#: TorchBraid's words, general ones first: what comes later overrides.
TORCHBRAID: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "max_levels": _same("levels"),
    "max_fwd_levels": _same("levels"),
    "max_bwd_levels": _same("levels"),
    "cfactor": _same("coarsening"),
    "max_iters": _same("forward_cycles", "backward_cycles"),
    "max_fwd_iters": _same("forward_cycles"),
    "max_bwd_iters": _same("backward_cycles"),
    "num_relax": _relaxation,
    "skip_downcycle": lambda skip: {"guess": "coarsest" if skip else "coarse"},
    "fmg": lambda asked: {"cycle": "F", "guess": "full"} if asked else {},
    "storage": _storage,
    "tol": _same("tolerance"),
}


def translate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of :class:`MGRIT` for those of TorchBraid, or for its own, which go as they are.

    Raises:
        MethodError: an unknown option; two for one thing; or one that has no counterpart.

    """
    own = {field.name for field in fields(MGRIT)}
    _check_known(options, own)
    _check_levels(options)
    found: dict[str, Any] = {}
    for name, words in TORCHBRAID.items():
        if name in options:
            found |= words(options[name])
    for name in options.keys() & (own - TORCHBRAID.keys()):
        if name in found:
            raise MethodError(f"{name!r} is said twice, in TorchBraid's words and in MGRIT's.")
        found[name] = options[name]
    return found


def _check_known(options: Mapping[str, Any], own: set[str]) -> None:
    unknown = sorted(options.keys() - TORCHBRAID.keys() - own)
    if unknown:
        raise MethodError(
            f"LayerParallel has no option {unknown[0]!r}. In TorchBraid's words it takes "
            f"{', '.join(TORCHBRAID)}; in MGRIT's {', '.join(sorted(own - TORCHBRAID.keys()))}; "
            "and slices and example_inputs."
        )


def _check_levels(options: Mapping[str, Any]) -> None:
    given = {k: options[k] for k in ("max_fwd_levels", "max_bwd_levels") if k in options}
    if len(set(given.values())) > 1:
        raise MethodError(
            f"{', '.join(f'{k}={v}' for k, v in given.items())}: states and adjoints go through "
            "the same levels: write max_levels=2."
        )
    for name, count in {k: options[k] for k in options.keys() & {*given, "max_levels"}}.items():
        if count == 1:
            raise MethodError(
                f"{name}=1 is the serial chain: write {name}=2, or slices=1 for the serial chain."
            )
