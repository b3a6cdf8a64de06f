"""Ranks: what of a network each rank holds, and the part of the schedule that it runs."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from operator import attrgetter

from torch import Tensor, nn

from pararealize.emit.emission import Emission, Share
from pararealize.errors import RankError
from pararealize.ir.schedule import Schedule, targets
from pararealize.ir.target import Target
from pararealize.ir.task import Role, Task
from pararealize.propagators.calls import parents
from pararealize.propagators.propagator import Propagator, ZeroPreserving
from pararealize.propagators.registered import Registered
from pararealize.runtime.communication.random_streams import Draw
from pararealize.runtime.communication.tied_parameters import Tie
from pararealize.runtime.communication.transport import Transport
from pararealize.tracing.copying import meta_copy


def on_rank(emission: Emission, transport: Transport) -> Emission:
    """What rank ``transport.rank`` holds of a network whose schedule is placed.

    Raises:
        RankError: two ranks would hold the same buffer.

    """
    parts, serial = emission.propagators, emission.serial
    everything = [task for schedule in emission.decisions.every for task in schedule]
    found = homes(everything, parts)
    names = set(serial.state_dict())
    for prefix, registry in emission.registries.items():
        names |= {f"{prefix}.{key}" for key in registry.state_dict()}
    draws = drawing(emission.schedule, parts)
    if emission.decisions.iteration is not None:
        # A solver decides which task is first; coarse propagators draw from the step's start.
        fine = (task for task in emission.schedule if task.role is Role.FINE)
        applied: dict[object, Target] = {task.value: task.applied for task in fine}
        shared = (draw for draw in draws if not draw.own)
        draws = tuple(replace(d, value=applied.get(d.value, d.value)) for d in shared)
    ties = tied(found, serial, transport.rank)
    number = transport.networks
    share = Share(transport, draws, frozenset(names), meta_copy(serial), ties, number)
    for part in map(inner_of, parts.values()):
        if isinstance(part, Registered) and part.fitting is not None:
            part.fitting.twin.settle(share.skeleton)
    strip(serial, under_every_name(found, serial), transport.rank)
    here = targets(task for task in everything if task.rank == transport.rank)
    local = {target: part for target, part in parts.items() if target in here}
    keep_applied(emission.registries, local)
    return replace(emission, propagators=local, share=share)


def drawing(schedule: Schedule, parts: Mapping[Target, Propagator]) -> tuple[Draw, ...]:
    """First applications of the propagators that may draw random numbers, in order.

    Draws of those that are the network itself move its stream.
    """
    seen, found = set(), []
    for task in schedule:
        if task.target is None:
            continue
        part = inner_of(parts[task.target])
        if part.draws and id(part) not in seen:
            found.append(Draw(task.value, task.rank, not task.target.is_network))
        seen.add(id(part))
    return tuple(found)


def inner_of(part: Propagator) -> Propagator:
    """What a propagator that was made zero-preserving evaluates, or the propagator itself."""
    return part.inner if isinstance(part, ZeroPreserving) else part


def homes(schedule: Iterable[Task], parts: Mapping[Target, Propagator]) -> dict[str, set[int]]:
    """The ranks that run every module, and read every tensor and flag, by path."""
    found: dict[str, set[int]] = {}
    for task in schedule:
        part = None if task.target is None else parts.get(task.target)
        for path in inner_of(part).paths() if part is not None else ():
            found.setdefault(path, set()).add(task.rank)
    return found


def tied(found: Mapping[str, set[int]], serial: nn.Module, rank: int) -> tuple[Tie, ...]:
    """Parameters that ``rank`` holds and others as well, in an order that all agree on.

    Raises:
        RankError: two ranks would hold the same buffer.

    """
    ties = []
    for tensor, names in spread(found, serial):
        if not isinstance(tensor, nn.Parameter) and moves(tensor, names, serial):
            raise RankError(
                f"the buffers {both(names)} are the same, and each rank would move its own: "
                "layers that share buffers have to lie in subnetworks of one rank. Choose "
                "interfaces= so that they do, or fewer ranks."
            )
        if rank in names and isinstance(tensor, nn.Parameter):
            ties.append(Tie(names[rank], tuple(sorted(names))))
    return tuple(ties)


def spread(
    found: Mapping[str, set[int]], serial: nn.Module
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """Every tensor that several ranks hold, and its first name on each."""
    holders: dict[int, tuple[Tensor, dict[int, str]]] = {}
    for path, ranks in found.items():
        for name, tensor in _tensors(serial, path):
            names = holders.setdefault(id(tensor), (tensor, {}))[1]
            for rank in sorted(ranks):
                names.setdefault(rank, name)
    return (pair for pair in holders.values() if len(pair[1]) > 1)


def moves(buffer: Tensor, names: Mapping[int, str], serial: nn.Module) -> bool:
    """Whether an evaluation may write on a buffer: whole numbers are tables, but for counts."""
    owner = serial.get_submodule(min(names.values()).rpartition(".")[0])
    return buffer.is_floating_point() or isinstance(owner, nn.modules.batchnorm._NormBase)


def both(names: Mapping[int, str]) -> str:
    """The first two holders of a tensor, for a message."""
    (one, name), (two, other), *_ = sorted(names.items())
    return f"{name!r} of rank {one} and {other!r} of rank {two}"


def under_every_name(found: Mapping[str, set[int]], serial: nn.Module) -> dict[str, set[int]]:
    """``found`` with the other names of what lies there, of which schedules know the first only.

    A layer that is used twice has two names, and a layer that nobody runs may have a weight of one
    that runs: whoever kept it by another name would keep a copy that is never trained.
    """
    known, holders = dict(found), dict[int, set[int]]()
    for path, ranks in found.items():
        value = attrgetter(path)(serial)
        inner = value.modules() if isinstance(value, nn.Module) else ()
        for each in (*inner, *(tensor for _, tensor in _tensors(serial, path))):
            holders.setdefault(id(each), set()).update(ranks)
    named = (serial.named_modules, serial.named_parameters, serial.named_buffers)
    for name, value in chain.from_iterable(names(remove_duplicate=False) for names in named):
        if id(value) in holders and known.keys().isdisjoint((name, *parents(name))):
            known[name] = holders[id(value)]
    return known


def _tensors(serial: nn.Module, path: str) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers of a module, or the one tensor that the path names."""
    value = attrgetter(path)(serial)
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, nn.Module):
        for tensors in (value.named_parameters(path), value.named_buffers(path)):
            yield from tensors


