"""Propagators: what the tasks of a network's schedules apply, of what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from torch import nn

from pararealize.emit.fits import Fits
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.decisions import Coarse, Decisions, Guess
from pararealize.ir.features import without
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.target import HEAD, Target
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.fine import Checkpointed, Fine
from pararealize.propagators.fitting import Twin
from pararealize.propagators.propagator import Propagator, ZeroPreserving
from pararealize.propagators.registered import Registered
from pararealize.runtime.effects.generators import other_generators
from pararealize.runtime.effects.masks import Masks
from pararealize.tracing.copying import without_data


def propagators_of(
    decisions: Decisions, serial: nn.Module, registries: Mapping[str, nn.ModuleDict]
) -> dict[Target, Propagator]:
    """Everything that a schedule may apply."""
    partition, method, coarse = decisions.partition, decisions.plan.method, registries["coarse"]
    fine = fine_propagators(partition, serial)
    fine |= feature_propagators(decisions, serial, fine)
    parts: dict[Target, Propagator] = {**fine, **checkpointed(decisions, serial, fine)}
    if isinstance(method, MGRIT):
        return parts | level_propagators(decisions, serial, coarse)
    fits = Fits(partition, Twin(partial(without_data, serial)))
    every = {Target.coarse(j): choice for j, choice in decisions.coarse.items()}
    parts |= correcting_propagators(
        fits, serial, method, {**every, **decisions.levels}, coarse, fine
    )
    return parts | guess_propagators(fits, decisions.guesses, serial, registries["guess"])


def fine_propagators(partition: Partition, serial: nn.Module) -> dict[Target, Fine]:
    """The subnetworks, and the head where there is one."""
    chain, found = partition.chain, {}
    for j in range(1, partition.n + 1):
        title = f"subnetwork {j} ({{}})"
        found[Target.fine(j)] = _fine(chain, serial, *partition.piece(j), title)
    if partition.has_head:
        last = len(chain.layers)
        found[HEAD] = _fine(chain, serial, partition.bounds[-1], last, "the head ({})")
    return found


def _fine(chain: Chain, serial: nn.Module, first: int, last: int, title: str) -> Fine:
    """Some layers; the title names the first and the last of them."""
    train = chain.segment(first, last, training=True)
    same = chain.train is chain.eval
    evaluate = train if same else chain.segment(first, last, training=False)
    layers = dict.fromkeys((chain.layers[first].name, chain.layers[last - 1].name))
    return Fine(serial, train, evaluate, title.format(" … ".join(layers)))


def correcting_propagators(
    fits: Fits,
    serial: nn.Module,
    method: Parareal,
    coarse: Mapping[Target, Coarse],
    registry: nn.ModuleDict,
    fine: Mapping[Target, Propagator],
) -> dict[Target, Propagator]:
    """What corrects the subnetworks that ``fits`` is of, and their groups on levels above."""
    found: dict[Target, Propagator] = {}
    partition = fits.partition
    for level, points in enumerate(method.points(partition.n), start=2):
        own = {t.number: choice for t, choice in coarse.items() if t.level == level}
        here = fits if level == 2 else Fits(partition.merged(points), fits.twin)
        known = fine if level == 2 else {}
        found |= _coarse_propagators(here, serial, method, own, registry, known, level)
    return found


def _coarse_propagators(
    fits: Fits,
    serial: nn.Module,
    method: Parareal,
    coarse: Mapping[int, Coarse],
    registry: nn.ModuleDict,
    fine: Mapping[Target, Propagator],
    level: int,
) -> dict[Target, Propagator]:
    """What corrects every step of a level, and what guesses in a coarse sweep."""
    found: dict[Target, Propagator] = {}
    partition = fits.partition
    for j, choice in coarse.items():
        target, guess = Target.coarse(j, level), Target.guess(j, level if level > 2 else 1)
        whose = f"of subnetwork {j}" if level == 2 else f"{target}"
        label = f"the {choice.kind} coarse propagator {whose}"
        if choice.segment is not None:
            part: Propagator = borrowed(serial, choice.segment, choice.averages, label)
        elif choice.module is not None:
            leaves = len(partition.chain.state(partition.piece(j)[0]))
            fitting = None if choice.name == "custom" else fits.coarse(j, choice.inputs)
            key, inputs = registered_name(target), choice.inputs
            part = Registered(registry, key, label, leaves=leaves, inputs=inputs, fitting=fitting)
        else:
            part = fine[Target.fine(j)]
        found[guess] = part  # a coarse sweep makes the guesses; else replaced below
        if method.correction == "residual" and not choice.zero_preserving and j > 1:
            part = ZeroPreserving(part, shared=choice.module is None)
        found[target] = part
    return found


def registered_name(target: Target) -> str:
    """The key of a coarse network, under ``coarse.`` in the state dictionary."""
    return str(target.number) if target.level == 2 else f"level{target.level}_{target.number}"


def guess_propagators(
    fits: Fits, guesses: Mapping[int, Guess], serial: nn.Module, registry: nn.ModuleDict
) -> dict[Target, Propagator]:
    """What guesses the state at every interface from the network's inputs."""
    found: dict[Target, Propagator] = {}
    for j, guess in guesses.items():
        label, target = f"the guess network of interface {j}", Target.guess(j)
        if guess.segment is not None:
            found[target] = Fine(serial, guess.segment, guess.segment, label, borrows=True)
        else:
            fitting, inputs = fits.guess(j, guess.inputs), guess.inputs
            found[target] = Registered(
                registry, str(j), label, leaves=0, inputs=inputs, fitting=fitting
            )
    return found


