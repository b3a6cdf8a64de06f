"""The compiler: a sequential network in, a network with parallel depth out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pararealize.emit.assemble import assemble
from pararealize.emit.network import ParallelNetwork
from pararealize.emit.storage import foreign, match, read
from pararealize.errors import (
    CoarseError,
    CutError,
    MethodError,
    ShapeError,
    SlowerThanSerialWarning,
)
from pararealize.ir.chain import Chain, Partition, Profile
from pararealize.ir.methods import CoarseFactory, Parareal
from pararealize.ir.parts import Decisions
from pararealize.ir.plan import Machine, Plan
from pararealize.ir.program import Program
from pararealize.ir.schedule import propagators
from pararealize.passes.coarsen import build_coarse, build_guesses
from pararealize.passes.copying import collection_paused
from pararealize.passes.cut import check_count, cut, cut_at
from pararealize.passes.infer import bind, expectations, infer_profile
from pararealize.passes.interfaces import build_chain
from pararealize.passes.measure import measured
from pararealize.passes.parareal import parareal_schedule
from pararealize.passes.plan import make_plan
from pararealize.passes.probe import Probe
from pararealize.passes.profile import profile
from pararealize.passes.trace import check_module, copy_module, trace

#: Most subnetworks that ``n="auto"`` tries.
MOST = 16
#: Most tensors in a state, where the network cannot be cut through single ones.
WIDEST = 8


def pararealize(
    model: nn.Module,
    n: int | str = "auto",
    *,
    method: Parareal | None = None,
    example_inputs: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    interfaces: Sequence[str] | None = None,
    cost: str = "predicted",
    machine: Machine | None = None,
) -> ParallelNetwork:
    """Compile a sequential network into one whose depth runs in parallel.

    Args:
        model: the network; it is copied and never changed.
        n: number of subnetworks, or ``"auto"`` for the best predicted one.
        method: how; ``Parareal()`` with the paper's choices by default.
        example_inputs: the arguments of one call; inferred where the first layers tell.
        example_kwargs: its keyword arguments.
        interfaces: names of the ``n - 1`` modules to cut after, instead of balanced cuts.
        cost: ``"predicted"`` from floating-point operations and bytes, or ``"measured"`` in
            seconds on the model's device.
        machine: rates of the devices and links that predictions assume.

    Raises:
        PararealizeError: the network cannot be traced, cut or coarsened as asked; the message
            says what was found and what to write.

    Warns:
        SlowerThanSerialWarning: the parallel network is predicted to be slower than the serial.

    Source: Lee, Lee & Park, "Parareal neural networks emulating a parallel-in-time algorithm",
    arXiv 2103.08802.

    """
    method, machine = method or Parareal(), machine or Machine()
    _check_options(n, method, cost)
    check_module(model)
    given = bind(model, example_inputs, example_kwargs)
    with collection_paused():
        network = _compile(model, n, method, given, interfaces, cost, machine)
    if network.plan.n > 1 and network.plan.speedup < 1:
        warnings.warn(SlowerThanSerialWarning(network.plan.verdict), stacklevel=2)
    return network


def _compile(
    model: nn.Module,
    n: int | str,
    method: Parareal,
    given: Mapping[str, Any] | None,
    interfaces: Sequence[str] | None,
    cost: str,
    machine: Machine,
    saved: Plan | None = None,
) -> ParallelNetwork:
    """The passes, one after another; what a saved plan chose is chosen again."""
    serial = copy_module(model)
    traced = trace(serial, given or {})
    profiled = _profile(traced.train, serial, given, machine)
    if interfaces is not None and isinstance(n, str):
        n = len(interfaces) + 1
    chain = build_chain(serial, traced, profiled)
    if isinstance(n, int) and n - 1 > len(chain.interfaces):
        chain = build_chain(serial, traced, profiled, width=WIDEST)
    if cost == "measured":
        chain = measured(chain, serial, given or {}, seed=method.seed)
    count = _best_count(chain, serial, method, machine) if isinstance(n, str) else n
    partition = _partition(chain, serial, count, method, machine, interfaces)
    chosen = {p.index: p.coarse for p in saved.pieces} if saved else {}
    decisions = _decide(partition, serial, method, machine, given or {}, chosen)
    return assemble(replace(decisions, plan=saved) if saved else decisions, serial)


def _check_options(n: int | str, method: Parareal, cost: str) -> None:
    if isinstance(n, bool) or not (n == "auto" or (isinstance(n, int) and n >= 1)):
        raise CutError(
            f"n={n!r}: expected a number of subnetworks of 1 or more, or 'auto': "
            "pararealize(model, n=4)."
        )
    if not isinstance(method, Parareal):
        raise MethodError(f"method={method!r}: expected Parareal(...).")
    if cost not in {"predicted", "measured"}:
        raise MethodError(f"cost={cost!r}: expected 'predicted' or 'measured'.")


def _profile(
    program: Program, serial: nn.Module, given: Mapping[str, Any] | None, machine: Machine
) -> Profile:
    if given is None:
        return infer_profile(program, serial, machine)
    return profile(program, serial, given, machine)


def _partition(
    chain: Chain,
    serial: nn.Module,
    n: int,
    method: Parareal,
    machine: Machine,
    interfaces: Sequence[str] | None,
) -> Partition:
    if interfaces is not None:
        return cut_at(chain, interfaces, n)
    check_count(chain, n)
    return cut(chain, serial, n, method, machine)


def _decide(
    partition: Partition,
    serial: nn.Module,
    method: Parareal,
    machine: Machine,
    given: Mapping[str, Any],
    chosen: Mapping[int, str],
) -> Decisions:
    """Coarse networks, schedule and plan of a partition."""
    probe = Probe(partition, serial, dict(given), method.seed)
    shared = method.coarse == "fine" and method.correction == "difference"
    schedule = parareal_schedule(partition.n, method, shared=shared, head=partition.has_head)
    used = frozenset(propagators(schedule))
    coarse = build_coarse(partition, serial, method, machine, probe, used, chosen)
    guesses = build_guesses(partition, serial, method, machine, used)
    plan = make_plan(partition, schedule, serial, method, machine, coarse, guesses)
    expected = expectations(partition.chain.train, serial)
    return Decisions(partition, method, schedule, plan, coarse, guesses, expected)


def _best_count(chain: Chain, serial: nn.Module, method: Parareal, machine: Machine) -> int:
    """The number of subnetworks with the least predicted time."""

    def seconds(n: int) -> float:
        partition = _partition(chain, serial, n, method, machine, None)
        return _decide(partition, serial, method, machine, {}, {}).plan.parallel_seconds

    return min(range(1, min(MOST, len(chain.interfaces) + 1) + 1), key=seconds)


def load(
    path: str | Path,
    model: nn.Module,
    *,
    coarse: CoarseFactory | None = None,
    example_inputs: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> ParallelNetwork:
    """The network that :meth:`ParallelNetwork.save` wrote, on a model built like the saved one.

    Args:
        path: the folder.
        model: the architecture; its weights are not used, and it is not changed.
        coarse: the user's coarse function, where the network was compiled with one.
        example_inputs: as for :func:`pararealize`; by default the shapes it was compiled for.
        example_kwargs: likewise.

    Raises:
        StorageError: no saved network, a damaged or foreign one, or another model's.

    """
    saved = read(Path(path))
    plan = saved.plan
    method = Parareal.from_json(plan.method, coarse)
    check_module(model)
    try:
        given = bind(model, example_inputs, example_kwargs) or bind(model, (), plan.specs)
        with collection_paused():
            network = _compile(
                model, plan.n, method, given, plan.cuts, "predicted", plan.machine, plan
            )
    except (CutError, ShapeError, CoarseError) as error:
        raise foreign(saved, str(error)) from error
    match(saved, {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)})
    network.load_state_dict(saved.weights)
    return network
