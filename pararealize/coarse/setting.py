"""Setting: what coarse propagators are made from, and facts of its layers, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import nn

from pararealize.cost.probe import Probe
from pararealize.cost.profile import meta_cost
from pararealize.ir.chain import Chain, Cost, Layer, State, TensorSpec
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Machine
from pararealize.ir.program import Segment
from pararealize.propagators.block_list import Between, Item
from pararealize.propagators.compiled import takes_derivatives
from pararealize.propagators.repeatable import Repeatable
from pararealize.propagators.surroundings import can_surround

T = TypeVar("T")


@dataclass(frozen=True)
class LayerCosts:
    """Costs of a chain's layers as a kind of coarse propagator rewrites them.

    ``refused`` are layers that a network with weights of its own cannot have.
    """

    each: tuple[Cost, ...]
    refused: frozenset[int] = frozenset()

    @cached_property
    def before(self) -> tuple[Cost, ...]:
        """Cost of all layers before each one, and of all of them."""
        return tuple(accumulate(self.each, initial=Cost()))

    def between(self, first: int, last: int) -> Cost:
        """Cost of the layers ``first`` … ``last - 1``."""
        return self.before[last] - self.before[first]

    def seconds(self, first: int, last: int) -> float:
        """Seconds of the layers ``first`` … ``last - 1``."""
        return self.before[last].seconds - self.before[first].seconds

    def refuses(self, layers: Iterable[int]) -> bool:
        """Whether one of the layers is refused."""
        return bool(self.refused) and not self.refused.isdisjoint(layers)


@dataclass(frozen=True, eq=False)
class Setting:
    """The network, how it is corrected and on what machine.

    ``difference`` says that corrections are differences of two states' images, else images of a
    jump; ``facts`` are what was computed of it once.
    """

    chain: Chain
    model: nn.Module
    machine: Machine
    difference: bool
    facts: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, chain: Chain, model: nn.Module, machine: Machine, method: Method) -> Setting:
        """The setting of a method: multigrid corrects by differences."""
        residual = isinstance(method, Parareal) and method.correction == "residual"
        return cls(chain, model, machine, not residual)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, which is called the first time that ``key`` is asked for."""
        if key not in self.facts:
            self.facts[key] = make()
        found: T = self.facts[key]
        return found

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Every layer by itself."""
        layers = range(len(self.chain.layers))
        return tuple(self.chain.segment(i, i + 1, training=True) for i in layers)

    @cached_property
    def fine(self) -> LayerCosts:
        """Costs of the layers as they are."""
        return LayerCosts(tuple(layer.cost for layer in self.chain.layers))

    def rewritten(
        self, key: Hashable, rewrite: Callable[[int], Segment], *, masks: bool = True
    ) -> LayerCosts:
        """Costs of the layers where each is rewritten, as segments of one layer.

        Refused are those that cannot be copied; ``masks`` as :func:`can_copy` has it.
        """

        def costs() -> LayerCosts:
            kept: dict[Hashable, tuple[list[int], bool]] = {}
            each: list[Cost] = []
            refused: set[int] = set()
            for layer, segment in enumerate(self.segments):
                if (structure := self._structures[layer]) not in kept:
                    result = rewrite(layer)
                    names = {operation.name for operation in result.operations}
                    positions = [k for k, o in enumerate(segment.operations) if o.name in names]
                    kept[structure] = positions, can_copy(result, masks=masks)
                positions, copied = kept[structure]
                each.append(self.chain.profile.cost(segment.operations[k] for k in positions))
                refused |= set() if copied else {layer}
            return LayerCosts(tuple(each), frozenset(refused))

        return self.once(key, costs)

    @cached_property
    def _structures(self) -> tuple[Hashable, ...]:
        """What a layer's rewriting depends on, equal for layers that are rewritten alike.

        Those are its calls, the shapes, dtypes and operations they have, and which values of the
        layer each of them reads.
        """
        profile = self.chain.profile

        def structure(layer: Layer, segment: Segment) -> Hashable:
            names = (*segment.state, *segment.inputs, *(o.name for o in segment.operations))
            at = {name: position for position, name in enumerate(names)}
            each = (
                (o.kind, profile.costs.get(o.name, Cost()).flops, tuple(at[u] for u in o.uses))
                for o in segment.operations
            )
            results = tuple(at[name] for name in segment.results or ())
            specs = tuple(profile.specs.get(name) for name in names)
            return layer.signature, layer.preserves, tuple(each), results, specs

        return tuple(map(structure, self.chain.layers, self.segments))

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """A number for every layer, equal for layers of equal structure and cost.

        Where costs are measured, no two layers have the same.
        """
        numbers: dict[Hashable, int] = {}
        costs = self.chain.profile.costs
        return tuple(
            numbers.setdefault((each, *(costs.get(o.name) for o in s.operations)), len(numbers))
            for each, s in zip(self._structures, self.segments, strict=True)
        )

    def likeness(self, first: int, last: int) -> Hashable:
        """What is equal for spans of layers of which networks of equal cost are made."""
        states, passed = self.states(first, last), self.passed(first, last)
        return self.kinds[first:last], states, passed, first == 0

    def states(self, first: int, last: int) -> tuple[State, State]:
        """States before and after the layers ``first`` … ``last - 1``; at the ends, what is known.

        Before the first layer that is the network's only input, and after the last its output,
        where that is one tensor.
        """
        source = self.chain.state(first) or tuple(filter(None, (main_input(self.chain),)))
        return source, self.chain.state(last) or self._output

    def passed(self, first: int, last: int) -> tuple[int | None, ...]:
        """Of every value after the layers its place among those before, if it is one of them."""
        interfaces, count = self.chain.interfaces, len(self.chain.layers)
        if not 0 < first < last < count or len(interfaces[last - 1].values) == 1:
            return ()
        before, after = interfaces[first - 1].values, interfaces[last - 1].values
        return tuple(before.index(name) if name in before else None for name in after)

    @cached_property
    def _output(self) -> State:
        values = self.chain.train.operations[-1].uses
        spec = self.chain.profile.specs[values[0]] if len(values) == 1 else None
        return (spec,) if spec is not None else ()

    def price(
        self, make: Callable[[], tuple[nn.Module | None, State, *tuple[Any, ...]]]
    ) -> Cost | None:
        """Cost of one call of a new module on a state; ``None`` where there is none."""
        with torch.device("meta"):
            module, state, *_ = make()
        if module is None:
            return None
        weight = _weight(self.model)
        module = module if weight is None else module.to(weight.dtype)
        return meta_cost(module.eval(), state, self.machine)


@dataclass(frozen=True)
class Site:
    """The layers ``first`` … ``last - 1`` that a propagator is built for.

    They are subnetwork ``number``, counted from 1, of those that ``probe`` evaluates, or a group of
    subnetworks, which are ``named``.
    """

    setting: Setting
    first: int
    last: int
    number: int = 0
    probe: Probe | None = None
    named: str = ""

    @property
    def title(self) -> str:
        """What it is for, in errors."""
        return self.named or f"subnetwork {self.number}"

    @property
    def span(self) -> tuple[int, int]:
        """First layer and the one after the last."""
        return self.first, self.last

    @property
    def states(self) -> tuple[State, State]:
        """States before and after."""
        return self.setting.states(*self.span)

    @property
    def fine(self) -> Cost:
        """Cost of the layers themselves."""
        return self.setting.chain.cost(*self.span)


def once_a_kind(likes: Mapping[int, Hashable], make: Callable[[int], T]) -> dict[int, T]:
    """What ``make`` gives of the first of every kind, for all that are alike."""
    firsts = {like: j for j, like in reversed(list(likes.items()))}
    made = {like: make(j) for like, j in firsts.items()}
    return {j: made[like] for j, like in likes.items()}


def can_copy(segment: Segment, *, masks: bool = True) -> bool:
    """Whether a segment can have weights of its own.

    Not what takes a derivative by a value, which layers that are left out may have made; nor what
    a network computes around its blocks of what these gave. A copy that begins with the network's
    stem, or computes ``masks`` of the inputs, holds a copy of all that lies around the blocks,
    which is large for a network that is to be small: without ``masks`` only a stem is worth it.
    """
    if takes_derivatives(segment.operations):
        return False
    around = (o.target for o in segment.operations if o.kind in {"network", "context"})
    outside = [each for each in around if not isinstance(each, (Repeatable, Item))]
    worth = masks or not outside or any(isinstance(each, Between) for each in outside)
    return worth and all(map(can_surround, outside))


def like(module: nn.Module, model: nn.Module) -> nn.Module:
    """The module on the model's device, in its floating-point dtype."""
    weight = _weight(model)
    return module if weight is None else module.to(weight.device, weight.dtype)


def _weight(model: nn.Module) -> nn.Parameter | None:
    return next((p for p in model.parameters() if p.is_floating_point()), None)


def main_input(chain: Chain) -> TensorSpec | None:
    """The network's only tensor input, or ``None``."""
    specs = [s for s in chain.profile.inputs.values() if isinstance(s, TensorSpec)]
    return specs[0] if len(specs) == 1 else None


def input_names(chain: Chain) -> tuple[str, ...]:
    """The name of the network's only tensor input."""
    source = main_input(chain)
    return tuple(name for name, spec in chain.profile.inputs.items() if spec == source)[:1]
