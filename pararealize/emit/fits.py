"""Fits: how coarse and guess networks of a partition take other sizes than they were made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils._pytree import tree_leaves

from pararealize.emit.emission import Emission
from pararealize.ir.chain import Partition, TensorSpec
from pararealize.propagators.fitting import Fitting, Shape, Twin
from pararealize.tracing.copying import without_data


@dataclass(frozen=True)
class Fits:
    """What networks stand for in a network that ``twin`` copies."""

    partition: Partition
    twin: Twin

    @classmethod
    def of(cls, emission: Emission) -> Fits:
        """In what was emitted; a rank has a copy of the layers that others hold."""
        serial = emission.serial if emission.share is None else emission.share.skeleton
        return cls(emission.decisions.partition, Twin(partial(without_data, serial)))

    def coarse(self, j: int, inputs: tuple[str, ...]) -> Fitting | None:
        """Of the network beside subnetwork j; ``None`` where it gives what is no tensor."""
        return self._of(*self.partition.piece(j), inputs)

    def guess(self, j: int, inputs: tuple[str, ...]) -> Fitting | None:
        """Of the network that guesses the state at interface j."""
        return self._of(0, self.partition.bounds[j], inputs)

    def _of(self, first: int, last: int, inputs: tuple[str, ...]) -> Fitting | None:
        chain = self.partition.chain
        segment = chain.segment(first, last, training=True)
        names = segment.results or segment.operations[-1].uses
        specs = [chain.profile.specs.get(name) for name in names]
        if None in specs or (segment.results is None and len(names) != 1):
            return None
        results = {n: s.shape[1:] for n, s in zip(names, specs, strict=True) if s is not None}
        return Fitting(segment, inputs, self._shapes(first, inputs), results, self.twin)

    def _shapes(self, first: int, inputs: tuple[str, ...]) -> Iterator[Shape | None]:
        chain = self.partition.chain
        given: list[Any] = [*chain.state(first), *(chain.profile.inputs.get(i) for i in inputs)]
        for leaf in tree_leaves(given):
            yield leaf.shape[1:] if isinstance(leaf, TensorSpec) else None
