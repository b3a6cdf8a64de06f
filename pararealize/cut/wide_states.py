"""Wide states: whether a network is better cut where several tensors cross."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pararealize.chain.interfaces import find_interface
from pararealize.coarse.setting import LayerCosts
from pararealize.cut.min_max import greedy_pieces
from pararealize.errors import CutError
from pararealize.ir.chain import Chain

#: Tuples are guessed, sent and corrected: they have to make the heaviest piece so much lighter.
WORTH = 0.5
#: Between blocks, where what crosses besides is mostly handed on: a decoder's memory.
WORTH_BETWEEN_BLOCKS = 0.75
#: Halvings of the interval in which the lightest heaviest piece is searched.
HALVINGS = 30


def with_wide_states(
    narrow: Chain,
    wide: Callable[[], Chain],
    n: int | str,
    names: Sequence[str] | None,
    *,
    takes_tuples: bool,
) -> Chain:
    """The chain to cut: with positions that one tensor crosses, or with those of ``wide``.

    One tensor is preferred. The wide chain is taken where n needs it, where it has the positions
    that are asked for, or where it makes the heaviest of n pieces much lighter, if the coarse
    propagators that were asked for are known for any tuples (``takes_tuples``).
    """
    if names is not None:
        return narrow if all(_has(narrow, name) for name in names) else wide()
    if isinstance(n, str) or n == 1:
        return narrow
    if n - 1 > len(narrow.interfaces) - _is_headed(narrow):
        return wide()
    worth = WORTH_BETWEEN_BLOCKS if _is_headed(narrow) else WORTH
    limit = worth * _heaviest(narrow, n)
    if not takes_tuples or limit <= narrow.cost(0, len(narrow.layers)).seconds / n:
        return narrow
    other = wide()
    return other if _heaviest(other, n) < limit else narrow


def _has(chain: Chain, name: str) -> bool:
    try:
        find_interface(chain, name)
    except CutError:
        return False
    return True


def _heaviest(chain: Chain, n: int) -> float:
    """Seconds of the heaviest piece when the layers are cut into n as evenly as can be.

    With those of what comes after a list of blocks: nothing runs beside it, and it may hold all of
    a decoder.
    """
    fine = LayerCosts(tuple(layer.cost for layer in chain.layers))
    size = len(fine.each) - _is_headed(chain)
    head = fine.seconds(size, len(fine.each))
    low, high = max(cost.seconds for cost in fine.each[:size]), fine.seconds(0, size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        count = greedy_pieces(size, n, fine.seconds, middle)
        low, high = (low, middle) if count <= n else (middle, high)
    return high + head


def _is_headed(chain: Chain) -> bool:
    """Whether the last layer is what the network does after a list of blocks."""
    return chain.train.operations[-2].kind == "network"
