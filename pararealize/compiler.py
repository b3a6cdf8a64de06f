"""The compiler: a sequential network in, a network with parallel depth out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.calibration.calibrate import calibrate
from pararealize.chain.interfaces import build_chain
from pararealize.coarse.builder import build_coarse
from pararealize.coarse.guesses import build_guesses
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.levels import LevelBuilder, find_levels
from pararealize.coarse.recoarsening import decide, recoarsening
from pararealize.coarse.registry import asked, saved_kinds
from pararealize.coarse.separable import chunk_counts, inseparable
from pararealize.cost.depth_batching import find_stacks
from pararealize.cost.inputs import bind, decisive, expectations, infer_profile
from pararealize.cost.measure import measured
from pararealize.cost.predict import make_plan, timed
from pararealize.cost.probe import Probe
from pararealize.cost.profile import profile
from pararealize.cost.simulate import predict
from pararealize.cut.cut import check_count, cut, cut_at
from pararealize.cut.wide_states import with_wide_states
from pararealize.emit.assemble import assemble
from pararealize.emit.collect import share_weights
from pararealize.emit.fastest import measured_speedup, serially
from pararealize.emit.ranks import release
from pararealize.errors import CutError, MethodError, RankError, SlowerThanSerialWarning
from pararealize.ir.chain import Chain, Partition, Profile
from pararealize.ir.decisions import Decisions
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Machine, Plan, Tracing
from pararealize.ir.program import Program
from pararealize.ir.schedule import Schedule, propagators
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.transport import Transport, together
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.mgrit import iteration
from pararealize.schedule.parareal import certified_stages, parareal_stages
from pararealize.schedule.place import owner, place, place_iteration, place_stages
from pararealize.tracing.blocks import trace_blocks
from pararealize.tracing.copying import collection_paused
from pararealize.tracing.mutation import trace_keeping_state
from pararealize.tracing.trace import check_module, copy_module, find_leaves

#: Most subnetworks that ``n="auto"`` tries.
MOST = 16
#: Most tensors in a state, where the network cannot be cut through single ones.
WIDEST = 8


def pararealize(
    model: nn.Module,
    n: int | str = "auto",
    *,
    method: Method | None = None,
    example_inputs: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    interfaces: Sequence[str] | None = None,
    leaf_modules: Sequence[str | type] = (),
    concrete_args: Mapping[str, Any] | None = None,
    blocks: str | None = None,
    cost: str = "predicted",
    machine: Machine | None = None,
    devices: Sequence[str | torch.device] | None = None,
    comm: Any = None,
    chunks: int | None = None,
) -> ParallelNetwork:
    """Compile a sequential network into one whose depth runs in parallel.

    Args:
        model: the network; it is copied and never changed.
        n: number of subnetworks, or ``"auto"`` for the best predicted one.
        method: how; ``Parareal()`` with the paper's choices by default, or ``MGRIT()``, which
            keeps the weights as they are.
        example_inputs: the arguments of one call; inferred where the first layers tell.
        example_kwargs: its keyword arguments.
        interfaces: names of the ``n - 1`` modules to cut after, instead of balanced cuts.
        leaf_modules: names or classes of modules to call whole, without looking into them. Modules
            that cannot be traced become such by themselves.
        concrete_args: numbers, strings or flags that arguments of ``forward`` always have, where
            the forward code branches on them.
        blocks: name of the list of blocks that the network runs one after another, for networks
            whose own forward cannot be traced, as those of ``transformers``: ``"transformer.h"``.
        cost: ``"predicted"`` from floating-point operations and bytes, or ``"measured"`` in
            seconds on the model's device.
        machine: rates of the devices and links that predictions assume.
        devices: devices to put the subnetworks on, neighbours together; the network takes its
            input on any of them and answers on the last. With ``comm``, one for each rank.
        comm: an mpi4py communicator or a torch.distributed process group, all of whose ranks
            call this: each builds and holds only its own subnetworks, and all get the same
            output. Weights are those of rank 0. ``n="auto"`` is then one subnetwork a rank.
        chunks: on ranks, the number of slices of the batch in which corrections flow from rank to
            rank; by default what is predicted to be fastest.

    Raises:
        PararealizeError: the network cannot be traced, cut or coarsened as asked; the message
            says what was found and what to write.

    Warns:
        SlowerThanSerialWarning: the parallel network is predicted to be slower than the serial.

    Source: Lee, Lee & Park, "Parareal neural networks emulating a parallel-in-time algorithm",
    arXiv 2103.08802.

    """
    method, machine = method or Parareal(), machine or Machine()
    _check_options(n, method, cost, comm, chunks)
    check_module(model)
    given = bind(model, example_inputs, example_kwargs)
    transport = None if comm is None else connect(comm)
    places = tuple(torch.device(device) for device in devices or ())
    leaves = tuple(sorted(find_leaves(model, leaf_modules)))
    tracing = Tracing(leaves, {**decisive(given), **(concrete_args or {})}, blocks or "")
    request = Request(n, method, given, machine, interfaces, cost, chunks, places, tracing)
    with at_rest(), together(transport):
        network = compile_as(model, request, transport)
    if transport is not None:
        release()
        _check_alike(transport, network.plan)
    if network.plan.n > 1 and network.plan.speedup < 1:
        warnings.warn(SlowerThanSerialWarning(network.plan.verdict), stacklevel=2)
    return network


@contextmanager
def at_rest() -> Iterator[None]:
    """Compile in no mode of the caller's: weights copied in inference mode could not be trained."""
    with collection_paused(), torch.inference_mode(False), torch.enable_grad():
        yield


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``given`` are the inputs of one call, if any are known."""

    n: int | str
    method: Method
    given: Mapping[str, Any] | None
    machine: Machine
    interfaces: Sequence[str] | None = None
    cost: str = "predicted"
    chunks: int | None = None
    devices: tuple[torch.device, ...] = ()
    tracing: Tracing = field(default_factory=Tracing)


def compile_as(
    model: nn.Module,
    request: Request,
    transport: Transport | None = None,
    saved: Plan | None = None,
) -> ParallelNetwork:
    """The passes, one after another; what a saved plan chose is chosen again."""
    serial = copy_module(model)
    if transport is None:
        return _alone(serial, request, saved)
    request = replace(request, n=_count_on(transport.size, request.n))
    if len(request.devices) not in {0, transport.size}:
        raise RankError(
            f"{len(request.devices)} devices for {transport.size} ranks: give one for each rank, "
            "or none to leave the model where it is."
        )
    share_weights(serial, transport)
    with transport.alone():
        chain = _chain(serial, request)
    if request.cost == "measured":
        layers, costs = transport.exchange((chain.layers, dict(chain.profile.costs)))[0]
        chain = replace(chain, layers=layers, profile=replace(chain.profile, costs=costs))
    with transport.alone():
        decisions = _decide(chain, serial, request, transport.size, saved)
        decisions = _on_ranks(decisions, transport.size, request.chunks)
        network = ParallelNetwork(assemble(decisions, serial, transport, calibrate=calibrate))
    return network.to(request.devices[transport.rank]) if request.devices else network


def _alone(serial: nn.Module, request: Request, saved: Plan | None) -> ParallelNetwork:
    """The network in one process, on one device or several."""
    count = len(request.devices) or 1
    request = replace(request, n=_count_on(count, request.n) if count > 1 else request.n)
    decisions = _decide(_chain(serial, request), serial, request, count, saved)
    if count > 1:
        decisions = _placed(decisions, count, deliver=False)
    elif isinstance(request.method, MGRIT):
        inputs = dict(request.given or {})
        probe = Probe(decisions.partition, serial, inputs, request.method.seed)
        stacks = find_stacks(probe, request.method, decisions.features)
        decisions = replace(decisions, plan=replace(decisions.plan, stacks=stacks))
        if request.method.batched == "fastest" and decisions.iteration is not None:
            decisions = _or_serial(decisions, serial, probe)
    emission = assemble(decisions, serial, devices=request.devices, calibrate=calibrate)
    return ParallelNetwork(emission)


def _or_serial(decisions: Decisions, serial: nn.Module, probe: Probe) -> Decisions:
    """The decisions, or those for the serial network where that is measured to be faster."""
    iterated = decisions.iteration
    assert iterated is not None
    network = ParallelNetwork(assemble(decisions, copy_module(serial)))
    speedup = measured_speedup(network, serial, probe.arguments)
    decisions = replace(decisions, plan=replace(decisions.plan, measured_speedup=speedup))
    if speedup >= 1:
        return decisions
    solved = serially(iterated)
    plan = replace(decisions.plan, stacks=())
    return replace(decisions, iteration=solved, schedule=solved.forward[0].schedule, plan=plan)


def _on_ranks(decisions: Decisions, ranks: int, chunks: int | None) -> Decisions:
    """The decisions with their schedule on ranks, corrections in as many slices as pay."""
    n, plan = decisions.plan.n, decisions.plan
    if decisions.iteration is not None or decisions.later:
        return _placed(decisions, ranks, deliver=True)

    def placed(parts: int) -> tuple[float, Schedule, int]:
        cut_up = chunk(decisions.schedule, parts, lambda piece: owner(piece, n, ranks))
        schedule = place(cut_up, n, ranks, deliver=True)
        return predict(plan, schedule).makespan, schedule, parts

    counts = chunk_counts(decisions) if chunks is None else (chunks,)
    whole = inseparable(decisions) if max(counts) > 1 else None
    if whole is not None:
        raise MethodError(
            f"chunks={chunks}: the coarse network of subnetwork {whole} does not treat every "
            "sample of a batch by itself (BatchNorm?), so that slices would change what it "
            "computes: leave chunks out, or choose another coarse network."
        )
    options = [placed(parts) for parts in (counts if ranks > 1 else (1,))]
    seconds, schedule, parts = min(options, key=lambda option: option[0])
    plan = replace(plan, parallel_seconds=seconds, chunks=parts)
    return replace(decisions, schedule=schedule, plan=plan)


def _placed(decisions: Decisions, ranks: int, *, deliver: bool) -> Decisions:
    """The decisions with all schedules on ranks."""
    n = decisions.plan.n
    schedule = place(decisions.schedule, n, ranks, deliver=deliver)
    if decisions.iteration is None:
        _, *later = place_stages((schedule, *decisions.later), n, ranks, deliver=deliver)
        return replace(decisions, schedule=schedule, later=tuple(later))
    iteration = place_iteration(decisions.iteration, n, ranks, deliver=deliver)
    return replace(decisions, schedule=iteration.forward[0].schedule, iteration=iteration)


def _chain(serial: nn.Module, request: Request) -> Chain:
    tracing = request.tracing
    if tracing.blocks:
        traced = trace_blocks(serial, tracing.blocks, request.given, tracing.concrete_args)
    else:
        names = request.given or {}
        traced = trace_keeping_state(serial, names, tracing.leaf_modules, tracing.concrete_args)
    profiled = _profile(traced.train, serial, request)
    narrow = build_chain(serial, traced, profiled)
    wide = partial(build_chain, serial, traced, profiled, width=WIDEST)
    tuples = asked(request.method).takes_tuples
    chain = with_wide_states(narrow, wide, request.n, request.interfaces, takes_tuples=tuples)
    if request.cost == "measured":
        chain = measured(chain, serial, request.given or {}, seed=request.method.seed)
    return chain


def _decide(
    chain: Chain, serial: nn.Module, request: Request, ranks: int, saved: Plan | None
) -> Decisions:
    n = request.n
    if isinstance(n, str) and request.interfaces is not None:
        n = len(request.interfaces) + 1
    elif isinstance(n, str) and isinstance(request.method, Parareal):
        n = request.method.subnetworks or n
    count = _best_count(chain, serial, request) if isinstance(n, str) else n
    partition = _partition(chain, serial, request, count)
    decisions = _build(partition, serial, request, ranks, saved)
    if saved is None:
        return decisions
    if saved.ranks == decisions.plan.ranks:
        return replace(decisions, plan=saved)
    if saved.calibration is None:
        return decisions
    return replace(decisions, plan=_elsewhere(saved, decisions))


def _elsewhere(saved: Plan, decisions: Decisions) -> Plan:
    """A calibrated plan, with its measured seconds, on another number of ranks."""
    return timed(replace(saved, ranks=decisions.plan.ranks, chunks=1), decisions.schedule)


def _count_on(ranks: int, n: int | str) -> int:
    if isinstance(n, int) and n < ranks:
        raise RankError(
            f"{n} subnetworks cannot lie on {ranks} ranks or devices, which would leave "
            f"{ranks - n} without work: write pararealize(model, n={ranks}, ...), or use {n}."
        )
    return n if isinstance(n, int) else ranks


def _check_alike(transport: Transport, plan: Plan) -> None:
    plans = transport.exchange(plan.to_json())
    if len(set(plans)) > 1:
        other = next(rank for rank, text in enumerate(plans) if text != plans[0])
        raise RankError(
            f"rank {other} compiled another network than rank 0 ({plans[other].count('index')} "
            f"subnetworks and {plans[0].count('index')}, or other layers or options): call "
            "pararealize with the same model, n, method and inputs on every rank."
        )


def _check_options(n: int | str, method: Method, cost: str, comm: Any, chunks: int | None) -> None:
    if isinstance(n, bool) or not (n == "auto" or (isinstance(n, int) and n >= 1)):
        raise CutError(
            f"n={n!r}: expected a number of subnetworks of 1 or more, or 'auto': "
            "pararealize(model, n=4)."
        )
    if not isinstance(method, (Parareal, MGRIT)):
        raise MethodError(f"method={method!r}: expected Parareal(...) or MGRIT(...).")
    if isinstance(method, MGRIT) and chunks not in {None, 1}:
        raise MethodError(f"chunks={chunks}: the states of MGRIT travel whole: leave chunks out.")
    judged = isinstance(method, Parareal) and method.tolerance is not None
    if judged and chunks not in {None, 1}:
        raise MethodError(
            f"chunks={chunks}: where a tolerance decides on sweeps, states travel whole: leave "
            "chunks out, or the tolerance."
        )
    if cost not in {"predicted", "measured"}:
        raise MethodError(f"cost={cost!r}: expected 'predicted' or 'measured'.")
    if chunks is not None and (comm is None or not isinstance(chunks, int) or chunks < 1):
        raise MethodError(
            f"chunks={chunks!r}: expected a number of slices of 1 or more, for networks on ranks: "
            "pararealize(model, n, comm=comm, chunks=4)."
        )


def _profile(program: Program, serial: nn.Module, request: Request) -> Profile:
    if request.given is None:
        return infer_profile(program, serial, request.machine)
    return profile(program, serial, request.given, request.machine)


def _partition(chain: Chain, serial: nn.Module, request: Request, n: int) -> Partition:
    if isinstance(request.method, Parareal):
        request.method.check_subnetworks(n)
    if request.interfaces is not None:
        return cut_at(chain, request.interfaces, n)
    check_count(chain, n)
    return cut(chain, serial, n, request.method, request.machine)


def _build(
    partition: Partition,
    serial: nn.Module,
    request: Request,
    ranks: int,
    saved: Plan | None = None,
) -> Decisions:
    """Coarse networks, schedule and plan of a partition; kinds are those that were saved."""
    method, machine = request.method, request.machine
    chosen = saved_kinds(saved.pieces, method) if saved else {}
    probe = Probe(partition, serial, dict(request.given or {}), method.seed)
    if isinstance(method, MGRIT):
        return _build_levels(partition, serial, request, method, probe, ranks, chosen)
    shared = method.coarse == "fine" and method.correction == "difference"
    certified = saved is not None and saved.calibration is not None
    stages = certified_stages if certified else parareal_stages
    schedule, *later = stages(partition.n, method, shared=shared, head=partition.has_head)
    used = frozenset(name for stage in (schedule, *later) for name in propagators(stage))
    coarse = build_coarse(partition, serial, method, machine, probe, used, chosen)
    guesses = build_guesses(partition, serial, method, machine, used)
    plan = make_plan(
        partition, schedule, serial, method, machine, coarse, guesses, ranks if ranks > 1 else 0
    )
    tracing = replace(request.tracing, found=partition.chain.whole)
    plan = replace(plan, tracing=tracing)
    expected = expectations(partition.chain.train, serial)
    decisions = Decisions(partition, method, schedule, plan, coarse, guesses, expected)
    return replace(decisions, later=tuple(later))


def _build_levels(
    partition: Partition,
    serial: nn.Module,
    request: Request,
    method: MGRIT,
    probe: Probe,
    ranks: int,
    chosen: Mapping[int, CoarseKind],
) -> Decisions:
    """Coarse levels, schedules and plan of a partition."""
    levels = find_levels(partition, method)
    builder = LevelBuilder(partition, serial, method, request.machine, probe, chosen)
    solved = iteration(levels, method, head=partition.has_head, seeing=builder.features)
    coarse, plan = decide(builder, solved, ranks if ranks > 1 else 0)
    schedule = solved.forward[0].schedule
    plan = replace(plan, tracing=replace(request.tracing, found=partition.chain.whole))
    expected = expectations(partition.chain.train, serial)
    features = {j: found.segment for j, found in builder.features.items()}
    again = recoarsening(partition, solved, request.machine, plan.ranks, request.given or {})
    decisions = Decisions(partition, method, schedule, plan, {}, {}, expected)
    return replace(
        decisions, levels=coarse, features=features, iteration=solved, decide_again=again
    )


def _best_count(chain: Chain, serial: nn.Module, request: Request) -> int:
    """The number of subnetworks with the least predicted time."""
    blind = replace(request, given={})

    def seconds(n: int) -> float:
        partition = _partition(chain, serial, blind, n)
        return _build(partition, serial, blind, 0).plan.parallel_seconds

    return min(range(1, min(MOST, len(chain.interfaces) + 1) + 1), key=seconds)
