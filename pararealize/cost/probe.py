"""Probe: evaluate parts of a network on copies, so that no statistics move."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cost.profile import random_like
from pararealize.ir.chain import Partition, State, TensorSpec
from pararealize.ir.program import Segment
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.report import norm
from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.pytree import map_tensors
from pararealize.tracing.copying import copy_tree

#: Size of a probing jump relative to the state.
PERTURBATION = 0.1


class Probe:
    """Evaluations of a partition's subnetworks on a copy of the model, made when first needed."""

    def __init__(
        self, partition: Partition, model: nn.Module, inputs: dict[str, Any], seed: int
    ) -> None:
        self.partition, self.model, self.inputs, self.seed = partition, model, inputs, seed
        self._fine: dict[int, Fine] = {}

    @cached_property
    def copy(self) -> nn.Module:
        """The copy, in eval mode."""
        return copy_tree(self.model).eval()

    def merged(self, points: tuple[int, ...]) -> Probe:
        """The evaluations of groups of subnetworks, cut at some of the interfaces only."""
        return Probe(self.partition.merged(points), self.model, self.inputs, self.seed)

    def fine(self, j: int) -> Fine:
        """Subnetwork j on the copy, made when first asked for."""
        if j not in self._fine:
            self._fine[j] = self.layers(*self.partition.piece(j))
        return self._fine[j]

    def layers(self, first: int, last: int) -> Fine:
        """The layers ``first`` … ``last - 1`` on the copy."""
        chain = self.partition.chain
        train, evaluate = (chain.segment(first, last, training=mode) for mode in (True, False))
        return Fine(self.copy, train, evaluate, f"the layers {first} … {last - 1}")

    def _input(self, name: str) -> Any:
        chain = self.partition.chain
        argument, spec = chain.train[name], chain.profile.inputs[name]
        default = argument.args[0] if argument.args else None
        value = self.inputs.get(argument.target, default if spec is None else spec)
        return random_like(value, self.model) if isinstance(value, TensorSpec) else value

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The network's arguments, in order."""
        return tuple(self._input(argument.name) for argument in self.partition.chain.train.inputs)

    @cached_property
    def trajectory(self) -> list[Any]:
        """States before subnetworks 1 … n on the given inputs, or on random ones."""
        states: list[Any] = [None]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for j in range(1, self.partition.n):
                states.append(self.run(self.fine(j), states[-1]))
        return states

    def run(self, propagator: Propagator, state: Any) -> Any:
        """The next state, as a tensor or a tuple of them."""
        inputs = [self._input(name) for name in propagator.inputs]
        return propagator(*inputs) if state is None else propagator(state, *inputs)

    def response_error(self, j: int, module: nn.Module | None, segment: Segment | None) -> float:
        """‖ΔΦ - ΔG‖ / ‖ΔΦ‖ for one random jump at the trajectory: what a sweep leaves of an error.

        Infinite for the first subnetwork, whose input is exact.
        """
        state = self.trajectory[j - 1]
        if state is None:
            return float("inf")

        def coarse(value: Any) -> Any:
            if segment is not None:
                return self.run(Fine(self.copy, segment, segment, "coarse"), value)
            assert module is not None
            return module(*value) if isinstance(value, tuple) else module(value)

        fine = self.fine(j)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            moved = map_tensors(perturbed, state)
            exact = combine("+-", self.run(fine, moved), self.run(fine, state))
            guess = combine("+-", coarse(moved), coarse(state))
        return relative_error(guess, exact)

    def shapes(self, module: nn.Module, state: State) -> list[tuple[int, ...]]:
        """Shapes of what a module makes of a state."""
        probe = copy.deepcopy(module).eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = probe(*(random_like(spec, self.model) for spec in state))
        leaves = result if isinstance(result, tuple) else (result,)
        return [tuple(leaf.shape) for leaf in leaves]


def relative_error(found: Any, wanted: Any) -> float:
    """The norm of a difference of two states or adjoints, relative to the one that is wanted."""
    return norm(combine("+-", found, wanted)) / max(norm(wanted), 1e-30)


def perturbed(leaf: Tensor) -> Tensor:
    """A tensor with a random jump added."""
    if not leaf.is_floating_point():
        return leaf
    spread = leaf.std() if leaf.numel() > 1 else leaf.abs().mean()
    return leaf + PERTURBATION * spread * torch.randn_like(leaf)
