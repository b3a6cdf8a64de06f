"""Multigrid: a solve as one node of autograd's graph, in one process or on a rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from pararealize.errors import MethodError
from pararealize.ir.lanes import LaneProgram
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import Role, Task
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.monitoring.jumps import Jumps
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.multigrid.solve import Solve
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.lane_walk import Launching
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.infinities import is_real
from pararealize.runtime.values.pytree import flatten, parameters_of, tensors_of, with_tensors


def attach(
    solver: MultigridSolver,
    solved: Solve,
    state: Any,
    others: Sequence[Tensor],
    stands_for: Mapping[int, Tensor] = MappingProxyType({}),
    anchor: Tensor | None = None,
) -> tuple[Any, Tensor]:
    """The last state, where this rank has it, as a function of weights and inputs; and a token.

    In the backward pass the adjoints are solved for; the token brings that about on ranks which do
    not have the state. ``stands_for`` are tensors whose gradient those with these identities
    find among ``others``; the ``anchor`` is something else that has to run backward after it.
    """
    tensors, solved.structure = tensors_of(state), flatten(state)[1]
    behind = [stands_for.get(id(other), other) for other in others]
    behind += [] if anchor is None else [anchor]
    token, *results = _Solve.apply(solver, solved, len(tensors), others, *tensors, *behind)  # type: ignore[no-untyped-call]
    return with_tensors(state, results), token


class _Solve(torch.autograd.Function):
    """States were solved for; the backward pass solves for their adjoints."""

    @staticmethod
    def forward(
        ctx: Any,
        solver: MultigridSolver,
        solved: Solve,
        count: int,
        others: Sequence[Tensor],
        *tensors: Tensor,
    ) -> Any:
        """The ``count`` leaves of the last state; the other tensors are what it depends on."""
        ctx.solver, ctx.solved = solver, solved
        ctx.state, ctx.others, ctx.behind = tensors[:count], others, len(tensors) - count
        results = tuple(leaf.view_as(leaf) for leaf in tensors[:count])
        ctx.mark_non_differentiable(*(leaf for leaf in results if not is_real(leaf)))
        token = tensors[-1].new_zeros(()) if is_real(tensors[-1]) else torch.zeros(())
        return token, *results

    @staticmethod
    def backward(ctx: Any, token: Tensor, *adjoints: Tensor) -> tuple[Any, ...]:
        """Gradients of what the state depends on, once only."""
        if torch.is_grad_enabled():
            raise MethodError(
                "create_graph=True asks MGRIT for a backward pass that can be differentiated, and "
                "its adjoints are solved for by cycles that keep no graph: write "
                "pararealize(model, n, method=Parareal()), or differentiate net.to_serial()."
            )
        return _Solve.gradients(ctx, token, *adjoints)

    @staticmethod
    @once_differentiable
    def gradients(ctx: Any, _token: Tensor, *adjoints: Tensor) -> tuple[Any, ...]:
        """Gradients, as plain numbers."""
        leaves = [
            adjoint if is_real(leaf) else leaf
            for adjoint, leaf in zip(adjoints, ctx.state, strict=True)
        ]
        retain = torch._C._autograd._get_current_graph_task_keep_graph()
        found = ctx.solver.transpose(ctx.solved, leaves, ctx.others, retain=retain)
        rest = (None,) * (ctx.behind - len(ctx.others))
        return (None, None, None, None, *(None,) * len(adjoints), *found, *rest)


@final
class LocalMessages:
    """All ranks of a schedule in one process: messages are moves between devices."""

    def __init__(self, move: Callable[[int, Any], Any]) -> None:
        self._move = move
        self._values: dict[str, Any] = {}

    def send(self, task: Task, value: Any) -> None:
        """Keep the state."""
        self._values[task.reads[0]] = value

    def receive(self, task: Task) -> Any:
        """The state, on the device of the rank."""
        return self._move(task.rank, self._values[task.value])

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """All of them are known."""
        return list(numbers)

    def drawing(self, _target: Target) -> AbstractContextManager[None]:
        """Random numbers are drawn in the network's order anyway."""
        return nullcontext()

    def noted(self, _task: Task) -> AbstractContextManager[None]:
        """torch.profiler sees what one process does."""
        return nullcontext()


@final
class MultigridRunner(Runner):
    """Solves for the states of a network, in one process, on one device or several.

    The solver is that of all ranks; ``graph`` runs the cycles asked for.
    """

    def __init__(
        self,
        solver: MultigridSolver,
        arguments: Arguments,
        network: nn.Module,
        graph: fx.GraphModule,
        programs: Callable[[], tuple[LaneProgram, ...]],
    ) -> None:
        super().__init__(graph, solver)
        self._programs = programs
        self._solver, self._arguments, self._network = solver, arguments, network

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], _jumps: Jumps | None) -> Any:
        """The network's output; where it is only ever run serially, autograd is left to do that."""
        if self._solver.is_serial:
            self._solver.tally.calls += 1
            return self.graph(*args, **kwargs)[0]
        inputs = self._arguments(*args, **kwargs)
        messages = LocalMessages(self._solver.setting.move)
        learns = torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in chain(parameters_of(self._network), tensors_of(inputs))
        )
        solved = self._solver.solve(inputs, messages, learns=learns)
        others = self._solver.depends_on(solved) if learns else []
        rank, name = last_state(solved.cycles.schedule)
        state = solved.values[rank, name]
        if others:
            state, _ = attach(self._solver, solved, state, others)
        head = self._solver.setting.propagators.get(HEAD)
        if head is None:
            return state
        return head(state, *(self._solver.setting.move(rank, inputs[n]) for n in head.inputs))

    @property
    def is_apart(self) -> bool:
        """Whether its tasks lie on several devices."""
        return len(self._solver.setting.ranks) > 1

    @property
    def propagators(self) -> Iterable[Propagator]:
        """What cycles apply, and the head."""
        return self._solver.setting.propagators.values()

    @property
    def lanes(self) -> tuple[LaneProgram, ...]:
        """What a captured call launches where, of the states' cycles and of the adjoints'."""
        return self._programs()

    def decided(self, launching: Launching) -> AbstractContextManager[None]:
        """A block in which the cycles asked for are taken, and no residual is looked at.

        Raises:
            MethodError: masks would have to be the same in several evaluations.

        """
        parts = self._solver.setting.propagators.values()
        drawing = next((part for part in parts if part.masks is not None), None)
        if drawing is not None:
            raise MethodError(
                f"{drawing.label} draws random numbers, which MGRIT evaluates several times with "
                "the same mask, and a graph cannot put a generator back: call net.eval(), set its "
                "dropout to 0, or capture a Parareal network."
            )
        return self._solver.fixed(Lanes(launching.streams))

    @property
    def report(self) -> Report:
        """Residuals of the last call and backward pass."""
        return self._solver.report()


def last_state(schedule: Schedule) -> tuple[int, str]:
    """Where the state after the last subnetwork is made, and its name."""
    made = next(t for t in schedule if t.value == schedule.output and t.op != "recv")
    return made.rank, made.reads[0] if made.role is Role.HEAD else made.value
