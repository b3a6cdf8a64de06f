"""Stacked propagators: slices of equal structure advanced as one batch over depth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import TraceError
from pararealize.ir.features import split
from pararealize.ir.program import Segment
from pararealize.ir.target import Target
from pararealize.propagators.compiled import compile_segment
from pararealize.propagators.fine import Fine
from pararealize.propagators.paths import made_submodule, modules_of

#: A dictionary, a name in it, and what has that name.
Link = tuple[dict[str, Any], str, Any]
#: A parameter in a segment: the path of its owner, and its name there.
Slot = tuple[str, str]
#: What waits for a module to be called.
HOOKS = attrgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


@final
class Stacked:
    """Fine propagators Φ_j that compute the same function with other weights, side by side.

    Their weights are stacked, and their states [batch, …] become one state [slices, batch, …]::

        Φ_1(u_0), Φ_2(u_1), …   →   vmap(Φ)(stack(weights), stack(u_0, u_1, …))

    Args:
        members: propagators in the network's order; all of one structure.
        leads: what comes before a member that is the rest of a slice.

    """

    def __init__(
        self, members: dict[Target, Fine], leads: Mapping[Target, Fine] | None = None
    ) -> None:
        self.members, self.leads = members, leads or {}
        self.positions = {target: i for i, target in enumerate(members)}
        first = next(iter(members.values()))
        self._segment, self._root = first.segments[0], first.root
        every = [slots(part) for part in members.values()]
        self._paths = [[(path.split("."), key) for path, key in own] for own in every]
        self._shadow = _tree(self._root, self._segment)
        self._first = [(self._root.get_submodule(path), key) for path, key in every[0]]
        self._owners = [(self._shadow.get_submodule(path), key) for path, key in every[0]]
        self._columns: list[tuple[Tensor, ...]] = []
        self._links: tuple[list[dict[str, Any]], list[str], list[Any]] = ([], [], [])
        self._modules: list[nn.Module] = []
        self._same = True
        self._find()
        function = compile_segment(self._segment, self._root, "slices side by side")
        self._function = self._with(function)

    def _with(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The first member's function with weights that are given."""

        def run(weights: Sequence[Tensor], state: Tensor, features: Sequence[Tensor]) -> Any:
            for (owner, key), weight in zip(self._owners, weights, strict=True):
                owner._parameters[key] = weight  # type: ignore[assignment]
            return function(self._shadow, state, *features)

        return run

    def weights(self, targets: Iterable[Target]) -> list[tuple[Tensor, ...]]:
        """For every slot, the parameters of some members."""
        chosen = [self.positions[target] for target in targets]
        if len(chosen) == len(self.positions):
            return self._columns
        return [tuple(column[i] for i in chosen) for column in self._columns]

    def is_ready(self) -> bool:
        """Whether the slices are still alike, and no hooks wait for their layers to be called."""
        owners, names, children = self._links
        if not all(map(is_, map(dict.get, owners, names), children)):
            self._find()
        return self._same and not any(map(any, map(HOOKS, self._modules)))

    def _find(self) -> None:
        """Look all parameters up, and remember on the way to them what they hang on.

        Thousands of them are looked up in every step; that they still hang there is seen sooner.
        """
        self._same = True
        links: dict[tuple[int, str], Link] = {}
        kinds = [type(owner) for owner, _ in self._owners]
        rows = [
            [self._follow(*slot, kind, links) for slot, kind in zip(own, kinds, strict=True)]
            for own in self._paths
        ]
        columns = zip(*rows, strict=True)
        self._columns = [tuple(p for p in column if p is not None) for column in columns]
        owners, names, children = zip(*links.values(), strict=True)
        self._links = list(owners), list(names), list(children)
        self._modules = [child for child in children if isinstance(child, nn.Module)]

    def _follow(
        self,
        path: Sequence[str],
        key: str,
        kind: type[nn.Module],
        links: dict[tuple[int, str], Link],
    ) -> Tensor | None:
        """The parameter at a path; a module of another kind there ends the likeness."""
        module = self._root
        for name in path:
            child = module._modules.get(name)
            if child is None:
                self._same = False
                return None
            links[id(module._modules), name] = module._modules, name, child
            module = child
        self._same = self._same and type(module) is kind and key in module._parameters
        found = module._parameters.get(key)
        links[id(module._parameters), key] = module._parameters, key, found
        return found

    def __call__(
        self, weights: Sequence[Tensor], states: Tensor, features: Sequence[Tensor] = ()
    ) -> Tensor:
        """The next states, [slices, batch, …]; weights that all slices share are not stacked."""
        shared = [axes is None for axes in self._shared(weights)]
        over = ([None if same else 0 for same in shared], 0, [0] * len(features))
        batched = torch.func.vmap(self._function, in_dims=over)
        result: Tensor = batched(list(weights), states, list(features))
        return result

    def _shared(self, weights: Sequence[Tensor]) -> list[int | None]:
        """The axis over slices of every weight; a shared one has none."""
        own = [owner._parameters[key] for owner, key in self._first]
        pairs = zip(weights, own, strict=True)
        return [0 if p is None or w.dim() > p.dim() else None for w, p in pairs]


