"""The compiler: a sequential network in, a network with parallel depth out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.chain.interfaces import build_chain
from pararealize.coarse.registry import asked
from pararealize.cost.described import described
from pararealize.cost.drawing import with_draws
from pararealize.cost.inputs import bind, decisive, infer_profile
from pararealize.cost.measure import with_measured_costs
from pararealize.cost.profile import profile
from pararealize.cost.rates import machine_for
from pararealize.cut.wide_states import with_wide_states
from pararealize.decide.arguments import check_arguments, devices_of
from pararealize.decide.mgrit_passes import MGRITPasses
from pararealize.decide.parareal_passes import PararealPasses
from pararealize.decide.passes import MethodPasses
from pararealize.decide.request import Request, check_chunks
from pararealize.decide.two_modes import warn_of_batches
from pararealize.emit.assemble import assemble
from pararealize.emit.collect import share_weights
from pararealize.emit.emission import Emission
from pararealize.emit.ranks import release
from pararealize.emit.stale_optimizers import StaleOptimizers
from pararealize.errors import SlowerThanSerialWarning
from pararealize.ir.chain import Chain
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Machine, Plan, Tracing
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.agreement import check_same_plan
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.same_model import agree_on_model
from pararealize.runtime.communication.transport import Transport, together
from pararealize.runtime.effects.keeping import all_kept
from pararealize.runtime.monitoring.progress import Progress, progress_of
from pararealize.tracing.copying import at_rest
from pararealize.tracing.module import check_module, copy_module
from pararealize.tracing.trace import Trace, find_leaves
from pararealize.tracing.wrappers import unwrapped
from pararealize.verification.verify import verified

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
    verify: bool = True,
    progress: bool | Progress = False,
) -> ParallelNetwork:
    """Compile a sequential network into one whose depth runs in parallel.

    Args:
        model: the network; it is copied and never changed.
        n: number of subnetworks, or ``"auto"`` for the best predicted one.
        method: how; ``Parareal()`` with the paper's choices by default, or ``MGRIT()``, which
            keeps the weights as they are.
        example_inputs: the arguments of one call; inferred where first layers or a config tell.
        example_kwargs: its keyword arguments.
        interfaces: names of the ``n - 1`` modules to cut after, instead of balanced cuts.
        leaf_modules: names or classes of modules to call whole, without looking into them. Modules
            that cannot be traced become such by themselves.
        concrete_args: numbers, strings or flags that arguments of ``forward`` always have, where
            the forward code branches on them.
        blocks: names of the lists of blocks that it runs one after another, ``"encoder, decoder"``;
            found by one call where its own forward cannot be traced, as in ``transformers``.
        cost: ``"predicted"`` from floating-point operations and bytes, or ``"measured"`` in
            seconds on the model's device.
        machine: rates of devices and links that predictions assume; one_gpu() for a captured one.
        devices: devices to put the subnetworks on, neighbours together; the network takes its
            input on any of them and answers on the last. With ``comm``, one for each rank.
        comm: an mpi4py communicator or a torch.distributed process group, all of whose ranks
            call this: each builds and holds only its own subnetworks, and all get the same
            output. Weights are those of rank 0. ``n="auto"`` is then one subnetwork a rank.
        chunks: on ranks, the number of slices of the batch in which corrections flow from rank to
            rank; by default what is predicted to be fastest.
        verify: compare what was traced with the model, bit for bit, in train and eval mode.
        progress: whether lines of text say how far compiling is, or a :class:`Progress` that does.

    Raises:
        PararealizeError: the network cannot be traced, cut or coarsened as asked; the message
            says what was found and what to write.

    Warns:
        SlowerThanSerialWarning: the parallel network is predicted to be slower than the serial.
        InaccurateWarning: in training, coarse networks normalise otherwise than in use.

    Source: Lee, Lee & Park, "Parareal neural networks emulating a parallel-in-time algorithm",
    arXiv 2103.08802.

    """
    check_arguments(interfaces, leaf_modules, concrete_args, blocks, machine)
    method = Parareal() if method is None else method
    check_chunks(chunks, comm)
    model = unwrapped(model)
    check_module(model)
    machine = machine_for(model, machine, places=bool(devices) or comm is not None)
    request = Request(n, method, None, machine, interfaces, cost, chunks, devices_of(devices))
    given = bind(model, example_inputs, example_kwargs) or described(model)
    transport = None if comm is None else connect(comm)
    leaves = tuple(sorted(find_leaves(model, leaf_modules)))
    tracing = Tracing(leaves, {**decisive(given), **(concrete_args or {})}, blocks or "")
    if transport is not None:
        agree_on_model(transport, model, f"compiles {type(model).__name__} with n={n}")
    told = progress_of(progress, first=transport is None or transport.rank == 0)
    with told, at_rest(model), together(transport):
        request = replace(request, given=given, tracing=tracing, verify=verify, progress=told)
        network = compile_as(model, request, transport)
    if transport is not None:
        release()
        check_same_plan(transport, network.plan.to_json())
    if network.plan.n > 1 and network.plan.speedup < 1:
        warnings.warn(SlowerThanSerialWarning(network.plan.verdict), stacklevel=2)
    warn_of_batches(network.plan, network._emission.propagators, model)
    return network


def compile_as(
    model: nn.Module,
    request: Request,
    transport: Transport | None = None,
    saved: Plan | None = None,
) -> ParallelNetwork:
    """The network that a copy of ``model`` becomes; what a saved plan chose is chosen again."""
    network = ParallelNetwork(emitted(copy_module(model), request, transport, saved))
    network.optimizers = StaleOptimizers(p for p in model.parameters() if p.requires_grad)
    if transport is not None and request.devices:
        return network.to(request.devices[transport.rank])
    return network


def emitted(
    serial: nn.Module, request: Request, transport: Transport | None, saved: Plan | None
) -> Emission:
    """The passes, one after another, over the network whose weights it will use."""
    places = len(request.devices) or 1 if transport is None else transport.size
    request = request.for_places(places, ranks=transport is not None)
    if transport is not None:
        share_weights(serial, transport)
    with all_kept(serial):
        with _in_turn(transport), request.progress.task("tracing, and comparing with the model"):
            request, chain = verified(serial, request, chain_of)
        if request.cost == "measured":
            given, shared = request.given or {}, request.machine.sharing is not None
            seed = request.method.seed
            chain = with_measured_costs(chain, serial, given, transport, seed=seed, shared=shared)
        with _in_turn(transport):
            passes = passes_of(request, serial, places, saved)
            partition = passes.cut(chain, passes.count(chain))
            decisions = passes.decide_again(partition)
            decisions = passes.put(decisions, over_ranks=transport is not None)
            return assemble(decisions, serial, transport, request.devices)


def passes_of(request: Request, serial: nn.Module, places: int, saved: Plan | None) -> MethodPasses:
    """What the method decides; nothing else in the compiler asks for the method."""
    kind = MGRITPasses if isinstance(request.method, MGRIT) else PararealPasses
    return kind(request, serial, places, saved)


def _in_turn(transport: Transport | None) -> AbstractContextManager[Any]:
    """A block that ranks which are threads of one process run one after another."""
    return nullcontext() if transport is None else transport.alone()


def chain_of(traced: Trace, serial: nn.Module, request: Request) -> Chain:
    """The layers between legal interfaces, through several tensors where that is better."""
    if request.given is None:
        costs = infer_profile(traced.train, serial, request.machine)
    else:
        costs = profile(traced.train, serial, request.given, request.machine)
    traced = with_draws(traced, costs)
    narrow = build_chain(serial, traced, costs)
    wide = partial(build_chain, serial, traced, costs, width=WIDEST)
    tuples = asked(request.method).takes_tuples
    return with_wide_states(narrow, wide, request.n, request.interfaces, takes_tuples=tuples)
