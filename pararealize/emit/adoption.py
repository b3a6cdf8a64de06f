"""Adoption: a network that holds another module's parameters under their own names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from pararealize.errors import TraceError
from pararealize.ir.target import ADDED

#: What the network and the original share, so that the hooks of one run in the other.
STATE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def is_added(name: str) -> bool:
    """Whether a parameter belongs to a coarse or guess network."""
    return name.split(".", 1)[0] in ADDED


def adopt(network: nn.Module, serial: nn.Module) -> None:
    """Make both modules hold the same dictionaries of parameters, buffers, sub-modules and hooks.

    What is moved, loaded or replaced in one is so in the other, and names are the original's.

    Raises:
        TraceError: the model uses a reserved name.

    """
    own = {**serial._modules, **serial._parameters, **serial._buffers}
    taken = [str(name) for name in ADDED if name in own]
    if taken:
        raise TraceError(
            f"{type(serial).__name__} has something called {taken[0]!r}, which is where coarse "
            f"and guess networks are kept: rename self.{taken[0]}."
        )
    for registry in (*STATE, *HOOKS):
        network.__dict__[registry] = serial.__dict__[registry]


class Adopting(nn.Module, ABC):
    """A network whose state is that of another module: what it writes and reads is as there.

    So are what that module's class makes of its state: extra state, versions and hooks.
    """

    @property
    @abstractmethod
    def original(self) -> nn.Module:
        """The module that holds the same dictionaries."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """Names in the ``state_dict`` of the whole network, also those that other ranks hold."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Parameters and buffers by the original's names, with its own extra state and hooks."""
        return self.original.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a checkpoint of this network, or of the serial one: coarse networks then stay."""
        own = self.state_dict()
        elsewhere = self.names - set(own)
        given = {name: v for name, v in state_dict.items() if name not in elsewhere}
        if not any(map(is_added, given)):
            given |= {name: v for name, v in own.items() if is_added(name)}
        version = getattr(state_dict, "_metadata", None)
        if version is not None:
            given = OrderedDict(given)
            given._metadata = version  # type: ignore[attr-defined]
        return self.original.load_state_dict(given, strict=strict, assign=assign)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As part of another module, it is loaded as the original would be."""
        self.original._load_from_state_dict(*args, **kwargs)
