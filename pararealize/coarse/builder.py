"""Builder: the coarse networks of a partition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize.chain.repeated_blocks import repeated_blocks
from pararealize.coarse.copies import can_copy, copied
from pararealize.coarse.depth_coarsening import coarsened
from pararealize.coarse.estimate import input_names, main_input
from pararealize.coarse.guesses import like
from pararealize.coarse.pruning import Pruning, prune
from pararealize.cost.probe import Probe
from pararealize.cost.profile import module_cost
from pararealize.errors import CoarseError
from pararealize.ir.chain import Cost, Partition, State
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Machine
from pararealize.ir.target import Target
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.generic import generic_coarse, identity


def build_coarse(
    partition: Partition,
    model: nn.Module,
    method: Parareal,
    machine: Machine,
    probe: Probe,
    used: frozenset[Target],
    chosen: Mapping[int, str],
) -> dict[int, Coarse]:
    """Coarse propagators of the subnetworks whose schedule applies one, by index.

    ``used`` are the propagators that the schedule applies, ``chosen`` the kinds that a saved
    plan chose. Fresh weights come from ``method.seed``; the caller's random state is restored.

    Raises:
        CoarseError: none of the asked kind exists for a subnetwork; names it and its shapes.
    """
    sweeps = method.guess == "coarse"
    pieces = range(1, partition.n + 1)
    wanted = [j for j in pieces if Target.coarse(j) in used or (sweeps and Target.guess(j) in used)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        builder = CoarseBuilder(partition, model, method, machine, probe, chosen)
        return {j: builder(j) for j in wanted}


class CoarseBuilder:
    """Makes the coarse networks of a partition; called with a subnetwork's number."""

    def __init__(
        self,
        partition: Partition,
        model: nn.Module,
        method: Parareal,
        machine: Machine,
        probe: Probe,
        chosen: Mapping[int, str],
    ) -> None:
        self.partition, self.model, self.method = partition, model, method
        self.machine, self.probe, self.chosen = machine, probe, chosen
        self.chain = partition.chain

    def __call__(self, j: int) -> Coarse:
        """The coarse network of subnetwork j, of the kind that the method asks for."""
        kind = self.method.coarse
        if callable(kind):
            return self.custom(j, kind)
        makers: dict[str, Callable[[int], Coarse | None]] = {
            "network": self._network,
            "identity": self._identity,
            **{kind: partial(self._borrowed, kind) for kind in BORROWED},
            "fine": self._fine,
            "auto": self._auto,
            "own layers": self._own,
            "generic": self._generic,
        }
        kind = self.chosen.get(j, kind)
        if kind in makers:
            coarse = makers[kind](j)
        else:
            found = (self._copied(name, j) for name in INSTEAD.get(kind, (kind,)))
            coarse = next((choice for choice in found if choice is not None), None)
        if coarse is None:
            raise CoarseError(self._none(kind, j))
        return coarse

    def states(self, j: int) -> tuple[State, State]:
        """States before and after subnetwork j."""
        first, last = self.partition.piece(j)
        source = self.chain.state(first) or tuple(filter(None, (main_input(self.chain),)))
        return source, self.chain.state(last) or self._output()

    def _fine(self, j: int) -> Coarse:
        return Coarse("fine", self.chain.cost(*self.partition.piece(j)))

    def _network(self, j: int) -> Coarse:
        own = self._own(j)
        fine = self.chain.cost(*self.partition.piece(j)).seconds
        if own is not None and own.cost.seconds <= self.method.coarse_budget * fine:
            return own
        generic = self._generic(j)
        if own is None and generic is None:
            raise CoarseError(self._none("network", j))
        options = [c for c in (own, generic) if c is not None]
        return min(options, key=lambda c: c.cost.seconds)

    def _own(self, j: int) -> Coarse | None:
        difference = self.method.correction == "difference"
        how = Pruning(self.method.depth(j), normalisation=difference)
        segment = prune(self.chain, self.model, *self.partition.piece(j), how)
        source, target = self.states(j)
        if not can_copy(segment):
            return None
        cost = self.chain.profile.cost(segment.operations)
        if source == target and not cost.flops:
            return None  # an activation alone is a worse guess at the piece than the identity
        module = Fresh(self.model, segment, bias=difference)
        return self._choice("own layers", j, cost, module, segment.inputs)

    def _generic(self, j: int) -> Coarse | None:
        source, target = self.states(j)
        bias = self.method.correction == "difference"
        module = generic_coarse(source, target, bias=bias)
        if module is None:
            return None
        module = like(module, self.model)
        return self._choice("generic", j, module_cost(module, source, self.machine), module)

    def _output(self) -> State:
        """The network's output, where it is one tensor: what a last piece without head gives."""
        values = self.chain.train.operations[-1].uses
        spec = self.chain.profile.specs[values[0]] if len(values) == 1 else None
        return (spec,) if spec is not None else ()

    def _identity(self, j: int) -> Coarse | None:
        source, target = self.states(j)
        module = identity(source, target)
        return None if module is None else self._choice("identity", j, Cost(), module)

    def _borrowed(self, kind: str, j: int) -> Coarse | None:
        """One large step for each run of residual layers, with the weights of the network."""
        first, last = self.partition.piece(j)
        found = coarsened(self.chain, first, last, last - first, kind)
        if found is None:
            return None
        segment = found.segment
        return Coarse(
            kind,
            self.chain.profile.cost(segment.operations),
            segment=segment,
            inputs=segment.inputs,
            averages=found.averages,
        )

    def _copied(self, kind: str, j: int) -> Coarse | None:
        """A copy of the piece, or of some of it, which starts from its weights."""
        method = self.method
        depth, share = method.depth(j), method.coarse_rank
        known = {"thinned": f" {depth}", "stepped": f" {depth}", "factored": f" {share:g}"}
        kind += known.get(kind, "")
        found = copied(self.chain, self.model, *self.partition.piece(j), kind)
        if found is None:
            return None
        return self._choice(kind, j, found.cost, found.module, found.inputs)

    def _choice(
        self, kind: str, j: int, cost: Cost, module: nn.Module, inputs: tuple[str, ...] = ()
    ) -> Coarse:
        if j == 1:
            inputs = inputs or input_names(self.chain)
        residual = self.method.correction == "residual"
        zero = residual and not inputs and is_zero_preserving(module, self.states(j)[0])
        return Coarse(kind, cost, module, inputs=inputs, zero_preserving=zero)

    def _auto(self, j: int) -> Coarse:
        """The cheapest propagator without new weights that contracts, else a fresh network."""
        free = [c for c in (self._identity(j), self._borrowed("rediscretized", j)) if c is not None]
        for coarse in sorted(free, key=lambda c: c.cost.seconds):
            error = self.probe.response_error(j, coarse.module, coarse.segment)
            if error < CONTRACTS:
                return replace(coarse, error=error)
        return self._network(j)

    def custom(self, j: int, factory: Callable[..., nn.Module]) -> Coarse:
        """A user's own network for subnetwork j.

        Raises:
            CoarseError: it is no module, or makes another shape.

        """
        source, target = self.states(j)
        specs = [s[0] if len(s) == 1 else s for s in (source, target)]
        module = factory(self.probe.fine(j), *specs)
        name = getattr(factory, "__name__", "coarse")
        if not isinstance(module, nn.Module):
            raise CoarseError(
                f"{name}(fine, interface_in, interface_out) must return a torch.nn.Module, and "
                f"returned a {type(module).__name__} for subnetwork {j}."
            )
        module = like(module, self.model)
        self._check(j, name, module, source, target)
        return self._choice(name, j, module_cost(module, source, self.machine), module)

    def _check(self, j: int, name: str, module: nn.Module, source: State, target: State) -> None:
        wanted = [spec.shape for spec in target]
        found = self.probe.shapes(module, source)
        if found != wanted:
            raise CoarseError(
                f"the coarse network {name} made for subnetwork {j} maps "
                f"{[list(s.shape) for s in source]} to {[list(s) for s in found]}, and the "
                f"interface after it has {[list(s) for s in wanted]}: make its output that shape."
            )

    def _none(self, kind: str, j: int) -> str:
        first, last = self.partition.piece(j)
        source, target = self.states(j)
        before = " and ".join(map(str, source)) or "the inputs"
        after = " and ".join(map(str, target)) or "the output"
        fresh = kind in {"network", "own layers", "generic"}
        better = "coarse='fine', correction='difference'" if fresh else "coarse='network'"
        if kind in BORROWED and not repeated_blocks(self.chain, first, last):
            reason = "it has no two neighbouring residual layers x + φ(x) of equal shape"
        elif kind == "factored":
            share = self.method.coarse_rank
            reason = f"no layer of it is cheaper with coarse_rank={share:g} of its largest rank"
        else:
            reason = f"none is known from {before} to {after}"
        return (
            f"no {kind!r} coarse propagator for subnetwork {j} "
            f"({self.chain.layers[first].name} … {self.chain.layers[last - 1].name}): {reason}. "
            f"Write method=Parareal({better}), take fewer subnetworks, or give a function "
            "(fine, interface_in, interface_out) -> nn.Module."
        )


#: Copies to make where a subnetwork has no residual blocks that repeat, or none to leave out.
INSTEAD = {"stepped": ("stepped", "thinned", "whole"), "thinned": ("thinned", "whole")}
#: Propagators with the network's own weights, as :func:`strided` writes them.
BORROWED = ("rediscretized", "mean", "sampled", "summed")
#: A sweep must at least halve an error for a coarse propagator without weights to be chosen.
CONTRACTS = 0.5


def is_zero_preserving(module: nn.Module, state: State) -> bool:
    """Whether the network answers zero to zero in both modes, whatever its weights will be.

    Seen on a copy with other weights: a bias may be zero only until it is trained.
    """
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    dtype = first.dtype if first is not None else state[0].dtype
    zeros = [torch.zeros(s.shape, dtype=dtype, device=device) for s in state]
    probe = copy.deepcopy(module)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for tensor in (*probe.parameters(), *probe.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape))
        results = [probe.train(mode)(*zeros) for mode in (True, False)]
    leaves = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
    return all(not leaf.any() for leaf in leaves)
