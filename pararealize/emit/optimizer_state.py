"""Optimizer state: that of all ranks by names of parameters, and back on any number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.emit.adoption import is_added
from pararealize.emit.emission import Share
from pararealize.emit.weight_names import first_names, named
from pararealize.errors import MethodError, RankError
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import together
from pararealize.runtime.values.equality import is_equal

#: A state of an optimizer: as ``optimizer.state_dict()``, with names in place of numbers.
State = dict[str, Any]


def gathered(network: nn.Module, share: Share | None, optimizer: torch.optim.Optimizer) -> State:
    """The whole optimizer's state by names of parameters, on the CPU, on every rank.

    Raises:
        MethodError: the optimizer has parameters that are not the network's.
        RankError: ranks have optimizers with other groups or options.

    """
    transport = None if share is None else share.transport
    agree(transport, f"gathers the state of {type(optimizer).__name__}")
    own: State = {}
    with together(transport):
        own = _own(network, share, optimizer)
    every = [own] if transport is None else transport.exchange(own)
    _check_groups([each["param_groups"] for each in every])
    state: State = {}
    for each in reversed(every):  # of what several ranks hold, the first one's
        state.update(each["state"])
    order = {name: i for i, name in enumerate(_order(network, share))}

    def ordered(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: (order.get(name, len(order)), name))

    groups = [
        {**parts[0], "params": ordered({name for part in parts for name in part["params"]})}
        for parts in zip(*(each["param_groups"] for each in every), strict=True)
    ]
    return {"state": {name: state[name] for name in ordered(state)}, "param_groups": groups}


def scatter(
    network: nn.Module,
    share: Share | None,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Give the optimizer of this rank its part of a state that :func:`gathered` made.

    Raises:
        MethodError: the state, or the optimizer, is of other parameters.

    """
    transport = None if share is None else share.transport
    agree(transport, f"scatters the state of {type(optimizer).__name__}")
    with together(transport):
        packed = _packed(network, share, optimizer, state)
    optimizer.load_state_dict(packed)


def _own(network: nn.Module, share: Share | None, optimizer: torch.optim.Optimizer) -> State:
    """What this rank's optimizer says, with names in place of numbers."""
    groups = _names(network, share, optimizer)
    found = optimizer.state_dict()
    numbers = [number for group in found["param_groups"] for number in group["params"]]
    name_of = dict(zip(numbers, (name for names in groups for name in names), strict=True))
    odd = [key for key in found["state"] if key not in name_of]
    if odd:
        raise MethodError(
            f"{type(optimizer).__name__} keeps a state that belongs to no parameter ({odd[0]!r}), "
            "which cannot be moved between ranks: save optimizer.state_dict() on every rank, and "
            "go on with as many ranks."
        )
    return {
        "state": {name_of[n]: _on_cpu(value) for n, value in found["state"].items()},
        "param_groups": [
            {**_on_cpu(group), "params": names}
            for group, names in zip(found["param_groups"], groups, strict=True)
        ],
    }


def _names(
    network: nn.Module, share: Share | None, optimizer: torch.optim.Optimizer
) -> list[list[str]]:
    """The names of an optimizer's parameters, group by group.

    Raises:
        MethodError: it has others.

    """
    known = {id(parameter): name for name, parameter in named(network, share).items()}
    given = [group["params"] for group in optimizer.param_groups]
    for i, parameters in enumerate(given):
        strange = [list(p.shape) for p in parameters if id(p) not in known]
        if strange:
            raise MethodError(
                f"group {i} of {type(optimizer).__name__} has {len(strange)} parameters that are "
                f"not this network's, the first of shape {strange[0]}: make it of the compiled "
                "network's, optimizer = torch.optim.AdamW(net.parameters()), and other modules "
                "have an optimizer of their own."
            )
    return [[known[id(p)] for p in parameters] for parameters in given]


def _check_groups(every: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Raise where ranks have other groups: all have seen the same, and do so alike."""
    for rank, groups in enumerate(every):
        if len(groups) != len(every[0]):
            raise RankError(
                f"the optimizer has {len(every[0])} groups of parameters on rank 0 and "
                f"{len(groups)} on rank {rank}: make the same groups on every rank, also those "
                "that are empty there."
            )
        for i, (mine, first) in enumerate(zip(groups, every[0], strict=True)):
            for key in (mine.keys() | first.keys()) - {"params"}:
                if not is_equal(mine.get(key), first.get(key)):
                    raise RankError(
                        f"group {i} of the optimizer has {key}={first.get(key)!r:.60} on rank 0 "
                        f"and {mine.get(key)!r:.60} on rank {rank}: give it the same options on "
                        "every rank."
                    )


def _order(network: nn.Module, share: Share | None) -> list[str]:
    """Names of the serial network's parameters in the order that they have there."""
    if share is None:
        return [name for name, _ in network.named_parameters() if not is_added(name)]
    return list(dict.fromkeys(first_names(share).values()))


def _packed(
    network: nn.Module,
    share: Share | None,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> State:
    """The part of a state that belongs to this optimizer, with its own numbers."""
    _check_state(state)
    given, own = state["param_groups"], _names(network, share, optimizer)
    if len(given) != len(own):
        raise MethodError(
            f"the state has {len(given)} groups of parameters and the optimizer {len(own)}: make "
            "it of the same groups as when the state was gathered."
        )
    mine = optimizer.state_dict()["param_groups"]
    groups, entries = [], {}
    for i, (saved, here, names) in enumerate(zip(given, mine, own, strict=True)):
        _check_names(i, names, saved["params"])
        groups.append({**copy.deepcopy(dict(saved)), "params": here["params"]})
        for number, name in zip(here["params"], names, strict=True):
            if name in state["state"]:
                entries[number] = copy.deepcopy(state["state"][name])
    return {"state": entries, "param_groups": groups}


def _check_state(state: Mapping[str, Any]) -> None:
    shaped = isinstance(state, Mapping) and {"state", "param_groups"} <= set(state)
    if not shaped or not all(isinstance(name, str) for name in state["state"]):
        raise MethodError(
            "this is no state by names of parameters: give net.scatter_optimizer what "
            "net.gather_optimizer(optimizer) returned, not optimizer.state_dict(), whose numbers "
            "mean other parameters on other ranks."
        )


def _check_names(group: int, names: Sequence[str], saved: Sequence[str]) -> None:
    missing = [name for name in names if name not in set(saved)]
    if missing:
        raise MethodError(
            f"group {group} of the state lacks {len(missing)} parameters of this network, the "
            f"first {missing[0]!r}: compile the network with the n and the method, and make the "
            "optimizer of the groups, that it had when the state was gathered; the number of ranks "
            "may be another."
        )


def _on_cpu(value: Any) -> Any:
    """A copy, whose tensors any rank can take."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_on_cpu, value))
    return copy.deepcopy(value)
