"""Solve: one call of a multigrid solver, and what all its calls share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pararealize.ir.hierarchy import Cycles, Iteration
from pararealize.ir.stages import Key
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.stacked import Stacked
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.effects.masks import Masks
from pararealize.runtime.monitoring.report import Jump
from pararealize.runtime.multigrid.local_tasks import LocalTasks, Messages
from pararealize.runtime.multigrid.tape import Tape
from pararealize.runtime.values.pytree import Structure, tensors_of


@dataclass(frozen=True)
class SolverSetup:
    """What all calls of a solver share.

    Attributes:
        iteration: schedules, placed.
        propagators: those that these ranks' tasks apply.
        ranks: whose tasks are run: one rank's, or all in one process.
        move: brings a value to the device of a rank, in one process.
        stacks: those that are applied at once with others, each with the stack it is in.
        tasks: what is run of every schedule, by its identity.

    """

    iteration: Iteration
    propagators: Mapping[Target, Propagator]
    ranks: frozenset[int]
    move: Callable[[int, Any], Any]
    stacks: Mapping[Target, Stacked]
    tasks: Mapping[int, LocalTasks]

    def local(self, cycles: Cycles) -> LocalTasks:
        """What these ranks run of a schedule."""
        return self.tasks[id(cycles)]

    def lane_of(self, stack: Stacked) -> int:
        """Where a stack runs: -1, -2, …; subnetworks have the lanes 1, 2, …."""
        return -1 - list(dict.fromkeys(map(id, self.stacks.values()))).index(id(stack))

    @property
    def shares_nothing(self) -> bool:
        """Whether subnetworks on one device can run at once: no weights or statistics of two.

        Nor are states recomputed for the adjoints, which would be read while they are made.
        """
        own = [part for target, part in self.propagators.items() if target.is_slice]
        held = [{id(each) for each in (*part.weights(), *part.stateful())} for part in own]
        alone = sum(map(len, held)) == len(set().union(*held))
        return alone and self.keeps and len(self.ranks) == 1

    @property
    def keeps(self) -> bool:
        """Whether applications are kept for the adjoints, not evaluated again."""
        return self.iteration.method.storage != "points"


def autocast_now(inputs: Mapping[str, Any]) -> Callable[[], torch.autocast]:
    """Makes blocks in the precision of this point of the program, on the device of the inputs.

    A backward pass evaluates again in them.
    """
    device = next((tensor.device.type for tensor in tensors_of(dict(inputs))), "cpu")
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype, enabled)


@dataclass
class Solve:
    """One call: its values on this rank, and what its adjoints need."""

    cycles: Cycles
    messages: Messages
    inputs: Mapping[str, Any]
    values: dict[Key, Any]
    tape: Tape
    autocast: Callable[[], torch.autocast]
    masks: list[tuple[Masks, Any]] = field(default_factory=list)
    residuals: tuple[Jump, ...] = ()
    structure: Structure | None = None
    lanes: Lanes | None = None

    def forked(self) -> AbstractContextManager[None]:
        """A block on all lanes, where there are some."""
        return nullcontext() if self.lanes is None else self.lanes.forked()

    def lane(
        self, setting: SolverSetup, tasks: Sequence[Task], number: int
    ) -> AbstractContextManager[Any]:
        """A block in which tasks run on one lane, after what they read, if there are any."""
        if self.lanes is None:
            return nullcontext()
        features = setting.iteration.features
        reads = [(task.rank, name) for task in tasks for name in task.reads]
        if features:  # an adjoint reads them as well
            pairs = ((t.rank, f) for t in tasks if t.target for f in features.get(t.target, ()))
            reads += ((rank, feature.value) for rank, feature in pairs)
        return self.lanes.on(number, reads, [(t.rank, t.value) for t in tasks], self.values)
