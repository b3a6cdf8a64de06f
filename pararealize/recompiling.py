"""Recompiling: a network whose attributes have changed, with programs of what they are now."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from pararealize.compiler import emitted
from pararealize.cost.inputs import bind
from pararealize.decide.request import Request
from pararealize.emit.emission import Emission
from pararealize.emit.watch import Change
from pararealize.errors import CoarseError, CutError, PararealizeError, RecompiledWarning
from pararealize.ir.chain import Partition, State
from pararealize.ir.plan import Tracing
from pararealize.tracing.copying import at_rest
from pararealize.verification.verify import NOT_ASKED


def as_found(tracing: Tracing, model: nn.Module) -> Tracing:
    """How to trace again: what was called whole is so again, whatever mode it is in now."""
    known = {name for name, _ in model.named_modules()}
    whole = [name for name in tracing.found if name in known]
    return replace(tracing, leaf_modules=tuple(dict.fromkeys((*tracing.leaf_modules, *whole))))


def recompiled(emission: Emission, change: Change) -> Emission:
    """The emission compiled again with the same weights and coarse networks, cut where it was.

    Where a module that is called whole now stands on a cut, it is cut elsewhere.

    Raises:
        StaleError: it lies on several ranks or devices, or cannot be what it was.

    Warns:
        RecompiledWarning: names the attribute, and what to write where it changes often.

    """
    if emission.transport is not None:
        error = change.error("ranks do not compile by themselves")
        emission.transport.refuse(error)
        raise error
    if emission.plan.ranks > 1:
        raise change.error("a network on several devices is not compiled by itself")
    begin = time.perf_counter()
    try:
        found = _with_networks(_emitted_again(emission, change), emission)
    except PararealizeError as error:
        raise change.error(f"with its new value the network is another one ({error})") from error
    if found.watch.change() is not None:
        raise change.error("it is no attribute of a module, but a mode that torch is in")
    often = f" If it changes often, {change.whole}." if change.whole else ""
    warnings.warn(
        f"{change.what}: the network was compiled again, in {time.perf_counter() - begin:.1f} s."
        f"{often}",
        RecompiledWarning,
        stacklevel=6,
    )
    return found


def _emitted_again(emission: Emission, change: Change) -> Emission:
    """What the compiler makes of the serial network as it is now, with the choices of its plan."""
    plan, serial = emission.plan, emission.serial
    with _without(serial, emission.registries), at_rest(serial):
        request = Request(
            *(plan.n, plan.method, bind(serial, (), plan.specs), plan.machine, plan.cuts),
            tracing=as_found(plan.tracing, serial),
            verify=plan.tracing.unverified != NOT_ASKED,
        )
        try:
            return emitted(serial, request, None, plan)
        except CutError:
            if plan.calibration is not None:
                raise
            cuts = _nearest(emission.decisions.partition, change.read.path)
            return emitted(serial, replace(request, interfaces=cuts), None, None)


def _nearest(partition: Partition, changed: str) -> list[str]:
    """Modules after which it can be cut as well, outside of the one that has ``changed``."""
    chain = partition.chain
    known = {
        position: interface
        for position, interface in enumerate(chain.interfaces, 1)
        if interface.module and not f"{interface.module}.".startswith(f"{changed}.")
    }
    cuts = []
    for j in range(1, partition.n):
        state = partition.interface(j).state
        fits = [position for position, interface in known.items() if interface.state == state]
        if fits:
            cuts.append(min(fits, key=lambda position: abs(position - partition.bounds[j])))
    return [known[position].module for position in cuts]


def _with_networks(found: Emission, before: Emission) -> Emission:
    """The emission with the coarse and guess networks, and the rule, that there were before.

    Raises:
        CoarseError: they are others.
        CutError: they stand between other states.

    """
    if any(map(len, before.registries.values())) and _states(found) != _states(before):
        raise CutError("its coarse networks would stand between other states")
    for prefix, registry in before.registries.items():
        new = found.registries[prefix]
        if _shapes(new) != _shapes(registry):
            raise CoarseError(f"its {prefix} networks would have other weights")
        new.update(dict(registry.items()))
    return replace(found, rule=before.rule, lock=before.lock)


def _states(emission: Emission) -> list[State]:
    """What flows between its subnetworks."""
    partition = emission.decisions.partition
    return [partition.interface(j).state for j in range(1, partition.n)]


def _shapes(registry: nn.Module) -> dict[str, Any]:
    return {name: getattr(v, "shape", None) for name, v in registry.state_dict().items()}


@contextmanager
def _without(serial: nn.Module, registries: Mapping[str, nn.ModuleDict]) -> Iterator[None]:
    """Compile the serial network alone: it shares its modules with the network it became."""
    kept = {
        prefix: serial._modules.pop(prefix) for prefix in registries if prefix in serial._modules
    }
    try:
        yield
    finally:
        serial._modules.update(kept)
