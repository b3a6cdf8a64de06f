"""Kind: what a coarse propagator is, in one description."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize.coarse.setting import Setting, Site, input_names
from pararealize.errors import CoarseError
from pararealize.ir.chain import Cost, State
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method


@dataclass(frozen=True)
class CoarseKind(ABC):
    """A kind of coarse propagator; its parameters are the fields of a frozen dataclass.

    A new kind is one subclass and its place in :data:`pararealize.coarse.registry.KINDS`: cuts,
    options, the command line and calibration then know it.

    Attributes:
        name: how options spell it.
        methods: the methods that offer it by name.
        heeds: options of the method that it reads.
        takes_tuples: whether states of any shapes will do, several tensors among them.
        owns_weights: whether it needs nothing of the network once it is made, so that it may be
            evaluated where the network's weights are not.
        keeps_zero: whether F(0) = 0 is expected of it where jumps are corrected: one evaluation
            then is a correction, else F(r) - F(0) takes two.
        advice: options to write where it is refused.
        candidates: parameters of those that calibration compares.
        substitutes: parameters of those that stand in where calibration finds no other for a
            subnetwork.

    """

    name: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = ("Parareal",)
    heeds: ClassVar[tuple[str, ...]] = ()
    takes_tuples: ClassVar[bool] = False
    owns_weights: ClassVar[bool] = False
    keeps_zero: ClassVar[bool] = False
    advice: ClassVar[str] = "coarse='network'"
    candidates: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    substitutes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        """The kind with a method's options for subnetwork j, or for one not known yet."""
        given = method.parameters(j)
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})

    @property
    def instead(self) -> tuple[CoarseKind, ...]:
        """Kinds to build, in this order, where a method asks for one that is not known."""
        return ()

    @property
    def options(self) -> Mapping[str, Any]:
        """Its parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of its propagators of ``first`` … ``last - 1``, last = ``first`` + 1, + 2, ….

        One evaluation each; ``None`` where there is none.
        """

    @abstractmethod
    def build(self, site: Site) -> Coarse | None:
        """The propagator, or ``None`` where there is none.

        Raises:
            CoarseError: there is none, for a reason of its own.

        """

    def reason(self, site: Site) -> str:
        """Why there is no propagator of this kind."""
        before, after = (" and ".join(map(str, state)) for state in site.states)
        return f"none is known from {before or 'the inputs'} to {after or 'the output'}"

    def refusal(self, site: Site) -> CoarseError:
        """The error that there is no propagator of this kind; says why and what to write."""
        layers = site.setting.chain.layers
        return CoarseError(
            f"no {self.name!r} coarse propagator for {site.title} "
            f"({layers[site.first].name} … {layers[site.last - 1].name}): {self.reason(site)}. "
            f"Write method=Parareal({self.advice}), take fewer subnetworks, or give a function "
            "(fine, interface_in, interface_out) -> nn.Module."
        )

    def coarse(self, cost: Cost, **parts: Any) -> Coarse:
        """A propagator of this kind."""
        return Coarse(str(self), cost, **parts, name=self.name, options=self.options)

    def network(
        self, site: Site, cost: Cost, module: nn.Module, inputs: tuple[str, ...] = ()
    ) -> Coarse:
        """A propagator that is a module; before the first layer it reads the network's input."""
        if site.first == 0:
            inputs = inputs or input_names(site.setting.chain)
        jumps = not site.setting.difference and not inputs
        zero = jumps and is_zero_preserving(module, site.states[0])
        return self.coarse(cost, module=module, inputs=inputs, zero_preserving=zero)


def costs_of(kind: CoarseKind, setting: Setting, first: int) -> Iterator[Cost | None]:
    """Costs of what a method that asks for the kind gets: it, or what is built instead.

    The walks of kinds to build instead follow where there is none of those before.
    """
    walks = [each.costs(setting, first) for each in (kind, *kind.instead)]
    if len(walks) == 1:
        yield from walks[0]
        return
    done = [0] * len(walks)
    for count in range(len(setting.chain.layers) - first):
        cost = None
        for i, walk in enumerate(walks):
            cost = next(islice(walk, count - done[i], None))
            done[i] = count + 1
            if cost is not None:
                break
        yield cost


def is_zero_preserving(module: nn.Module, state: State) -> bool:
    """Whether the network answers zero to zero in both modes, whatever its weights will be.

    Seen on a copy with other weights: a bias may be zero only until it is trained.
    """
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    own = first.dtype if first is not None else None
    kinds = (own if own and s.dtype.is_floating_point else s.dtype for s in state)
    pairs = zip(state, kinds, strict=True)
    zeros = [torch.zeros(s.shape, dtype=kind, device=device) for s, kind in pairs]
    probe = copy.deepcopy(module)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for tensor in (*probe.parameters(), *probe.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape))
        results = [probe.train(mode)(*zeros) for mode in (True, False)]
    leaves = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
    return all(not leaf.any() for leaf in leaves)
