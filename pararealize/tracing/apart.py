"""Apart: calls of modules watched one by one, so that it is seen what is computed between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.propagators.calls import Place, leaves_of_call
from pararealize.propagators.stubs import is_librarys
from pararealize.runtime.values.pytree import map_tensors, tensors_of
from pararealize.tracing.copying import copy_tree

#: A module of torch, some of whose hooks compute weights.
TORCHS = nn.Identity()


@dataclass
class Watched:
    """One call of a module: its arguments, what it gave.

    ``before`` and ``after`` are the states of the random numbers' generator around it.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: Tensor
    result: Any = None
    after: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def taken(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return leaves_of_call(self.args, self.kwargs)

    @property
    def gave(self) -> list[Tensor]:
        """The tensors in what it gave."""
        return tensors_of(self.result)


class Origins:
    """Where tensors come from: of what calls gave by themselves, or by a computation on it.

    Every tensor that a call gives begins a graph of its own, so that a graph is as long as what
    is computed between two calls.
    """

    def __init__(self) -> None:
        self._begins: dict[int, Place] = {}
        self._same: dict[int, tuple[Place, Tensor, int]] = {}
        self._kept: list[Tensor] = []

    def begin(self, result: Any, call: int) -> Any:
        """The result with every tensor that can be differentiated at the begin of a graph."""
        places = iter(range(len(tensors_of(result))))

        def fresh(tensor: Tensor) -> Tensor:
            place = (call, next(places))
            given = tensor.detach()
            if tensor.is_floating_point() or tensor.is_complex():
                leaf = given.requires_grad_()
                self._kept.append(leaf)
                self._begins[id(leaf)] = place
                given = leaf.clone()  # on which the network may write
            self._same[id(given)] = (place, given, given._version)
            return given

        return map_tensors(fresh, result)

    def itself(self, tensor: Tensor) -> Place | None:
        """The place whose tensor it is, if nothing was written on it since."""
        place, _, version = self._same.get(id(tensor), ((-1, -1), tensor, -1))
        return place if version == tensor._version else None

    @property
    def written(self) -> bool:
        """Whether anything was written on what the calls gave."""
        return any(tensor._version != version for _, tensor, version in self._same.values())

    def computed_of(self, tensors: Iterable[Tensor]) -> set[Place]:
        """The places that tensors are computed of, or are themselves."""
        found, known = set[Place](), set[Any]()
        tensors = list(tensors)
        open_ = [t.grad_fn for t in tensors if t.grad_fn is not None]
        found |= {self._same[id(t)][0] for t in tensors if id(t) in self._same}
        while open_:
            node: Any = open_.pop()
            if node in known:
                continue
            known.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in self._begins:
                found.add(self._begins[id(variable)])
            open_ += [after for after, _ in node.next_functions if after is not None]
        return found


def watch(
    call: Callable[..., Any], path: str, args: Any, kwargs: Any, origins: Origins, number: int
) -> Watched:
    """One call without a graph, watched; ``number`` is its number."""
    seen = Watched(path, args, kwargs, torch.get_rng_state())
    with torch.no_grad():
        seen.result = call(*args, **kwargs)
    seen.result = origins.begin(seen.result, number)
    seen.after = torch.get_rng_state()
    return seen


def quiet_copy(model: nn.Module) -> nn.Module:
    """A copy to be run, without the user's hooks; those of the model's own package stay."""
    twin = copy_tree(model)
    for module in twin.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not (is_librarys(hook, module) or is_librarys(hook, TORCHS)):
                    del hooks[key]
    return twin


def plain_copies(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call to be watched: copies, so that nothing of the caller's is written on."""
    return map_tensors(lambda t: t.detach().clone(), dict(given))  # type: ignore[no-any-return]
