"""Step: a layer that can take several of its time steps at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn


class Step(nn.Module, ABC):
    """One time step of a differential equation, h' = f(h, x), as a layer with its own step size.

    A network calls it as any layer, ``step(state, *inputs)``. A coarse propagator jumps over
    several calls at once: it passes ``span``, the number c of steps to take with the same weights
    in one evaluation of step size c·dt, as the coarse grids of multigrid reduction in time do
    (Moon and Cyr, "Parallel Training of GRU Networks with a Multi-Grid Solver for Long
    Sequences", ICLR 2022). Subclasses say what a step is::

        class Decay(Step):
            def forward(self, state: Tensor, *, span: float = 1.0) -> Tensor:
                return state / (1 + span * self.dt)

    """

    @abstractmethod
    def forward(self, state: Any, *inputs: Any, span: float = 1.0) -> Any:
        """The state after ``span`` steps, of the state before them and this step's inputs.

        Subclasses name the inputs they take; a state has one shape before and after.
        """