def level_propagators(
    decisions: Decisions, serial: nn.Module, registry: nn.ModuleDict
) -> dict[Target, Propagator]:
    """Coarse propagators of all levels; all but a user's own borrow the network's weights."""
    partition, found = decisions.partition, borrowing_propagators(decisions.levels, serial)
    for target, choice in decisions.levels.items():
        if choice.segment is None:
            key, label = str(target.number), _label(choice, target)
            leaves = len(partition.chain.state(partition.bounds[target.number - 1]))
            found[target] = Registered(registry, key, label, leaves=leaves, inputs=choice.inputs)
    return found


def borrowing_propagators(
    levels: Mapping[Target, Coarse], serial: nn.Module
) -> dict[Target, Propagator]:
    """Coarse propagators that borrow the network's weights."""
    return {
        target: borrowed(serial, choice.segment, choice.averages, _label(choice, target))
        for target, choice in levels.items()
        if choice.segment is not None
    }


def _label(choice: Coarse, target: Target) -> str:
    return f"the {choice.kind} coarse propagator {target}"


def feature_propagators(
    decisions: Decisions, serial: nn.Module, fine: Mapping[Target, Fine]
) -> dict[Target, Fine]:
    """Slices that take features of the network's inputs as arguments, and what computes these."""
    found: dict[Target, Fine] = {}
    for j, features in decisions.features.items():
        old = fine[Target.fine(j)]
        segment = without(old.segments[0], features.results or ())
        found[Target.fine(j)] = Fine(serial, segment, segment, old.label)
        found[Target.inputs(j)] = Fine(serial, features, features, f"what {old.label} sees")
    return found


def checkpointed(
    decisions: Decisions, serial: nn.Module, fine: Mapping[Target, Fine]
) -> dict[Target, Propagator]:
    """Slices that keep only the states between intervals, where the method asks for it."""
    method, partition = decisions.plan.method, decisions.partition
    if not isinstance(method, MGRIT) or method.storage != "intervals":
        return {}
    found: dict[Target, Propagator] = {}
    for j in range(1, partition.n + 1):
        first, last = partition.piece(j)
        if j not in decisions.features and last - first > 1:
            spans = pairwise([*range(first, last, method.factors[0]), last])
            title = "the interval {}"
            parts = [_fine(partition.chain, serial, *span, title) for span in spans]
            found[Target.fine(j)] = Checkpointed(fine[Target.fine(j)], parts)
    return found


def share_masks(
    parts: Mapping[Target, Propagator], used: Mapping[Target, int], *, ranks: bool, linked: bool
) -> None:
    """Masks for what may draw random numbers more than once a step, or besides the network.

    On ``ranks`` also for what may draw from generators that ranks cannot follow. ``linked`` are
    those of subnetworks which are evaluated in the network's order.
    """
    network = {id(p) for target, p in parts.items() if target.is_network}
    wrapped = [p.inner for p in parts.values() if isinstance(p, ZeroPreserving)]
    again = {id(p) for p in wrapped} | {id(p) for target, p in parts.items() if used[target] > 1}
    drawing = {id(part) for part in (*parts.values(), *wrapped) if part.draws}
    for part in (*parts.values(), *wrapped):
        own_stream = id(part) not in network
        if part.masks is not None or id(part) not in drawing:
            continue
        others = other_generators(part.called())
        if own_stream or id(part) in again or (ranks and others):
            part.masks = Masks(own_stream=own_stream, others=others)
            part.masks.is_on_ranks = ranks
    if linked and not ranks:
        _link({target: part for target, part in parts.items() if id(part) in drawing}, used)


def _link(parts: Mapping[Target, Propagator], used: Mapping[Target, int]) -> None:
    """Let subnetworks that draw do so from where the one before has ended."""
    own = sorted((t for t in parts if t.is_network and t in used), key=_network_order)
    before: Masks | None = None
    last: Masks | None = None
    for part in map(parts.__getitem__, own):
        if part.masks is not None:
            part.masks.before, part.masks.is_linked = before, True
        before = part.masks
        last = part.masks if part is not parts.get(HEAD) else before or last
    if last is not None:
        last.is_last = True


def _network_order(target: Target) -> tuple[bool, int]:
    """Subnetworks by number, the head last."""
    return target == HEAD, target.number
