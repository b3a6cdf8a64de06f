"""Weight names: what a parameter is called, whichever of its modules a rank holds."""

from __future__ import annotations

from torch import nn

from pararealize.emit.emission import Share


def first_names(share: Share) -> dict[str, str]:
    """For every name of a parameter of the serial network, the first name of that parameter."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in share.skeleton.named_parameters(remove_duplicate=False)
    }


def named(network: nn.Module, share: Share | None) -> dict[str, nn.Parameter]:
    """Parameters of this process, by names that do not depend on the ranks."""
    first = {} if share is None else first_names(share)
    return {first.get(name, name): p for name, p in network.named_parameters()}
