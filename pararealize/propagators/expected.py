"""Expected: what a block is handed besides tensors, which is part of a network's program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import ShapeError
from pararealize.runtime.values.pytree import leaves_of

#: Values that are compared. Devices and precisions change as a network is moved.
COMPARED = (type(None), bool, int, float, str)


@final
@dataclass(frozen=True)
class Expected:
    """The arguments of a call of a block, as they were when the network was compiled.

    Attributes:
        path: the block's.
        count: how many values they are, or -1 where modes differ.
        plain: those that are no tensors and the same in both modes, by their place.

    """

    path: str
    count: int
    plain: Mapping[int, Any]

    def check(self, args: Any, kwargs: Any) -> None:
        """Raise where a call has others, as the network chose by the numbers in its inputs.

        Raises:
            ShapeError: says which, and with which inputs to compile.

        """
        leaves = leaves_of((args, kwargs))
        if self.count not in {-1, len(leaves)}:
            raise self._refusal(f"{len(leaves)} values", f"{self.count}")
        for place, wanted in self.plain.items():
            found = leaves[place]
            if found is not wanted and not _is_same(found, wanted):
                raise self._refusal(_shown(found), _shown(wanted))

    def _refusal(self, found: str, wanted: str) -> ShapeError:
        return ShapeError(
            f"the network hands {found} to {self.path}, where it was {wanted} for the inputs that "
            "it was compiled with, and what blocks are given besides tensors is part of the "
            "program. Compile it with inputs like these, pararealize(model, n, example_inputs="
            "(x,)): those that need a mask, as words with padding do, serve others as well."
        )


def expected_of(path: str, calls: Sequence[tuple[Any, Any]]) -> Expected:
    """What the calls of a block in both modes agree on."""
    each = [leaves_of(call) for call in calls]
    if len(set(map(len, each))) > 1:
        return Expected(path, -1, {})
    first, *others = each
    plain = {
        place: value
        for place, value in enumerate(first)
        if type(value) in COMPARED and all(_is_same(other[place], value) for other in others)
    }
    return Expected(path, len(first), plain)


def _is_same(found: Any, wanted: Any) -> bool:
    """Whether a value is the other; sizes that are symbols while a graph is made are not known."""
    if isinstance(found, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return True
    return type(found) is type(wanted) and bool(found == wanted)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return repr(value) if type(value) in COMPARED else f"a {type(value).__name__}"
