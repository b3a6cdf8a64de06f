"""Found lists: the lists of like modules that a network runs one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pararealize.propagators.calls import keywords
from pararealize.runtime.values.pytree import tensors_of
from pararealize.tracing.apart import Origins, plain_copies, quiet_copy

#: What holds modules in an order.
LISTS = (nn.ModuleList, nn.Sequential)


@dataclass
class _Call:
    """A call of a list's item, with those of other lists' items in it.

    ``of`` are the numbers of the calls whose results its arguments are computed of, ``through``
    those that its own result is computed of.
    """

    number: int
    holder: str
    path: str
    of: set[int] = field(default_factory=set)
    through: set[int] = field(default_factory=set)
    inner: list[_Call] = field(default_factory=list)


def find_lists(model: nn.Module, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the lists of like modules that one call of a network runs one after another.

    A list whose items hold such a list themselves, as the stages of a network have, is left for
    those, where nothing passes by them.
    """
    twin = quiet_copy(model).eval()
    items = _items(twin)
    if not items:
        return ()
    calls = _watched(twin, items, given)
    chosen = dict.fromkeys(call.holder for call in _chosen(calls))
    return tuple(chosen)


def _items(model: nn.Module) -> dict[str, str]:
    """The items of lists of like modules, by path, and the list of each."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        children = [child for child in module._modules.values() if child is not None]
        if not name or not isinstance(module, LISTS) or not children:
            continue
        (_, most), *_ = Counter(map(type, children)).most_common(1)
        if 2 * most > len(children) and not isinstance(children[0], nn.ModuleList):
            found |= {f"{name}.{key}": name for key in module._modules}
    return found


def _watched(twin: nn.Module, items: Mapping[str, str], given: Mapping[str, Any]) -> list[_Call]:
    """The outermost calls of items in one call of the network."""
    origins, top, open_ = Origins(), list[_Call](), list[_Call]()
    count = iter(range(2**62))

    def around(module: nn.Module, path: str) -> Any:
        forward = module.forward

        def act(*args: Any, **kwargs: Any) -> Any:
            mine = _Call(next(count), items[path], path)
            mine.of = {call for call, _ in origins.computed_of(tensors_of((args, kwargs)))}
            (open_[-1].inner if open_ else top).append(mine)
            open_.append(mine)
            try:
                result = forward(*args, **kwargs)
            finally:
                open_.pop()
            mine.through = {call for call, _ in origins.computed_of(tensors_of(result))}
            return origins.begin(result, mine.number)

        return act

    for path in items:
        module = twin.get_submodule(path)
        if "forward" not in vars(module):  # which a list may hold twice
            module.forward = around(module, path)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        twin(**keywords(plain_copies(given)))
    return top


def _chosen(calls: Sequence[_Call]) -> Iterator[_Call]:
    """The calls of lists that run one after another, of those inside them where that is finer."""
    for name in dict.fromkeys(call.holder for call in calls):
        mine = [call for call in calls if call.holder == name]
        finer = [inner for call in mine for inner in _narrow(call)]
        if len(finer) > len(mine):
            yield from finer
        elif len(mine) > 1 and _one_after_another(mine):
            yield from mine


def _narrow(call: _Call) -> list[_Call]:
    """The calls inside an item between which nothing else of it passes."""
    inner = list(_chosen(call.inner))
    own = {each.number for each in inner}
    if not inner or not call.through or not call.through <= {inner[-1].number}:
        return []
    first = inner[0].number
    after = [each for each in inner if each.number != first]
    return inner if all(each.of <= own for each in after) else []


def _one_after_another(calls: Sequence[_Call]) -> bool:
    return all(a.number in b.of for a, b in pairwise(calls))
