"""Drawing: which operations draw random numbers, seen when their shapes are found, and kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pararealize.ir.chain import Profile
from pararealize.ir.program import Operation, Program
from pararealize.propagators.repeatable import is_repeatable
from pararealize.runtime.effects.generators import NUMPY, PYTHON, is_same, put_back, state_of
from pararealize.tracing.trace import Trace

#: Arguments that say how much is dropped: where it is nothing, nothing is drawn.
SHARES = ("dropout_p", "dropout")


class Draws(TorchDispatchMode):
    """Notes whether any of torch's operators that draw random numbers is run, and how many are.

    Those that only look at memory otherwise, or allocate it, are no kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False
        self.kernels = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operator."""
        del types
        if torch.Tag.nondeterministic_seeded in func.tags and _drops(func, args, kwargs or {}):
            self.found = True
        self.kernels += _launches(func)
        return func(*args, **(kwargs or {}))


#: Kernels of what devices fuse, and the meta device takes apart: an attention; and around it a
#: product, a copy and the one kernel, a copy and a product, and biases.
FUSED = {functional.scaled_dot_product_attention: 1, functional.multi_head_attention_forward: 6}


class Fusing(TorchFunctionMode):
    """Counts attention as the kernels that devices launch for it."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.draws = draws

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        del types
        before = self.draws.kernels
        result = func(*args, **(kwargs or {}))
        if func in FUSED:
            self.draws.kernels = before + FUSED[func]
        return result


@cache
def _launches(func: Any) -> bool:
    """Whether an operator launches a kernel."""
    returned = [value.alias_info for value in func._schema.returns]
    looks = any(alias is not None and not alias.is_write for alias in returned)
    return not looks and "empty" not in func._schema.name and func._schema.name != "aten::detach"


def _drops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator leaves anything out, as attention need not."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in SHARES:
            given = args[place] if place < len(args) else argument.default_value
            return bool(kwargs.get(argument.name, given))
    return True


@contextmanager
def watched() -> Iterator[Draws]:
    """A block in which it is seen whether torch's, Python's or NumPy's generator is drawn from.

    Python's and NumPy's are put back.
    """
    before = [(generator, state_of(generator)) for generator in (PYTHON, NUMPY)]
    with Draws() as draws, Fusing(draws):
        try:
            yield draws
        finally:
            for generator, state in before:
                if not is_same(state_of(generator), state):
                    draws.found = True
                    put_back(generator, state)


def with_draws(traced: Trace, profile: Profile) -> Trace:
    """The programs with what was seen to draw marked so.

    Of the eval program, if it is another, what draws in the other mode, and calls that were not
    seen there and may.
    """
    train = Program(tuple(replace(o, draws=o.name in profile.draws) for o in traced.train))
    if traced.train is traced.eval:
        return replace(traced, train=train, eval=train)
    seen = {_call(operation): operation.draws for operation in train}

    def may(operation: Operation) -> bool:
        function = operation.kind == "function" and not is_repeatable(operation)
        return seen.get(_call(operation), function)

    evaluate = Program(tuple(replace(o, draws=may(o)) for o in traced.eval))
    return replace(traced, train=train, eval=evaluate)


def _call(operation: Operation) -> tuple[str, str]:
    return operation.kind, str(operation.target)
