"""Guesses: build the networks that guess the interfaces' states from the network's input."""

from __future__ import annotations

import torch
from torch import nn

from pararealize.coarse.estimate import input_names, main_input
from pararealize.coarse.pruning import Pruning, prune
from pararealize.cost.profile import module_cost
from pararealize.errors import CoarseError
from pararealize.ir.chain import Partition, TensorSpec
from pararealize.ir.decisions import Guess
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Machine
from pararealize.ir.target import Target
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.generic import generic_guess, token_guess


def build_guesses(
    partition: Partition,
    model: nn.Module,
    method: Parareal,
    machine: Machine,
    used: frozenset[Target],
) -> dict[int, Guess]:
    """Guess networks C_j of the interfaces where the schedule applies one, by interface.

    A generic network of patches where the input and the state are images, sequences or vectors;
    else the network's own layers that change the shape, from the input to the interface.

    Raises:
        CoarseError: no guess network is known for an interface.

    """
    if method.guess != "network":
        return {}
    wanted = [j for j in range(1, partition.n) if Target.guess(j) in used]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed + 1)
        return {j: _guess(partition, model, machine, j) for j in wanted}


def _guess(partition: Partition, model: nn.Module, machine: Machine, j: int) -> Guess:
    chain = partition.chain
    target = partition.interface(j).state
    source = main_input(chain)
    module = generic_guess(source, target[0]) if source and len(target) == 1 else None
    if module is None and chain.train.operations[-2].kind == "network":
        return _of_tokens(partition, model, machine, j)
    if module is not None and source is not None:
        module = like(module, model)
        cost = module_cost(module, (source,), machine)
        return Guess("patches", cost, module, input_names(chain))
    segment = prune(chain, model, 0, partition.bounds[j], Pruning(0, normalisation=True))
    cost = chain.profile.cost(segment.operations)
    return Guess("own layers", cost, Fresh(model, segment, bias=True), segment.inputs)


def _of_tokens(partition: Partition, model: nn.Module, machine: Machine, j: int) -> Guess:
    """A guess for a network around a list of blocks: from tokens, or else the first state."""
    inputs, target = partition.chain.profile.inputs, partition.interface(j).state[0]
    for name, spec in inputs.items():
        if isinstance(spec, TensorSpec) and not spec.dtype.is_floating_point:
            module = token_guess(spec, target, _vocabulary(model))
            if module is not None:
                module = like(module, model)
                return Guess("tokens", module_cost(module, (spec,), machine), module, (name,))
    stem = partition.chain.segment(0, 1, training=True)
    if partition.chain.state(1) != partition.interface(j).state:
        raise CoarseError(
            f"no guess is known for interface {j}, whose state {target} is not shaped like the "
            f"first block's, {partition.chain.state(1)[0]}: cut elsewhere, or use n=1."
        )
    return Guess("stem", partition.chain.layers[0].cost, None, stem.inputs, stem)


def _vocabulary(model: nn.Module) -> int:
    """How many tokens the first embedding knows; 0 where there is none."""
    found = (m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))
    return next(found, 0)


def like(module: nn.Module, model: nn.Module) -> nn.Module:
    """The module on the model's device, in its floating-point dtype."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return module if weight is None else module.to(weight.device, weight.dtype)
