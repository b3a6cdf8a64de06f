"""Levels: build the coarse propagators of a multigrid hierarchy, with the network's own weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pararealize.chain.repeated_blocks import most_repeats, repeated_blocks
from pararealize.coarse.builder import build_one
from pararealize.coarse.depth_coarsening import Weights
from pararealize.coarse.intervals import IntervalKind
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.registry import asked, measurable
from pararealize.coarse.setting import Setting, once_a_kind
from pararealize.cost.probe import Probe, perturbed, relative_error
from pararealize.errors import CoarseError, CutError, MethodError
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Coarse
from pararealize.ir.features import Features, find_features, without
from pararealize.ir.hierarchy import Level, hierarchy, propagator
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Machine
from pararealize.ir.target import Target
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.paths import modules_of
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.randomness import is_random
from pararealize.runtime.values.combine import combine


def find_levels(partition: Partition, method: MGRIT) -> tuple[Level, ...]:
    """The hierarchy of a partition.

    Raises:
        MethodError: a level would leave nothing, or the coarsening does not fit the chain.

    """
    if partition.n == 1:
        return (Level((0, 1), 1), Level((0, 1), method.factors[0]))
    if not callable(method.coarse):
        _check_runs(partition, method)
    pieces = [partition.piece(j) for j in range(1, partition.n + 1)]
    longest = [most_repeats(partition.chain, *piece) for piece in pieces]
    if callable(method.coarse) and method.levels > 2:
        raise MethodError(
            f"MGRIT(levels={method.levels}, coarse=a function): a function makes the coarse "
            "propagators of one level: write MGRIT(levels=2, ...)."
        )
    return hierarchy(longest, method.factors)


class LevelBuilder:
    """Makes the coarse propagators of a partition's hierarchy.

    ``chosen`` are the kinds that a saved plan chose, by subnetwork, and ``fitted`` the weights that
    it has in place of fitted ones, by propagator. With ``prices``, of the same chain, only what
    they cost is asked for, and like steps have one propagator.
    """

    def __init__(
        self,
        probe: Probe,
        method: MGRIT,
        machine: Machine,
        chosen: Mapping[int, CoarseKind],
        fitted: Mapping[str, Weights] | None = None,
        prices: Setting | None = None,
    ) -> None:
        self.prices = prices
        self.probe, self.method, self.machine, self.chosen = probe, method, machine, chosen
        self.fitted = fitted or {}
        self.partition, self.chain = probe.partition, probe.partition.chain
        self.features = self._find_features()

    def _find_features(self) -> dict[int, Features]:
        """What slices compute of the inputs alone; nothing, where the order of evaluations matters.

        It does to statistics that slices share, and to random numbers.
        """
        spans = {j: self.partition.piece(j) for j in range(1, self.partition.n + 1)}
        found = {j: find_features(self.chain, *span) for j, span in spans.items()}
        whole = [self.chain.segment(*span, training=True) for span in spans.values()]
        users = Counter(path for segment in whole for path in set(modules_of(segment)))
        seen = {j: features for j, features in found.items() if features is not None}
        paths = {path for features in seen.values() for path in modules_of(features.segment)}
        shared = [self.probe.model.get_submodule(path) for path in paths if users[path] > 1]
        moves = any(True for module in shared for _ in module.buffers())
        draws = any(is_random(features.segment, self.probe.model) for features in seen.values())
        return {} if moves or draws else seen

    def build(
        self,
        levels: tuple[Level, ...],
        used: Iterable[Target],
        given: CoarseKind | None = None,
    ) -> dict[Target, Coarse]:
        """The propagators that a schedule uses, of a ``given`` kind where there is one.

        Raises:
            CoarseError: none of the asked kind exists; names the layers and what to write.

        """
        wanted = set(used)
        kind, error = self.kind(levels) if given is None else (given, None)
        found: dict[Target, Coarse] = {}
        for number, level in enumerate(levels[1:], start=2):

            def made(step: int, level: Level = level, number: int = number) -> Coarse:
                weights = self.fitted.get(str(propagator(number, step)))
                return replace(self.coarse(level, step, kind, weights), error=error)

            steps = range(1, level.steps + 1)
            likes = {j: self._likeness(level, j) for j in steps if propagator(number, j) in wanted}
            each = once_a_kind(likes, made)
            found |= {propagator(number, j): coarse for j, coarse in each.items()}
        return found

    def _likeness(self, level: Level, step: int) -> Hashable:
        """Equal for steps that have one propagator: none, but where they are only priced."""
        if self.prices is None or self.features:
            return step
        return self.prices.likeness(*self.span(level, step))

    def kind(self, levels: tuple[Level, ...]) -> tuple[CoarseKind, float | None]:
        """The kind of coarse propagator, and its error where it was chosen by measurement."""
        if self.method.coarse != "auto":
            return asked(self.method), None
        saved = [kind for kind in self.chosen.values() if isinstance(kind, IntervalKind)]
        if saved:  # others are of slices in which nothing repeats
            return saved[0], None
        return self._cheapest(levels)

    @property
    def chooses(self) -> bool:
        """Whether the kind is chosen by measured errors."""
        return self.method.coarse == "auto" and not any(
            isinstance(kind, IntervalKind) for kind in self.chosen.values()
        )

    def ranked(self, levels: tuple[Level, ...]) -> list[tuple[IntervalKind, float]]:
        """Kinds with estimates of their errors, those of one interval, by what they promise.

        The cheapest that is as exact as wanted comes first, others by errors.
        """
        options = self._options(levels)
        good = [option for option in options if option[1] <= self.method.wanted_error]
        others = [option for option in options if option not in good]
        by_cost = sorted(good, key=lambda option: option[:2])
        by_error = sorted(others, key=lambda option: option[1])
        return [(kind, error) for _, error, _, kind in (*by_cost, *by_error)]

    def _cheapest(self, levels: tuple[Level, ...]) -> tuple[CoarseKind, float]:
        """The cheapest kind whose error is as wanted, or the most accurate one."""
        options = self._options(levels)
        good = [option for option in options if option[1] <= self.method.wanted_error]
        _, error, _, kind = min(good) if good else min(options, key=lambda option: option[1])
        return kind, error

    def _options(self, levels: tuple[Level, ...]) -> list[tuple[float, float, str, IntervalKind]]:
        """Kinds with their seconds and estimated errors, of an interval in the middle."""
        level = levels[1]
        middle = (level.steps + 2) // 2
        options: list[tuple[float, float, str, IntervalKind]] = []
        for family in measurable():
            kind = family.of(self.method)
            coarse = self.coarse(level, middle, kind, whole=True)
            span, start = self.span(level, middle), level.bounds[middle - 1]
            error = interval_error(self.probe, span, start, coarse, self.method)
            options.append((coarse.cost.seconds, error, kind.name, kind))
        return options

    def coarse(
        self,
        level: Level,
        step: int,
        kind: CoarseKind,
        fitted: Weights | None = None,
        *,
        whole: bool = False,
    ) -> Coarse:
        """The propagator of one step of a coarse level.

        It takes what its slices compute of the inputs alone as arguments, unless it is ``whole``.
        Weights that were ``fitted`` before are not fitted again.

        Raises:
            CoarseError: there is none, or it has other weights; names the layers.
            MethodError: the step joins slices, and a user's function makes the propagator of one.

        """
        if not isinstance(kind, IntervalKind):
            if level.steps < self.partition.n:
                raise MethodError(
                    "MGRIT(coarse=a function): every slice has one layer, so that level 2 joins "
                    "slices, and a function makes the propagator of one: take fewer subnetworks."
                )
            setting = Setting.of(self.chain, self.probe.model, self.machine, self.method)
            return build_one(self.probe, setting, self.method, step, kind)
        first, last = self.span(level, step)
        runs = repeated_blocks(self.chain, first, last)
        start = level.bounds[step - 1]
        weights = fitted or kind.weights(self.probe, runs, start, level.stride)
        kind.check_weights(runs, level.stride, weights)
        segment, averages = kind.coarsened(self.chain, first, last, level.stride, weights)
        layers = segment or self.chain.segment(first, last, training=True)
        pieces = range(start + 1, level.bounds[step] + 1)
        features = [self.features[j] for j in pieces if j in self.features]
        if features and not whole:
            layers = without(
                layers, tuple(name for each in features for name in each.segment.results or ())
            )
        coarse = replace(kind.borrowed(self.chain, layers, averages), weights=weights)
        return coarse if segment else replace(coarse, kind="own layers", name="", options={})

    def span(self, level: Level, step: int) -> tuple[int, int]:
        """First layer of a step and the one after its last."""
        first, last = level.bounds[step - 1], level.bounds[step]
        return self.partition.bounds[first], self.partition.bounds[last]


def _check_runs(partition: Partition, method: MGRIT) -> None:
    """Raise where no layers repeat, so that none could stand for several."""
    chain, first, last = partition.chain, partition.bounds[0], partition.bounds[-1]
    if repeated_blocks(chain, first, last):
        return
    single = sum(len(interface.state) == 1 for interface in chain.interfaces)
    if partition.n > single + 1:
        raise CutError(
            f"{partition.n} subnetworks are more than the {single} positions where one tensor "
            f"carries the state can separate: MGRIT keeps residual layers whole. Write "
            f"pararealize(model, n={single + 1}, method=MGRIT(...)), or a smaller n."
        )
    raise CoarseError(
        f"no {method.coarse!r} coarse propagator: the network "
        f"({chain.layers[first].name} … {chain.layers[last - 1].name}) has no two neighbouring "
        "residual layers x + φ(x) of equal shape, whose steps could be made longer. Write "
        "pararealize(model, n, method=Parareal()), or give a function "
        "MGRIT(coarse=(fine, interface_in, interface_out) -> nn.Module)."
    )


def interval_error(
    probe: Probe, span: tuple[int, int], start: int, coarse: Coarse, method: MGRIT
) -> float:
    """The relative error to expect of states and adjoints after the method's cycles.

    With e = ‖Φ(u) - G(u)‖ / ‖Φ(u)‖, ρ what a cycle leaves of a jump, and e' the like of e for
    adjoints: max(e ρ^K, e' ρ^(K' - 1)) after K cycles forward and K' back, whose last takes no
    correction. ``start`` is the slice boundary at which the span of layers begins.
    """
    assert coarse.segment is not None
    state, fine = probe.trajectory[start], probe.layers(*span)
    rough = borrowed(probe.copy, coarse.segment, coarse.averages, coarse.kind)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(probe.seed)
        exact, guess = probe.run(fine, state), probe.run(rough, state)
        error = relative_error(guess, exact)
        if state is None:
            return error
        moved = tree_map_only(Tensor, perturbed, state)
        jump = combine("+-", probe.run(fine, moved), exact)
        response = combine("+-", probe.run(rough, moved), guess)
        rate = relative_error(response, jump)
        adjoint = tree_map_only(Tensor, torch.randn_like, exact)
        back = [_transposed(probe, p, state, adjoint) for p in (rough, fine)]
    forward = error * rate**method.forward_cycles
    return max(forward, relative_error(*back) * rate ** (method.backward_cycles - 1))


def _transposed(probe: Probe, propagator: Propagator, state: Any, adjoint: Any) -> Any:
    """The adjoint before a propagator, of the one after it."""
    with torch.enable_grad():
        leaf = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(), state)
        result = probe.run(propagator, leaf)
        found = torch.autograd.grad(tree_leaves(result), tree_leaves(leaf), tree_leaves(adjoint))
    return tuple(found)