def divided(part: Fine, entry: str) -> tuple[Fine, Fine]:
    """A slice as two: what makes a value, and the rest, as a function of it.

    Raises:
        TraceError: the slice makes no such value, or the rest reads others too.

    """
    parts = split(part.segments[0], entry)
    if parts is None:
        raise TraceError(f"{part.label} cannot be divided at {entry!r}: compile it again.")
    lead, rest = (Fine(part.root, segment, segment, part.label) for segment in parts)
    return lead, rest


def slots(part: Fine) -> list[Slot]:
    """Where a propagator's parameters are, in the order of its operations."""
    segment, root = part.segments[0], part.root
    found: dict[Slot, None] = {}
    for path in modules_of(segment):
        for name, _ in root.get_submodule(path).named_parameters(remove_duplicate=False):
            owner, _, key = f"{path}.{name}".rpartition(".")
            found[owner, key] = None
    return list(found)


def _tree(root: nn.Module, segment: Segment) -> nn.Module:
    """A copy of the modules that a segment calls, under the same names."""
    tree = nn.Module()
    for path in modules_of(segment):
        owner, _, name = path.rpartition(".")
        made_submodule(tree, owner)._modules[name] = copy.deepcopy(root.get_submodule(path))
    return tree


def alike(one: Fine, other: Fine) -> bool:
    """Whether two slices compute the same function of equal states with other weights."""
    mine, theirs = one.segments[0], other.segments[0]
    sizes = [(len(segment.operations), len(segment.features)) for segment in (mine, theirs)]
    if sizes[0] != sizes[1]:
        return False
    names = dict(zip(theirs.state, mine.state, strict=False))
    names |= dict(zip(theirs.features, mine.features, strict=True))
    for a, b in zip(mine.operations, theirs.operations, strict=True):
        names[b.name] = a.name
        renamed = b.renamed(names)
        if (a.kind, a.args, a.kwargs) != (renamed.kind, renamed.args, renamed.kwargs):
            return False
        if a.kind != "module" and a.target != b.target:
            return False
        if a.kind == "module":
            layer, its = one.root.get_submodule(a.target), other.root.get_submodule(b.target)
            if repr(layer) != repr(its) or type(layer) is not type(its):
                return False
    return bool(_shapes(one)) and _shapes(one) == _shapes(other)


def _shapes(part: Fine) -> list[tuple[str, torch.Size, torch.dtype]]:
    every = ((key, part.root.get_submodule(path)._parameters[key]) for path, key in slots(part))
    return [(key, p.shape, p.dtype) for key, p in every if p is not None]


def is_stackable(part: Fine) -> bool:
    """Whether a slice may run inside vmap: one tensor in and out, no state, nothing random."""
    train, evaluate = part.segments
    kinds = {operation.kind for operation in train.operations}
    single = len(train.state) == 1 and train.results is not None and len(train.results) == 1
    plain = kinds <= {"module", "function", "method"} and not part.inputs and train == evaluate
    if not (single and plain) or part.draws:
        return False
    modules = [m for path in modules_of(train) for m in part.root.get_submodule(path).modules()]
    return not any(module._buffers or "parametrizations" in module._modules for module in modules)


def stack_weights(column: tuple[Tensor, ...]) -> Tensor:
    """Weights as one tensor; one that all share as it is."""
    if all(tensor is column[0] for tensor in column):
        return column[0]
    return torch.stack(column)
