"""Links: where the arguments of every block come from, as far as one call in each mode tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pararealize.errors import TraceError
from pararealize.propagators.calls import Place, Slot
from pararealize.runtime.values.pytree import leaves_of, tensors_of
from pararealize.tracing.observation import Draw, Observation
from pararealize.tracing.trials import Trials

#: An argument of an earlier call: its number, and the tensor's among its arguments.
Same = tuple[str, int, int]
Link = Place | Same | None


@dataclass
class Gap:
    """What lies before a call of a block, or after the last.

    Attributes:
        links: for every tensor among the arguments the place that it is, or the argument of an
            earlier call, or ``None`` where it is new.
        context: numbers of the new tensors that are computed of the inputs alone, in every
            subnetwork for itself.
        carried: those of the new tensors that are computed once.
        needs: tensors of blocks that the new ones are computed of.
        draws: what is drawn at random in it and belongs to nothing new.
        replays: gaps whose random numbers it reads, ``tells`` whether others read its own.

    """

    links: list[Link] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)
    needs: tuple[Place, ...] = ()
    draws: tuple[Draw, ...] = ()
    replays: tuple[int, ...] = ()
    tells: bool = False

    @property
    def new(self) -> list[int]:
        """Numbers of the tensors that come from nowhere else."""
        return [leaf for leaf, link in enumerate(self.links) if link is None]

    @property
    def places(self) -> list[int]:
        """Numbers of the tensors that a block gave."""
        return [i for i, link in enumerate(self.links) if link is not None and link[0] != "same"]


def gaps(trials: Sequence[Trials]) -> list[Gap]:
    """The gaps before every call, and the one after the last, by the observations of both modes.

    Raises:
        TraceError: the two modes call other blocks.

    """
    train, seen = trials[0], [trial.seen for trial in trials]
    found = [Gap(links=links) for links in _links(seen)]
    reused = {link[1:] for gap in found for link in gap.links if link and link[0] == "same"}
    for number, gap in enumerate(found):
        gap.draws = train.seen.draws[number]
        gap.context = [n for n in gap.new if _is_context(seen, number, n, (number, n) in reused)]
        floating = [n for n in gap.context if seen[0].calls[number].taken[n].is_floating_point()]
        drawn = train.drawn(number, floating) if floating else ()
        gap.context = [n for n in gap.context if n not in drawn]
    for number, gap in enumerate(found):
        _complete(trials, found, number, gap)
    outputs = [tensors_of(observation.output) for observation in seen]
    head = _needs(seen, len(found), outputs)
    if not all(trial.suffices(len(found), (), head) for trial in trials):
        head |= _shapeless(trials[0], found, len(found))
        for trial in trials:
            head |= trial.unknown(len(found), (), head)
    found.append(Gap(needs=tuple(sorted(head))))
    _replay(train, found)
    return found


def _replay(train: Trials, found: list[Gap]) -> None:
    """Which gaps read what was drawn at random in earlier ones."""
    for number, gap in enumerate(found):
        if not number or not (gap.carried or number + 1 == len(found)):
            continue
        draws = train.seen.draws
        drawing = [n for n, before in enumerate(found[:number]) if before.carried and draws[n]]
        gap.replays = tuple(train.replayed(number, gap.carried, drawing))
        for earlier in gap.replays:
            found[earlier].tells = True


def _links(seen: Sequence[Observation]) -> list[list[Link]]:
    """For every call what both modes agree on."""
    each = [_of_one(observation) for observation in seen]
    found = []
    for call, links in zip(seen[0].calls, zip(*each, strict=True), strict=True):
        if len(set(map(len, links))) > 1:
            raise TraceError(
                f"the block {call.path} is given other arguments in train mode than in "
                "eval mode: no program serves both."
            )
        pairs = zip(*links, strict=True)
        found.append([pair[0] if len(set(pair)) == 1 else None for pair in pairs])
    return found


def _of_one(observation: Observation) -> list[list[Link]]:
    earlier: dict[int, Same] = {}
    found: list[list[Link]] = []
    for number, call in enumerate(observation.calls):
        taken = call.taken
        found.append([observation.origins.itself(t) or earlier.get(id(t)) for t in taken])
        for leaf, tensor in enumerate(taken):
            earlier.setdefault(id(tensor), ("same", number, leaf))
    return found


def _is_context(seen: Sequence[Observation], number: int, leaf: int, reused: bool) -> bool:
    """Whether a new tensor can be computed again by every subnetwork, and is worth no carrying."""
    for observation in seen:
        tensor: Tensor = observation.calls[number].taken[leaf]
        if observation.origins.computed_of([tensor]):
            return False
        if not reused and (tensor.requires_grad or (number, leaf) == (0, 0)):
            return False
    return True


def _complete(trials: Sequence[Trials], found: list[Gap], number: int, gap: Gap) -> None:
    """What is carried over a gap, and of what it is computed."""
    seen = [trial.seen for trial in trials]
    shapeless = _shapeless(trials[0], found, number)
    context = gap.context and number
    if shapeless or (context and any(t.unknown(number, gap.context, ()) for t in trials)):
        gap.context = []  # which only the tensors themselves would show
    gap.carried = [leaf for leaf in gap.new if leaf not in gap.context]
    plain = all(_is_plain((args, kwargs)) for _, args, kwargs in gap.draws)
    if gap.draws and number and not gap.carried and not (plain and gap.places):
        leaf = next(iter(gap.places), 0)
        gap.links[leaf], gap.carried = None, [leaf]
    if gap.carried:
        gap.draws = ()
        tensors = [[o.calls[number].taken[leaf] for leaf in gap.carried] for o in seen]
        needs = _needs(seen, number, tensors) | shapeless
        for trial in trials if number else ():
            needs |= trial.unknown(number, gap.carried, needs)
        gap.needs = tuple(sorted(needs))


def _needs(
    seen: Sequence[Observation], number: int, tensors: Sequence[Sequence[Tensor]]
) -> set[Place]:
    places = zip(seen, tensors, strict=True)
    found = set().union(*(o.origins.computed_of(each) for o, each in places))
    return {place for place in found if place[0] < number}


def _shapeless(trial: Trials, found: list[Gap], number: int) -> set[Place]:
    """Tensors of earlier calls that code reads and no argument of theirs has the shape of."""
    places = set[Place]()
    given = trial.calls.given
    for call in range(min(number, len(given))):
        slots = [leaf for leaf in given[call].leaves if isinstance(leaf, Slot)]
        read = call + 1 == len(given) or call + 1 == number or None in found[call + 1].links
        if read:
            places |= {(call, k) for k, slot in enumerate(slots) if slot.like < 0}
    return places


def _is_plain(value: Any) -> bool:
    return not any(isinstance(leaf, (Tensor, torch.Generator)) for leaf in leaves_of(value))
