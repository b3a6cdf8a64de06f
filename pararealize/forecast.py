"""Forecast: parallel depth on machines that are not here, for many numbers of subnetworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pararealize.coarse.registry import asked
from pararealize.compiler import chain_of, passes_of
from pararealize.cost.alternatives import STEP, pipelined, replicated, summed
from pararealize.cost.inputs import bind, decisive
from pararealize.cost.predict import timed
from pararealize.decide.passes import MethodPasses
from pararealize.decide.request import Request
from pararealize.errors import CutError, MethodError, PararealizeError
from pararealize.ir.chain import Chain
from pararealize.ir.forecast import Estimate, Forecast, Mesh, Work
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Machine, Plan, Tracing
from pararealize.runtime.effects.keeping import all_kept
from pararealize.runtime.monitoring.progress import Progress, progress_of
from pararealize.schedule.parareal import parareal_stages
from pararealize.tracing.copying import at_rest
from pararealize.tracing.module import check_module, copy_sharing_weights
from pararealize.tracing.wrappers import unwrapped
from pararealize.verification.verify import verified

#: Bytes of a weight's gradient and of two moments of an optimizer, for each byte of the weight.
TRAINED = 3


def forecast(
    model: nn.Module,
    counts: Sequence[int],
    *,
    method: Method | None = None,
    machine: Machine | None = None,
    example_inputs: Sequence[Any] | None = None,
    training: bool = False,
    progress: bool | Progress = False,
) -> Forecast:
    """What so many subnetworks of a network would take, each on a device of a machine.

    Nothing runs but the trace of the network: layers cost what the machine's rates say.

    Args:
        model: the network; it is not changed.
        counts: numbers of subnetworks.
        method: as for :func:`pararealize`.
        machine: the devices and links.
        example_inputs: as for :func:`pararealize`.
        training: memory and messages of a training step.
        progress: as for :func:`pararealize`.

    Raises:
        PararealizeError: the network cannot be traced.

    """
    found = forecasts(
        model,
        counts,
        [method or Parareal()],
        machine=machine,
        example_inputs=example_inputs,
        training=training,
        progress=progress,
    )
    return found[0]


def forecasts(
    model: nn.Module,
    counts: Sequence[int],
    methods: Sequence[Method],
    *,
    machine: Machine | None = None,
    example_inputs: Sequence[Any] | None = None,
    training: bool = False,
    progress: bool | Progress = False,
) -> list[Forecast]:
    """Forecasts of several methods for one network, which is traced once; see :func:`forecast`.

    Raises:
        PararealizeError: the network cannot be traced.

    """
    machine = machine or Machine()
    if not counts or min(counts) < 1:
        raise MethodError(f"counts={list(counts)}: expected numbers of subnetworks of 1 or more.")
    model = unwrapped(model)
    check_module(model)
    serial, given = copy_sharing_weights(model), bind(model, example_inputs, None)
    tracing = Tracing((), decisive(given))
    chains: dict[bool, tuple[Request, Chain]] = {}
    told, found = progress_of(progress, first=True), []
    with told, at_rest(model), all_kept(serial):
        for method in methods:
            tuples = asked(method).takes_tuples
            if tuples not in chains:
                request = Request(1, method, given, machine, tracing=tracing, verify=False)
                with told.task("tracing"):
                    chains[tuples] = verified(serial, request, chain_of)
            request, chain = chains[tuples]
            passes = passes_of(replace(request, method=method), serial, 1, None)
            with told.task("cutting", len(counts)) as advance:
                found.append(_forecast(passes, chain, counts, advance, training=training))
    return found


def _forecast(
    passes: MethodPasses,
    chain: Chain,
    counts: Sequence[int],
    advance: Callable[[str], None],
    *,
    training: bool,
) -> Forecast:
    """The forecast of a method for a chain."""
    machine, method = passes.request.machine, passes.request.method
    work = _work(chain, machine)
    plans = []
    for n in counts:
        plans.append(_planned(passes, chain, n))
        advance(f"n={n}")
    known = [plan for plan in plans if isinstance(plan, Plan)]
    base = min((p for p in known if p.n > 2), key=lambda plan: plan.n, default=None)
    estimates = tuple(
        Estimate(n, refused=str(plan))
        if not isinstance(plan, Plan)
        else _estimate(plan, work, base, training=training)
        for n, plan in zip(counts, plans, strict=True)
    )
    inputs = known[0].inputs if known else {}
    here = type(passes.serial).__name__
    return Forecast(here, inputs, method, machine, work, len(chain.layers), training, estimates)


def _planned(passes: MethodPasses, chain: Chain, n: int) -> Plan | PararealizeError:
    """The plan for so many subnetworks, or why there is none."""
    try:
        return passes.price(passes.cut(chain, passes.settle(chain, [n])))
    except (CutError, MethodError) as error:
        return error


def _work(chain: Chain, machine: Machine) -> Work:
    cost = chain.cost(0, len(chain.layers))
    shapes = [spec.shape for spec in chain.profile.inputs.values() if spec is not None]
    batch = min((shape[0] for shape in shapes if shape), default=1)
    state = max((interface.bytes for interface in chain.interfaces), default=0)
    weights = 4 * sum(chain.sizes.values())
    return Work(cost.seconds, cost.launches, batch, weights, state, machine)


def _estimate(plan: Plan, work: Work, base: Plan | None, *, training: bool) -> Estimate:
    weak, weak_serial = _weak(plan, base)
    return Estimate(
        plan.n,
        plan.parallel_seconds,
        plan.critical_coarse_seconds,
        max(piece.interface_bytes for piece in plan.pieces),
        max(_memory(plan, j, training=training) for j in range(plan.n)),
        pipelined(work, plan.n),
        replicated(work, plan.n, training=training),
        weak,
        weak_serial,
    )


def _memory(plan: Plan, j: int, *, training: bool) -> int:
    """Bytes of a device: its weights, with gradients and moments, and what it computes."""
    piece = plan.pieces[j]
    groups = sum(g.coarse_parameters for g in plan.groups if g.last == piece.index)
    weights = 4 * (piece.parameters + piece.coarse_parameters + piece.guess_parameters + groups)
    kept = piece.memory if training else 2 * max(piece.interface_bytes, piece.memory // piece.depth)
    return weights * (1 + TRAINED * training) + kept


def _weak(plan: Plan, base: Plan | None) -> tuple[float | None, float]:
    """Seconds of a network that grows with the devices, of subnetworks like those of ``base``.

    And those of one device for it. Coarse networks of levels above the second are of one depth.
    """
    method, n = plan.method, plan.n
    if base is None or not isinstance(method, Parareal) or method.subnetworks is not None:
        return None, 0.0
    if base.groups or plan.groups:
        return None, 0.0
    first, *inner, last = base.pieces
    middle = max(inner, key=lambda piece: piece.seconds)
    row = [first, *[middle] * (n - 2), last][:n]
    pieces = tuple(replace(piece, index=j) for j, piece in enumerate(row, 1))
    grown = replace(base, pieces=pieces, head="", head_seconds=0.0)
    schedule = parareal_stages(n, method, head=False)[0]
    return timed(grown, schedule).parallel_seconds, sum(piece.seconds for piece in pieces)


def meshes(by_replicas: Mapping[int, Forecast], devices: Sequence[int]) -> list[Mesh]:
    """For numbers of devices the fastest mesh of replicas and subnetworks.

    ``by_replicas`` are forecasts of the batch that each of so many replicas gets. In a training
    step the replicas of each subnetwork sum its gradients, as in :func:`replicated`.
    """
    found = []
    for count in devices:
        options = [
            Mesh(count, parts, e.n, e.seconds + _summed(each, e, parts))
            for parts, each in by_replicas.items()
            for e in each.estimates
            if not e.refused and parts * e.n == count
        ]
        if options:
            found.append(min(options, key=lambda mesh: mesh.seconds))
    return found


def _summed(each: Forecast, estimate: Estimate, parts: int) -> float:
    """Seconds, of an evaluation, in which replicas of one subnetwork sum its gradients."""
    if not each.training or parts == 1:
        return 0.0
    return summed(each.serial.weights / estimate.n, parts, each.machine) / STEP
