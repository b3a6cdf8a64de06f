"""Carried: an optimizer's state on one depth, from that of another and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam

from pararealize.errors import MethodError
from pararealize.layers.transfer import Transfer

#: What the tensors of a state are: sums of gradients, sums of their squares, or numbers of steps.
_ADAM = {
    "exp_avg": "gradient",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
    "step": "number",
    "mu_product": "number",
}
_KINDS: Mapping[type[Optimizer], Mapping[str, str]] = {
    SGD: {"momentum_buffer": "gradient"},
    Adagrad: {"sum": "square", "step": "number"},
    **dict.fromkeys((Adam, AdamW, NAdam, RAdam), _ADAM),
}

#: The state of every parameter that has one, by the parameter's name.
States = dict[str, dict[str, Tensor]]
Parameters = Mapping[str, Parameter]


def check_carried(optimizer: Optimizer) -> None:
    """Raise :class:`MethodError` where states of this kind are not known."""
    if type(optimizer) not in _KINDS:
        known = ", ".join(sorted(kind.__name__ for kind in _KINDS))
        raise MethodError(
            f"mgopt does not know how the state of {type(optimizer).__name__} goes from one depth "
            f"to another: take one of torch.optim's {known}, as in "
            "optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=1e-3)"
        )


@torch.no_grad()
def lower(transfer: Transfer, fine: Optimizer, own: Parameters, below: Parameters) -> States:
    """The state on the coarse depth: R of momenta, and (R √v)² of mean squares v."""
    states = states_of(fine, own)
    kinds = _KINDS[type(fine)]
    keys = sorted({key for state in states.values() for key in state})
    lowered: States = {name: {} for name in below}
    for key in keys:
        values = {name: state[key] for name, state in states.items() if key in state}
        for name, value in _lowered(kinds[key], transfer, values).items():
            lowered[name][key] = value
    return lowered


def _lowered(kind: str, transfer: Transfer, values: dict[str, Tensor]) -> dict[str, Tensor]:
    if kind == "gradient":
        return transfer.restrict(values)
    if kind == "square":
        roots = transfer.restrict({name: value.sqrt() for name, value in values.items()})
        return {name: root.square() for name, root in roots.items()}
    return {transfer.sources[name]: value.clone() for name, value in values.items()}


@torch.no_grad()
def lift(
    transfer: Transfer, fine: Optimizer, own: Parameters, before: States, after: States
) -> States:
    """The state on the fine depth when that on the coarse one went from ``before`` to ``after``.

    Momenta get P of the change; mean squares are multiplied by P of its factor, which keeps them
    positive; numbers are the coarse depth's.
    """
    kinds, states = _KINDS[type(fine)], states_of(fine, own)
    lifted: States = {name: {} for name in own}
    for name in own:
        source = transfer.sources[name]
        start, held = before.get(source, {}), states.get(name, {})
        for key, value in after.get(source, {}).items():
            lifted[name][key] = _lifted(kinds[key], value, start.get(key), held.get(key))
    return lifted


def _lifted(kind: str, value: Tensor, start: Tensor | None, held: Tensor | None) -> Tensor:
    if kind == "number" or start is None or held is None:
        return value
    if kind == "square":
        return torch.where(start > 0, held * (value / start), value)
    return held + (value - start)


def states_of(optimizer: Optimizer, parameters: Parameters) -> States:
    """The tensors of an optimizer's state; momenta that have not begun are left out."""
    found: States = {}
    for name, parameter in parameters.items():
        state: dict[str, Any] = optimizer.state.get(parameter, {})
        held = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if held:
            found[name] = held
    return found


def set_states(optimizer: Optimizer, parameters: Parameters, states: States) -> None:
    """Give every parameter a copy of its state, as optimizers write on it, or none."""
    for name, parameter in parameters.items():
        if states.get(name):
            held = states[name].items()
            optimizer.state[parameter] = {key: value.clone() for key, value in held}
        else:
            optimizer.state.pop(parameter, None)
