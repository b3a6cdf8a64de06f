"""Adoption: a network that holds another module's parameters under their own names."""

from __future__ import annotations

from torch import nn

from pararealize.errors import TraceError

#: Where coarse and guess networks are registered.
RESERVED = ("coarse", "guess")
#: What the network and the original share, so that the hooks of one run in the other.
STATE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook"),
)


def is_added(name: str) -> bool:
    """Whether a parameter belongs to a coarse or guess network."""
    return name.split(".", 1)[0] in RESERVED


def adopt(network: nn.Module, serial: nn.Module) -> None:
    """Make both modules hold the same dictionaries of parameters, buffers, sub-modules and hooks.

    What is moved, loaded or replaced in one is so in the other, and names are the original's.

    Raises:
        TraceError: the model uses a reserved name.

    """
    own = {**serial._modules, **serial._parameters, **serial._buffers}
    taken = [name for name in RESERVED if name in own]
    if taken:
        raise TraceError(
            f"{type(serial).__name__} has something called {taken[0]!r}, which is where coarse "
            f"and guess networks are kept: rename self.{taken[0]}."
        )
    for registry in (*STATE, *HOOKS):
        network.__dict__[registry] = serial.__dict__[registry]
