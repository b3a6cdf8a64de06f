"""Pruning: rewrite a piece of the chain to fewer layers, as operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from pararealize.ir.chain import Chain, Cost, Layer
from pararealize.ir.program import AMBIENT, Operation, Ref, Segment
from pararealize.propagators.compiled import written_by_call
from pararealize.propagators.fresh import normalises


@dataclass(frozen=True)
class Pruning:
    """What a fresh coarse network keeps of a piece.

    ``depth`` is the least number of layers with weights it has, layers that change the shape
    counted; ``normalisation`` says whether normalisation layers stay, and rectifiers at the end:
    both do for networks of states, neither for networks of jumps. ``whole`` layers that change the
    shape keep all of their operations; else those inside that do not change it are left out.
    """

    depth: int
    normalisation: bool
    whole: bool = False


def is_weighted(layer: Layer) -> bool:
    """Whether the layer multiplies by weights: what a coarse network leaves out to be cheap."""
    return layer.cost.flops > 0


def kept_layers(chain: Chain, first: int, last: int, depth: int) -> list[int]:
    """Layers of a piece that its thin version keeps.

    All that change the state's shape; of the repeated ones as many, from the first on, as reach
    ``depth``; and of layers without weights (activations, normalisation) those that follow them.
    """
    weighted = [i for i in range(first, last) if is_weighted(chain.layers[i])]
    changing = [i for i in weighted if not chain.layers[i].preserves]
    repeated = [i for i in weighted if chain.layers[i].preserves]
    chosen = set(changing) | set(repeated[: max(0, depth - len(changing))])
    kept, follows = [], True
    for i in range(first, last):
        if i in weighted:
            follows = i in chosen
        if follows or not chain.layers[i].preserves:
            kept.append(i)
    return kept


def _without_rectifier(chain: Chain, kept: list[int]) -> list[int]:
    """Without layers at the end that only rectify: a correction may have either sign."""
    while kept and chain.layers[kept[-1]].preserves and not is_weighted(chain.layers[kept[-1]]):
        kept = kept[:-1]
    return kept


def prune(chain: Chain, model: nn.Module, first: int, last: int, how: Pruning) -> Segment:
    """The piece ``first`` … ``last - 1`` with repeated layers left out, in train mode."""
    kept = kept_layers(chain, first, last, how.depth)
    if not how.normalisation:
        kept = _without_rectifier(chain, kept)
    whole = chain.segment(first, last, training=True)
    names: dict[str, str] = {}
    operations = [o for o in whole.operations if o.kind in AMBIENT]
    for i in range(first, last):
        body = chain.segment(i, i + 1, training=True)
        if i not in kept:
            names.update(bypass_layer(chain, i, names))
            continue
        for operation in body.operations:
            if operation.kind in AMBIENT:
                continue
            source = _skipped(chain, model, operation, chain.layers[i], how)
            if source is not None:
                names[operation.name] = names.get(source, source)
            else:
                operations.append(operation.renamed(names))
    return without_dead_code(whole.rewritten(operations, names))


def bypass_layer(chain: Chain, i: int, names: Mapping[str, str]) -> dict[str, str]:
    """What stands for a layer's values where it is left out: those before it."""
    before, after = chain.interfaces[i - 1].values, chain.interfaces[i].values
    return {b: names.get(a, a) for a, b in zip(before, after, strict=True)}


def without_dropout(chain: Chain, model: nn.Module, segment: Segment) -> Segment:
    """The segment without what draws random numbers: corrections are differences of two states."""
    names: dict[str, str] = {}
    operations: list[Operation] = []
    for operation in segment.operations:
        source = _drops(chain, model, operation)
        if source is None:
            operations.append(operation.renamed(names))
        else:
            names[operation.name] = names.get(source, source)
    return _wanted(segment.rewritten(operations, names))


def _source(chain: Chain, operation: Operation) -> str | None:
    """What an operation reads first, if that is like what it makes."""
    source, specs = operation.args[0] if operation.args else None, chain.profile.specs
    if not isinstance(source, Ref) or operation.name not in specs:
        return None
    return source.name if specs.get(source.name) == specs[operation.name] else None


def _drops(chain: Chain, model: nn.Module, operation: Operation) -> str | None:
    """The value that an operation leaves parts out of, where that is all it does."""
    name = str(getattr(operation.target, "__name__", operation.target))
    drops = "dropout" in name or name == "stochastic_depth"
    if operation.kind == "module":
        module = model.get_submodule(operation.target)
        drops = isinstance(module, nn.modules.dropout._DropoutNd)
    return _source(chain, operation) if drops else None


def _skipped(
    chain: Chain, model: nn.Module, operation: Operation, layer: Layer, how: Pruning
) -> str | None:
    """The value to use instead of an operation that a thin network leaves out, or ``None``."""
    source, dropped = _source(chain, operation), _drops(chain, model, operation)
    if dropped is not None or source is None or operation.kind != "module":
        return dropped
    if normalises(model.get_submodule(operation.target)):
        return None if how.normalisation else source
    inner = is_weighted(layer) and not layer.preserves and not how.whole
    heavy = chain.profile.costs[operation.name].flops
    return source if inner and 0 < heavy < layer.cost.flops else None


def without_dead_code(segment: Segment) -> Segment:
    """Without operations whose values nothing reads any more, nothing written over."""
    return _copying(_wanted(segment))


def _wanted(segment: Segment) -> Segment:
    """Without operations whose values nothing reads any more."""
    wanted = set(segment.results or ())
    kept: list[Operation] = []
    for operation in reversed(segment.operations):
        if operation.name in wanted or operation.kind == "output":
            kept.append(operation)
            wanted.update(operation.uses)
    inputs = tuple(name for name in segment.inputs if name in wanted)
    return replace(segment, operations=tuple(reversed(kept)), inputs=inputs)


def _copying(segment: Segment) -> Segment:
    """With functions and methods that write on copies of what they are given.

    Where layers were left out they would write on other values than in the network, and autograd
    may need those.
    """
    operations: list[Operation] = []
    names: dict[str, str] = {}
    for operation in segment.operations:
        for name in written_by_call(operation):
            copy = Operation(f"{operation.name}_copy", "method", "clone", (Ref(name),))
            operations.append(copy.renamed(names))
            names[name] = copy.name
        operations.append(operation.renamed(names))
    return segment.rewritten(operations, names)


def pruned_cost(chain: Chain, model: nn.Module, layer: int, how: Pruning) -> Cost:
    """Cost of one kept layer of a thin network."""
    body = chain.segment(layer, layer + 1, training=True).operations
    costs = [
        chain.profile.costs[o.name]
        for o in body
        if o.kind not in AMBIENT and _skipped(chain, model, o, chain.layers[layer], how) is None
    ]
    return sum(costs, Cost())
