"""Runner: of an emission, what runs it, and whether a serial step would be faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.cost.measure import medians
from pararealize.emit.assemble import assemble
from pararealize.emit.devices import movers
from pararealize.emit.emission import Emission, Share
from pararealize.emit.graph import lower, lower_stages
from pararealize.emit.lanes import lane_programs, solver_programs
from pararealize.ir.decisions import Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.plan import Stack
from pararealize.ir.target import Target
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.stacked import Stacked, divided
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners import rank_programs
from pararealize.runtime.runners.graph import AdaptiveRunner, GraphRunner
from pararealize.runtime.runners.multigrid import MultigridRunner
from pararealize.runtime.runners.rank import RankRunner
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import tensors_of

#: Steps of each, of which the median is taken.
STEPS = 5


def runner_of(emission: Emission, network: nn.Module) -> Runner:
    """What runs an emission, for the network that holds its parameters."""
    arguments, schedule, share = Arguments(emission.arguments), emission.schedule, emission.share
    guarded = emission.decisions.partition.chain.infinite
    if share is not None:
        program, ties, parts = _program(emission, share), share.ties, emission.propagators
        here = (arguments, share.draws, share.transport, network, ties, share.number)
        return RankRunner(program, parts, *here, guarded=guarded)
    graph = lower(schedule, emission.arguments, emission.propagators, guarded=guarded)
    iteration, control = emission.decisions.iteration, emission.control
    if iteration is not None:
        programs = partial(solver_programs, iteration)
        return MultigridRunner(_solver(emission, iteration), arguments, network, graph, programs)
    programs = partial(lane_programs, emission)
    if control is None:
        return GraphRunner(graph, schedule, arguments, programs)
    stages = lower_stages(
        emission.decisions.stages, emission.arguments, emission.propagators, guarded=guarded
    )
    return AdaptiveRunner(stages, control, arguments, graph, programs)


def _program(emission: Emission, share: Share) -> rank_programs.RankProgram:
    """What a rank runs in a call."""
    schedule, rank = emission.schedule, share.transport.rank
    iteration, control = emission.decisions.iteration, emission.control
    if iteration is not None:
        parts = emission.propagators
        solver = MultigridSolver(iteration, parts, (rank,), lambda _rank, value: value)
        return rank_programs.SolveProgram(schedule, solver, rank)
    if control is not None:
        return rank_programs.AdaptiveProgram(schedule, control, rank)
    return rank_programs.StaticProgram(schedule, rank)


def _solver(emission: Emission, iteration: Iteration) -> MultigridSolver:
    """What goes through the cycles, in one process on one device or several."""
    schedule, parts = emission.schedule, emission.propagators
    moves = movers(schedule, parts) if schedule.ranks > 1 else {}

    def move(rank: int, value: Any) -> Any:
        return moves[rank](value) if rank in moves else value

    stacks = [_stacked(stack, parts) for stack in emission.plan.stacks]
    return MultigridSolver(iteration, parts, range(schedule.ranks), move, stacks)


def _stacked(stack: Stack, parts: Mapping[Target, Propagator]) -> Stacked:
    """The slices of a stack side by side; the first one's beginning by itself."""
    parted = {Target.fine(j): parts[Target.fine(j)] for j in stack.slices}
    members = {target: fine for target, fine in parted.items() if isinstance(fine, Fine)}
    if not stack.entry:
        return Stacked(members)
    first = Target.fine(1)
    lead, members[first] = divided(members[first], stack.entry)
    return Stacked(members, {first: lead})


def faster_of_both(decisions: Decisions, serial: nn.Module, inputs: tuple[Any, ...]) -> Decisions:
    """The decisions, or those for the serial network where its steps are measured to be faster.

    A plan that was measured before is not measured again.
    """
    speedup = decisions.plan.measured_speedup
    if not speedup:
        speedup = measured_speedup(assemble(decisions, copy.deepcopy(serial)), serial, inputs)
    decisions = replace(decisions, plan=replace(decisions.plan, measured_speedup=speedup))
    solved = decisions.iteration
    if speedup >= 1 or solved is None:
        return decisions
    exact = replace(solved, forward=solved.forward[-1:], adjoint=solved.adjoint[-1:], warm=())
    return replace(decisions, iteration=exact, plan=replace(decisions.plan, stacks=()))


def measured_speedup(emission: Emission, serial: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Seconds of a serial step over those of a multigrid step, measured on copies."""
    runner, twin = runner_of(emission, emission.serial), copy.deepcopy(serial)

    def answer(*args: Any) -> Any:
        emission.begin_step()
        return runner.run(args, {}, None)

    with torch.random.fork_rng(devices=[]):
        mine, wanted = medians(
            partial(_step, answer, inputs), partial(_step, twin, inputs), runs=STEPS
        )
    return wanted / mine


def _step(answer: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    wanted = [tensor for tensor in tensors_of(answer(*inputs)) if tensor.requires_grad]
    if wanted:
        torch.autograd.backward([o.float().pow(2).mean() for o in wanted])
