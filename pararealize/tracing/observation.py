"""Observation: one call of a network in a mode, with its blocks watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pararealize.errors import TraceError
from pararealize.propagators.calls import keywords
from pararealize.propagators.stubs import replaced
from pararealize.tracing.apart import Origins, Watched, plain_copies, quiet_copy, watch

#: Arguments that a program can hold.
PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
#: What draws one number, as code that leaves blocks out at random does.
COIN = torch.ops.aten.rand.default

#: A random draw: the operator's name, its arguments and keyword arguments.
Draw = tuple[str, Any, Any]


@final
class _Draws(TorchDispatchMode):
    """Notes what is drawn while it is ``on``; single numbers come out as 0.

    Code that leaves a block out with some probability compares such a number with it: at 0 it
    does so whenever the probability is not 0.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on, self.found = True, list[Draw]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator."""
        del types
        result = func(*args, **(kwargs or {}))
        if self.on and torch.Tag.nondeterministic_seeded in func.tags:
            self.found.append((func.__name__, tuple(args), dict(kwargs or {})))
            if func is COIN and not result.shape:
                return torch.zeros_like(result)
        return result

    def taken(self) -> tuple[Draw, ...]:
        """What was drawn since it was asked last."""
        found, self.found = tuple(self.found), []
        return found


@dataclass(frozen=True)
class Observation:
    """The calls of blocks in order, what was drawn before each of them, and the output."""

    calls: tuple[Watched, ...]
    draws: tuple[tuple[Draw, ...], ...]
    output: Any
    origins: Origins = field(repr=False)


def observe(
    model: nn.Module, paths: Sequence[str], given: Mapping[str, Any], *, training: bool
) -> Observation:
    """One call of a copy of the network in a mode; nothing of it or of the caller's moves.

    Raises:
        TraceError: a block is given what a program cannot hold.

    """
    twin = quiet_copy(model).train(training)
    origins, calls, draws = Origins(), list[Watched](), list[tuple[Draw, ...]]()
    blocks = {path: twin.get_submodule(path) for path in paths}

    def act(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _check(path, args, kwargs)
        draws.append(drawn.taken())
        drawn.on = False
        block = blocks[path]
        calls.append(watch(block.forward, path, args, kwargs, origins, len(calls)))
        _check(path, (calls[-1].result,), {}, verb="gives")
        drawn.on = True
        return calls[-1].result

    with (
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        replaced(twin, paths, act, {}),
        _Draws() as drawn,
    ):
        output = type(twin).forward(twin, **keywords(plain_copies(given)))
    return Observation(tuple(calls), tuple(draws), output, origins)


def is_plain(value: Any) -> bool:
    """Whether a program can hold the value."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, (*PLAIN, Tensor))


def _check(path: str, args: Any, kwargs: Any, verb: str = "is given") -> None:
    if verb == "gives" and hasattr(args[0], "items"):
        args = (tuple(args[0].values()),)
    odd = [value for value in (*args, *kwargs.values()) if not is_plain(value)]
    if odd:
        inner = odd[0]
        while isinstance(inner, (tuple, list)):
            inner = next(value for value in inner if not is_plain(value))
        raise TraceError(
            f"the block {path} {verb} a {type(inner).__name__}, which is no tensor: turn it "
            "off, as concrete_args={'use_cache': False} does for a cache of keys and values."
        )
