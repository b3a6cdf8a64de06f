"""Guesses: build the networks that guess the interfaces' states from the network's input."""

from __future__ import annotations

import torch
from torch import nn

from pararealize.ir.chain import Cost, Partition
from pararealize.ir.methods import Parareal
from pararealize.ir.parts import Guess
from pararealize.ir.plan import Machine
from pararealize.passes.estimate import input_names, main_input
from pararealize.passes.profile import module_cost
from pararealize.passes.thin import Thinning, thin
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.generic import generic_guess


def build_guesses(
    partition: Partition,
    model: nn.Module,
    method: Parareal,
    machine: Machine,
    used: frozenset[str],
) -> dict[int, Guess]:
    """Guess networks C_j of the interfaces where the schedule applies one, by interface.

    A generic network of patches where the input and the state are images, sequences or vectors;
    else the network's own layers that change the shape, from the input to the interface.

    Raises:
        CoarseError: no guess network is known for an interface.

    """
    if method.guess != "network":
        return {}
    wanted = [j for j in range(1, partition.n) if f"guess.{j}" in used]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed + 1)
        return {j: _guess(partition, model, machine, j) for j in wanted}


def _guess(partition: Partition, model: nn.Module, machine: Machine, j: int) -> Guess:
    chain = partition.chain
    target = partition.interface(j).state
    source = main_input(chain)
    module = generic_guess(source, target[0]) if source and len(target) == 1 else None
    if module is not None and source is not None:
        module = like(module, model)
        cost = module_cost(module, (source,), machine)
        return Guess("patches", cost, module, input_names(chain))
    segment = thin(chain, model, 0, partition.bounds[j], Thinning(0, normalisation=True))
    cost = sum((chain.profile.costs.get(o.name, Cost()) for o in segment.operations), Cost())
    return Guess("own layers", cost, Fresh(model, segment, bias=True), segment.inputs)


def like(module: nn.Module, model: nn.Module) -> nn.Module:
    """The module on the model's device, in its floating-point dtype."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return module if weight is None else module.to(weight.device, weight.dtype)
