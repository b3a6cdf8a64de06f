"""Links: where the arguments of every block come from, as far as one call in each mode tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.errors import TraceError
from pararealize.propagators.block_list import Calls, Given, Place, Slot, cuda_of, stream_of
from pararealize.runtime.values.pytree import flatten, tensors_of
from pararealize.tracing.observation import Draw, Observation

#: An argument of an earlier call: its number, and the tensor's among its arguments.
Same = tuple[str, int, int]


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

    links: list[Place | Same | None] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)
    needs: tuple[Place, ...] = ()
    draws: tuple[Draw, ...] = ()
    replays: tuple[int, ...] = ()
    tells: bool = False


def gaps(
    seen: Sequence[Observation], given: Sequence[Given], calls: Calls, twin: nn.Module, values: Any
) -> list[Gap]:
    """The gaps before every call, and the one after the last, by the observations of both modes.

    Raises:
        TraceError: the two modes call other blocks.

    """
    found = [Gap(links=_links(seen, call)) for call in range(len(given))]
    for number, gap in enumerate(found):
        new = [leaf for leaf, link in enumerate(gap.links) if link is None]
        gap.context = [leaf for leaf in new if _is_context(seen, found, number, leaf)]
        if floating := [n for n in gap.context if seen[0].calls[number].taken[n].is_floating_point()]:
            drawn = _drawn(calls, twin, values, seen[0], number)
            gap.context = [n for n in gap.context if n not in floating or n not in drawn]
        gap.draws = next((o.draws[number] for o in seen if o.draws[number]), ())
    _complete(found, seen, given)
    outputs = _needs(seen, len(found), [tensors_of(o.output) for o in seen])
    found.append(Gap(needs=_sorted({*outputs, *_shapeless(found, given, len(found))})))
    if any(seen[0].draws):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _replay(found, seen[0], calls, twin, values)
    return found


def _replay(
    found: list[Gap], train: Observation, calls: Calls, twin: nn.Module, values: Any
) -> None:
    """Which gaps read what was drawn at random in earlier ones."""
    known = _results(train)
    streams = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        streams.append(stream_of(cuda_of(values)))

    def given(number: int, stirred: int) -> list[Tensor]:
        """What a gap gives, where another one draws other numbers."""
        torch.manual_seed(0)
        drawn = {earlier: streams[earlier == stirred] for earlier in range(number)}
        until = None if number + 1 == len(found) else number
        arguments, output = calls.run(twin, values, known, until, drawn)
        if until is None:
            return tensors_of(output)
        taken = tensors_of(arguments[-1])
        return [taken[leaf] for leaf in found[number].carried]

    for number, gap in enumerate(found):
        drawing = [n for n, before in enumerate(found[:number]) if before.carried and train.draws[n]]
        if not drawing or not (gap.carried or number + 1 == len(found)):
            continue
        base = given(number, -1)
        others = {n: given(number, n) for n in drawing}
        gap.replays = tuple(n for n in drawing if not all(map(torch.equal, base, others[n])))
        for earlier in gap.replays:
            found[earlier].tells = True


def _results(seen: Observation) -> dict[Place, Tensor]:
    return {(c, leaf): t for c, w in enumerate(seen.calls) for leaf, t in enumerate(w.gave)}


def _links(seen: Sequence[Observation], call: int) -> list[Place | Same | None]:
    """What both modes agree on."""
    each = [_of_one(observation, call) for observation in seen]
    if len({len(links) for links in each}) > 1:
        raise TraceError(
            f"the block {seen[0].calls[call].path} is given other arguments in train mode than in "
            "eval mode: no program serves both."
        )
    return [links[0] if len(set(links)) == 1 else None for links in zip(*each, strict=True)]


def _of_one(observation: Observation, call: int) -> list[Place | Same | None]:
    earlier: dict[int, Same] = {}
    for number, before in enumerate(observation.calls[:call]):
        for leaf, tensor in enumerate(before.taken):
            earlier.setdefault(id(tensor), ("same", number, leaf))
    taken = observation.calls[call].taken
    return [observation.origins.itself(t) or earlier.get(id(t)) for t in taken]


def _is_context(seen: Sequence[Observation], found: list[Gap], number: int, leaf: int) -> bool:
    """Whether a new tensor can be computed again by every subnetwork, and is worth no carrying."""
    reused = any(("same", number, leaf) in gap.links for gap in found[number + 1 :])
    for observation in seen:
        tensor: Tensor = observation.calls[number].taken[leaf]
        if observation.origins.computed_of([tensor]):
            return False
        if not reused and (tensor.requires_grad or (number, leaf) == (0, 0)):
            return False
    return True


def _drawn(
    calls: Calls, twin: nn.Module, values: Any, seen: Observation, number: int
) -> set[int]:
    """The arguments of a call that are others under another seed."""
    known, each = _results(seen), []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            arguments, _ = calls.run(twin, values, known, number)
            each.append(tensors_of(arguments[number]))
    pairs = enumerate(zip(*each, strict=True))
    return {leaf for leaf, (one, other) in pairs if not torch.equal(one, other)}


def _complete(found: list[Gap], seen: Sequence[Observation], given: Sequence[Given]) -> None:
    """What is carried over every gap, and of what it is computed."""
    for number, gap in enumerate(found):
        shapeless = _shapeless(found, given, number)
        if shapeless:
            gap.context = []  # which only the tensors themselves would show
        new = (leaf for leaf, link in enumerate(gap.links) if link is None)
        gap.carried = [leaf for leaf in new if leaf not in gap.context]
        plain = all(_plain(args) and _plain(kwargs) for _, args, kwargs in gap.draws)
        place = next((i for i, link in enumerate(gap.links) if link and link[0] != "same"), None)
        if gap.draws and number and not gap.carried and (not plain or place is None):
            gap.links[place or 0], gap.carried = None, [place or 0]
        if gap.carried:
            gap.draws = ()
            tensors = [[o.calls[number].taken[leaf] for leaf in gap.carried] for o in seen]
            gap.needs = _sorted({*_needs(seen, number, tensors), *shapeless})


def _needs(
    seen: Sequence[Observation], number: int, tensors: Sequence[Sequence[Tensor]]
) -> set[Place]:
    places = zip(seen, tensors, strict=True)
    found = set().union(*(o.origins.computed_of(each) for o, each in places))
    return {place for place in found if place[0] < number}


def _shapeless(found: list[Gap], given: Sequence[Given], number: int) -> set[Place]:
    """Tensors of earlier calls that code reads and no argument of theirs has the shape of."""
    places = set[Place]()
    for call in range(min(number, len(given))):
        slots = [leaf for leaf in given[call].leaves if isinstance(leaf, Slot)]
        read = call + 1 == len(given) or call + 1 == number or None in found[call + 1].links
        if read:
            places |= {(call, k) for k, slot in enumerate(slots) if slot.like < 0}
    return places


def _sorted(places: set[Place]) -> tuple[Place, ...]:
    return tuple(sorted(places))


def _plain(value: Any) -> bool:
    return not any(isinstance(leaf, (Tensor, torch.Generator)) for leaf in flatten(value)[0])
