"""Cut: the exact min-max partition of a chain over its legal interfaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, starmap
from math import inf, isfinite
from typing import final

from torch import nn

from pararealize.chain.interfaces import find_interface
from pararealize.coarse.copies import Exact
from pararealize.coarse.guesses import guess_costs
from pararealize.coarse.intervals import IntervalKind, Rediscretized
from pararealize.coarse.kind import costs_of
from pararealize.coarse.registry import asked
from pararealize.coarse.setting import Setting
from pararealize.cut.leftmost import Leftmost
from pararealize.cut.min_max import min_max
from pararealize.errors import CutError
from pararealize.ir.chain import Chain, Cost, Partition
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Machine
from pararealize.schedule.parareal import guesser

#: A head may cost this share of a subnetwork: nothing runs beside it, so it must be small.
HEAD_SHARE = 0.1
#: And this where it normalises the state: as a part of the last subnetwork it would be corrected by
#: a coarse network that does not, whose scores are as large as the state of a deep network is. A
#: ResNet-110 with n = 18 did not survive its first epoch that way.
NORMALISING_SHARE = 0.2


@final
class Weights:
    """Predicted seconds of the piece ``first`` … ``last - 1`` and of what a method adds to it.

    They are infinite where what is asked for does not exist.
    """

    def __init__(self, chain: Chain, model: nn.Module, method: Method, machine: Machine) -> None:
        self.method = method
        self.setting = Setting.of(chain, model, machine, method)
        self.kind = asked(method)
        periods = [period for period, _ in chain.repeats]
        self._leftmost = Leftmost(self.setting.kinds, periods)
        self._walks: dict[int, Iterator[Cost | None]] = {}
        self._coarse: dict[int, list[float]] = {}
        guessed = isinstance(method, Parareal) and method.guess == "network"
        size = len(chain.layers)
        guesses = guess_costs(self.setting, size) if guessed else [Cost()] * size
        self.guesses = [inf if cost is None else self._guess(cost) for cost in guesses]
        self.fine = self.setting.fine.seconds

    def _guess(self, cost: Cost) -> float:
        """Seconds of a guess; none where corrections are exact, which throw away what it brings.

        Those of small networks cost as much as the state itself, and no cut would be even.
        """
        return 0.0 if isinstance(self.kind, Exact) else cost.seconds

    def coarse(self, first: int, last: int) -> float:
        """Seconds of one evaluation of its coarse propagator, as far as the cut decides on them.

        Where that is the subnetwork itself they count as none: corrections then take as long as the
        serial network wherever it is cut, and weighing them would make the first subnetwork as
        heavy as two others.
        """
        if isinstance(self.kind, Exact):
            return 0.0
        first, last = self._leftmost(first, last)
        known = self._coarse.setdefault(first, [])
        if len(known) < last - first:
            walk = self._walks.setdefault(first, self._walk(first))
            while len(known) < last - first:
                cost = next(walk)
                known.append(inf if cost is None else cost.seconds)
        return known[last - first - 1]

    def _walk(self, first: int) -> Iterator[Cost | None]:
        """Costs of coarse propagators from a layer on, in multigrid those of level 2."""
        if isinstance(self.method, Parareal):
            return costs_of(self.kind, self.setting, first)
        kind = self.kind if isinstance(self.kind, IntervalKind) else Rediscretized()
        return kind.level_costs(self.setting, first, self.method.factors[0])

    def added(self, first: int, last: int) -> float:
        """Seconds of its guess and corrections; the first piece has none, and may have to guess."""
        method = self.method
        if first == 0:
            sweeps = isinstance(method, Parareal) and method.guess == "coarse"
            return inf if sweeps and self.coarse(first, last) == inf else 0.0
        count = method.iterations if isinstance(method, Parareal) else 1
        evaluations = 1 if self.setting.difference or self.kind.keeps_zero else 2
        corrections = count * evaluations * self.coarse(first, last) if count else 0.0
        return self.guesses[first] + corrections


def cut(weights: Weights, n: int) -> Partition:
    """The partition of a weighed chain into ``n`` subnetworks whose heaviest one is lightest.

    A subnetwork weighs its layers, its guess and coarse networks and the message it sends, the last
    one that which it gets; all but the first also what they wait for. The head, where there is one,
    is left to run after the last correction.

    Raises:
        CutError: no legal interface, or fewer than ``n - 1``.

    """
    chain, machine = weights.setting.chain, weights.setting.machine
    check_count(chain, n)
    end = head_start(chain, n)
    waits = _first_guess(weights, weights.method, end, n)
    messages = [machine.message(i.bytes) for i in chain.interfaces[: end - 1]]

    def bare(first: int, last: int) -> float:
        sent = last if last < end else first  # the last one sends none, and has to wait for one
        return weights.fine(first, last) + (messages[sent - 1] if sent else 0.0)

    def weight(first: int, last: int) -> float:
        return bare(first, last) + (waits if first else 0.0) + weights.added(first, last)

    best = min_max(end, n, weight, weights.fine)
    known = all(map(isfinite, starmap(weight, pairwise(best))))
    return Partition(chain, best if known else min_max(end, n, bare, weights.fine))


def _first_guess(weights: Weights, method: Method, end: int, n: int) -> float:
    """Seconds of a coarse sweep that all subnetworks but the first wait for.

    They are those of a coarse network of the first n-th of the layers, by cost.
    """
    if not isinstance(method, Parareal) or guesser(1, method) == 1 or n == 1:
        return 0.0
    share = weights.fine(0, end) / n
    first = next(i for i in range(1, end + 1) if weights.fine(0, i) >= share)
    seconds = weights.coarse(0, first)
    return seconds if isfinite(seconds) else 0.0


def check_count(chain: Chain, n: int) -> None:
    """Raise where the chain cannot be cut into ``n``.

    Raises:
        CutError: says how many pieces are possible and what to write.

    """
    possible = len(chain.interfaces) + 1
    if n <= possible:
        return
    if possible == 1:
        raise CutError(
            f"no legal interface: the network's {len(chain.train)} operations are so connected "
            "that no single value carries its state at any position, so it cannot be cut; "
            f"n=1 runs it as it is.{_whole(chain)}"
        )
    raise CutError(
        f"n={n} subnetworks need {n - 1} interfaces, and this network has {possible - 1} "
        f"(after {', '.join(map(str, chain.interfaces[:5]))}{', …' if possible > 6 else ''}): "
        f"write n={possible} or less.{_whole(chain)}"
    )


def _whole(chain: Chain) -> str:
    """What could not be looked into, and how to look into it all the same."""
    for path, reason in chain.whole.items():
        return (
            f" {path!r} is called whole: {reason}. Where it runs a list of blocks one after "
            f"another, name that: blocks='{path}.NAME'."
        )
    return ""


def cut_at(chain: Chain, names: Sequence[str], n: int) -> Partition:
    """The partition at the named interfaces, in the network's order.

    Raises:
        CutError: an unknown name, a position that is no legal interface, or not ``n - 1`` names.

    """
    if len(names) != n - 1:
        raise CutError(
            f"n={n} takes the names of {n - 1} modules to cut after, found {len(names)}: "
            f"write n={len(names) + 1}, or other interfaces=[...]."
        )
    inner = sorted(find_interface(chain, name) + 1 for name in names)
    if len(set(inner)) < len(inner):
        raise CutError(f"interfaces={list(names)!r} name the same position twice.")
    end = head_start(chain, n)
    last = inner[-1] if inner else 0
    return Partition(chain, (0, *inner, end if end > last else len(chain.layers)))


def head_start(chain: Chain, n: int) -> int:
    """Where the head h begins: after the last repeated layer of the widest kind of state.

    States of images and sequences have more axes than the vectors of a classifier; repeated
    layers are those with weights whose kind and shapes occur again. There is no head where
    nothing repeats, where it would cost more than a small share of a subnetwork, or where it would
    leave fewer than ``n`` layers.
    """
    layers, end = chain.layers, len(chain.layers)
    if n > 1 and chain.train.operations[-2].kind == "network":
        return end - 1  # after a list of blocks
    axes = [max((len(s.shape) for s in i.state), default=0) for i in chain.interfaces]
    widest = 3 if max(axes, default=0) > 2 else 2
    kinds = Counter(x.signature for x in layers)
    repeated = [
        i
        for i in range(end - 1)
        if layers[i].is_weighted and axes[i] >= widest and kinds[layers[i].signature] > 1
    ]
    if n == 1 or not repeated:
        return end
    start = repeated[-1] + 1
    total = chain.cost(0, end).seconds
    normalises = any(layer.normalises for layer in layers[start:])
    share = NORMALISING_SHARE if normalises else HEAD_SHARE
    small = chain.cost(start, end).seconds <= share * total / n
    return start if small and start >= n else end
