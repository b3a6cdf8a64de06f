"""Wide states: whether a network is better cut where several tensors cross."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pararealize.chain.interfaces import find_interface
from pararealize.errors import CutError
from pararealize.ir.chain import Chain

#: Tuples are guessed, sent and corrected: they have to make the heaviest piece so much lighter.
WORTH = 0.5
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
    if n - 1 > len(narrow.interfaces):
        return wide()
    heaviest = _heaviest(narrow, n)
    if not takes_tuples or WORTH * heaviest <= narrow.cost(0, len(narrow.layers)).seconds / n:
        return narrow
    other = wide()
    return other if _heaviest(other, n) < WORTH * heaviest else narrow


def _has(chain: Chain, name: str) -> bool:
    try:
        find_interface(chain, name)
    except CutError:
        return False
    return True


def _heaviest(chain: Chain, n: int) -> float:
    """Seconds of the heaviest piece when the layers are cut into n as evenly as can be."""
    costs = [layer.cost.seconds for layer in chain.layers]
    low, high = max(costs), sum(costs)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _pieces(costs, middle) <= n else (middle, high)
    return high


def _pieces(costs: Sequence[float], limit: float) -> int:
    """How many pieces no heavier than the limit the layers make."""
    count, weight = 1, 0.0
    for cost in costs:
        count, weight = (count, weight + cost) if weight + cost <= limit else (count + 1, cost)
    return count
