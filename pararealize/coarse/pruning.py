"""Pruning: rewrite a piece of the chain to fewer layers, as operations."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain as chained
from typing import Literal, final

from torch import nn

from pararealize.coarse.setting import LayerCosts, Setting
from pararealize.ir.chain import Chain, Cost, Layer
from pararealize.ir.program import AMBIENT, Operation, Ref, Segment
from pararealize.propagators.fresh import normalises, normalises_by_batch
from pararealize.propagators.memory import written_by_call


@final
class Selection:
    """Which layers of a piece its thin version keeps; they are taken in one after another.

    All that change the state's shape; of the repeated ones with weights so many, from the first on
    or those of the lowest ``price``; and of layers without weights (activations, normalisation)
    those that follow them.
    """

    def __init__(
        self,
        chain: Chain,
        first: int,
        last: int | None = None,
        price: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        self.layers, self.stop, self.price = chain.layers, first, price
        self.changing = 0
        self.always: list[int] = []
        self.repeated: list[list[int]] = []
        self._order: list[tuple[float, int]] = []
        self._home, self._firm = self.always, first - 1
        for _ in range(first, first if last is None else last):
            self.take()

    def take(self) -> int:
        """Take the next layer in; where it belongs: to all versions (0), or to a repeated layer."""
        layer = self.layers[self.stop]
        if layer.is_weighted and layer.preserves:
            self._home = []
            insort(self._order, (self.price(self.stop), len(self.repeated)))
            self.repeated.append(self._home)
        elif layer.is_weighted:
            self._home = self.always
            self.changing += 1
        home = self._home if layer.preserves else self.always
        if home is self.always and (layer.is_weighted or not layer.preserves):
            self._firm = self.stop
        home.append(self.stop)
        self.stop += 1
        return 0 if home is self.always else len(self.repeated)

    def chosen(self, count: int) -> list[int]:
        """Numbers of the repeated ones, where so many are kept."""
        return sorted(number for _, number in self._order[:count])

    def kept(self, count: int) -> list[int]:
        """The layers kept, where so many repeated ones are."""
        return sorted(chained(self.always, *(self.repeated[k] for k in self.chosen(count))))

    def rectifiers(self, count: int) -> list[int]:
        """Layers kept at the end that only rectify: a correction may have either sign."""
        chosen = self.chosen(count)
        last = self.repeated[chosen[-1]] if chosen else []
        firm = max(self._firm, last[0]) if last else self._firm
        ends = []
        for home in (self.always, last):
            for i in reversed(home):
                if i <= firm:
                    break
                ends.append(i)
        return sorted(ends)


#: Which repeated layers a thin version keeps.
Order = Literal["first", "flops", "seconds"]


@dataclass(frozen=True)
class Pruning:
    """How a thin version of a piece is written, and how many repeated layers it keeps.

    ``normalisation`` says whether normalisation layers stay, and rectifiers at the end: both do for
    networks of states, neither for networks of jumps. ``whole`` layers that change the shape keep
    all of their operations; else those inside that do not change it are left out. Layers that
    normalise ``by_batch`` stay with the others of a network that sees one state a step. Repeated
    layers are kept in an ``order``: from the ``"first"`` on, or those of the fewest ``"flops"`` or
    predicted ``"seconds"`` before others.
    """

    normalisation: bool
    whole: bool = False
    by_batch: bool = True
    order: Order = "first"

    def selection(self, setting: Setting, first: int, last: int | None = None) -> Selection:
        """The selection from a piece."""
        return Selection(setting.chain, first, last, self._price(setting))

    def _price(self, setting: Setting) -> Callable[[int], float]:
        """What layers are ordered by, which no measurement moves: plans are built again by it."""
        if self.order == "first":
            return lambda _: 0.0
        if self.order == "flops":
            return lambda layer: setting.chain.layers[layer].cost.flops
        each, machine = pruned_costs(setting, self).each, setting.machine

        def seconds(layer: int) -> float:
            cost = each[layer]
            return machine.cost(cost.flops, cost.bytes, launches=cost.launches).seconds

        return seconds

    def kept(self, selection: Selection, count: int) -> list[int]:
        """The layers kept, where so many repeated ones are."""
        kept = selection.kept(count)
        end = [] if self.normalisation else selection.rectifiers(count)
        return kept[: len(kept) - len(end)]


def prune(
    chain: Chain, model: nn.Module, first: int, last: int, kept: Sequence[int], how: Pruning
) -> Segment:
    """The piece ``first`` … ``last - 1`` with the layers ``kept`` only, in train mode."""
    whole, wanted = chain.segment(first, last, training=True), set(kept)
    names: dict[str, str] = {}
    operations = [o for o in whole.operations if o.kind in AMBIENT]
    for i in range(first, last):
        if i not in wanted:
            names.update(bypass_layer(chain, i, names))
            continue
        skipped = partial(_skipped, chain, model, chain.layers[i], how)
        operations += _kept(chain.segment(i, i + 1, training=True).own_operations, skipped, names)
    return without_dead_code(whole.rewritten(operations, names))


def pruned_costs(setting: Setting, how: Pruning) -> LayerCosts:
    """Costs of the layers in thin versions."""
    chain, model = setting.chain, setting.model
    return setting.rewritten(
        how, lambda i: prune(chain, model, i, i + 1, [i], how), masks=how.whole
    )


def selected_costs(
    setting: Setting,
    first: int,
    how: Pruning,
    *,
    copied: bool = True,
    costs: LayerCosts | None = None,
) -> Iterator[tuple[Selection, Callable[[int], Cost | None]]]:
    """For last = ``first`` + 1, + 2, … the selection and its cost with so many repeated layers.

    ``None`` where they are to be ``copied`` and one that is kept can have no weights of its own.
    ``costs`` are those of the layers, where they are not as the network has them.
    """
    layers = costs or pruned_costs(setting, how)
    selection = how.selection(setting, first)
    always, groups = Cost(), list[Cost]()

    def cost(count: int) -> Cost | None:
        if copied and layers.refused and layers.refuses(how.kept(selection, count)):
            return None
        total = always + sum((groups[k] for k in selection.chosen(count)), Cost())
        for i in () if how.normalisation else selection.rectifiers(count):
            total -= layers.each[i]
        return total

    for i in range(first, len(setting.chain.layers)):
        home = selection.take()
        if not home:
            always += layers.each[i]
        elif home > len(groups):
            groups.append(layers.each[i])
        else:
            groups[-1] += layers.each[i]
        yield selection, cost


def bypass_layer(chain: Chain, i: int, names: Mapping[str, str]) -> dict[str, str]:
    """What stands for a layer's values where it is left out: those before it that end there.

    Each for one of its own shape and kind: a state for a state, an index for an index.
    """
    before, after = chain.interfaces[i - 1].values, chain.interfaces[i].values
    ending = [name for name in before if name not in after]
    made = [name for name in after if name not in before]
    specs, found = chain.profile.specs, dict[str, str]()
    for name in made:
        alike = [old for old in ending if specs.get(old) == specs.get(name)]
        ending.remove(old := next(iter(alike), ending[0]))
        found[name] = names.get(old, old)
    return found


def without_dropout(chain: Chain, model: nn.Module, segment: Segment) -> Segment:
    """The segment without what draws random numbers: corrections are differences of two states."""
    names: dict[str, str] = {}
    operations = _kept(segment.operations, partial(_drops, chain, model), names)
    return _wanted(segment.rewritten(operations, names))


def _kept(
    operations: Iterable[Operation],
    skipped: Callable[[Operation], str | None],
    names: dict[str, str],
) -> list[Operation]:
    """Operations but those in whose place a value stands, which is added to the names."""
    kept: list[Operation] = []
    for operation in operations:
        source = skipped(operation)
        if source is None:
            kept.append(operation.renamed(names))
        else:
            names[operation.name] = names.get(source, source)
    return kept


def _source(chain: Chain, operation: Operation) -> str | None:
    """What an operation reads first, if that is like what it makes."""
    source, specs = operation.args[0] if operation.args else None, chain.profile.specs
    if not isinstance(source, Ref) or operation.name not in specs:
        return None
    return source.name if specs.get(source.name) == specs[operation.name] else None


def _drops(chain: Chain, model: nn.Module, operation: Operation) -> str | None:
    """The value that an operation leaves parts out of, where that is all it does."""
    name = operation.call
    drops = "dropout" in name or name == "stochastic_depth"
    if operation.kind == "module":
        module = model.get_submodule(operation.target)
        drops = isinstance(module, nn.modules.dropout._DropoutNd)
    return _source(chain, operation) if drops else None


def _skipped(
    chain: Chain, model: nn.Module, layer: Layer, how: Pruning, operation: Operation
) -> str | None:
    """The value to use instead of an operation that a thin network leaves out, or ``None``."""
    source, dropped = _source(chain, operation), _drops(chain, model, operation)
    if dropped is not None or source is None or operation.kind != "module":
        return dropped
    module = model.get_submodule(operation.target)
    if normalises(module):
        stays = how.normalisation and (how.by_batch or not normalises_by_batch(module))
        return None if stays else source
    inner = layer.is_weighted and not layer.preserves and not how.whole
    heavy = chain.profile.costs[operation.name].flops
    return source if inner and 0 < heavy < layer.cost.flops else None


def _wanted(segment: Segment) -> Segment:
    """The segment without operations whose values nothing reads any more."""
    wanted = set(segment.results or ())
    kept: list[Operation] = []
    for operation in reversed(segment.operations):
        if operation.name in wanted or operation.kind == "output":
            kept.append(operation)
            wanted.update(operation.uses)
    inputs = tuple(name for name in segment.inputs if name in wanted)
    return replace(segment, operations=tuple(reversed(kept)), inputs=inputs)


def without_dead_code(segment: Segment) -> Segment:
    """The segment without operations whose values nothing reads any more, nothing written over.

    Functions and methods write on copies of what they are given: where layers were left out they
    would write on other values than in the network, and autograd may need those.
    """
    segment = _wanted(segment)
    operations: list[Operation] = []
    names: dict[str, str] = {}
    for operation in segment.operations:
        for name in written_by_call(operation):
            copy = Operation(f"{operation.name}_copy", "method", "clone", (Ref(name),))
            operations.append(copy.renamed(names))
            names[name] = copy.name
        operations.append(operation.renamed(names))
    return segment.rewritten(operations, names)