def strip(serial: nn.Module, found: Mapping[str, set[int]], rank: int) -> None:
    """Remove from ``serial`` what only other ranks need; what nobody runs stays with rank 0."""
    above = {parent for path in found for parent in parents(path)}
    needed = {parent for path, ranks in found.items() if rank in ranks for parent in parents(path)}

    def visit(module: nn.Module, prefix: str, owners: set[int]) -> None:
        """Remove from a module of which others run as a whole what this rank does not read."""

        def is_mine(path: str) -> bool:
            return rank in found.get(path, owners)

        for name, child in list(module._modules.items()):
            path = f"{prefix}{name}"
            is_run = rank in found.get(path, ())
            if child is not None and path in above and not is_run:
                visit(child, f"{path}.", found.get(path, owners))
                empty = not (child._modules or child._parameters or child._buffers)
                keeps = path in needed or not empty
            else:
                keeps = is_mine(path)
            if not keeps:
                del module._modules[name]
        for registry in (module._parameters, module._buffers):
            for name in list(registry):
                if not is_mine(f"{prefix}{name}"):
                    del registry[name]

    visit(serial, "", {0})


def keep_applied(
    registries: Mapping[str, nn.ModuleDict], parts: Mapping[Target, Propagator]
) -> None:
    """Remove the coarse and guess networks that no propagator applies."""
    inner = [inner_of(part) for part in parts.values()]
    keep = {id(part.module) for part in inner if isinstance(part, Registered)}
    for registry in registries.values():
        for key in [key for key, module in registry.items() if id(module) not in keep]:
            del registry[key]


def release() -> None:
    """Return memory that is free inside the heap to the operating system, where glibc can.

    A rank has built the whole network and dropped the others' subnetworks. The holes that these
    leave are smaller than the states of a training step, which would be allocated beside them.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
