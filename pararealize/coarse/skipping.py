"""Skipping: the states of a network around its blocks, where blocks give what they are given.

    stem ── (block 0) ── (block 1) ── between ── (block 2) ── …

Such a state is a guess that has the right shape for any input, and costs what lies around the
blocks. A block none of whose arguments has the shape of what it gives is called all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from pararealize.ir.chain import Chain, Cost
from pararealize.ir.program import AMBIENT, Operation, Program, Segment
from pararealize.propagators.block_list import redrawn


@dataclass(frozen=True)
class Skipping:
    """Which operations are left out, and which value stands for each of theirs.

    ``before`` is the cost of what is kept of the operations before each one.
    """

    chain: Chain
    stand_ins: Mapping[str, str]
    left_out: frozenset[str]
    before: tuple[Cost, ...]

    @classmethod
    def of(cls, chain: Chain) -> Skipping:
        """The train program of a chain without the blocks that can be left out."""
        stand_ins, left_out = _found(chain)
        costs = chain.profile.costs
        kept = (Cost() if o.name in left_out else costs.get(o.name, Cost()) for o in chain.train)
        return cls(chain, stand_ins, frozenset(left_out), tuple(accumulate(kept, initial=Cost())))

    def cost(self, layer: int) -> Cost:
        """Cost of the state before a layer."""
        return self.before[self.chain.interfaces[layer - 1].stop]

    def segment(self, layer: int) -> Segment:
        """The state before a layer as a function of the inputs; what nothing reads is left out."""
        whole = self.chain.segment(0, layer, training=True)
        kept = [o.renamed(self.stand_ins) for o in whole.operations if o.name not in self.left_out]
        results = tuple(self.stand_ins.get(name, name) for name in whole.results or ())
        needed, own = set(results), list[Operation]()
        for operation in reversed(kept):
            if operation.name in needed or operation.kind in AMBIENT:
                own.append(operation)
                needed.update(operation.uses)
        inputs = tuple(name for name in whole.inputs if name in needed)
        return replace(whole, operations=tuple(reversed(own)), inputs=inputs, results=results)


def _found(chain: Chain) -> tuple[dict[str, str], set[str]]:
    """Stand-ins of values of blocks that can be left out, and the operations left out."""
    program, stand_ins, left_out = chain.train, dict[str, str](), set[str]()
    readers = _readers(program)
    for operation in program:
        if operation.kind == "function" and operation.target is redrawn:
            first = operation.args[0].name
            stand_ins[operation.name] = stand_ins.get(first, first)
            left_out.add(operation.name)
        elif operation.kind == "module":
            mine = _stand_ins(chain, operation, readers)
            if mine is not None:
                stand_ins |= {k: stand_ins.get(v, v) for k, v in mine.items()}
                left_out |= {operation.name, *mine}
    return stand_ins, left_out


def _readers(program: Program) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in program:
        for name in operation.uses:
            found.setdefault(name, []).append(operation)
    return found


def _stand_ins(
    chain: Chain, block: Operation, readers: Mapping[str, list[Operation]]
) -> dict[str, str] | None:
    """For every tensor that the block gives, an argument of its shape; ``None`` if one has none."""
    specs = chain.profile.specs
    if specs[block.name] is not None:
        values = [block.name]
    else:
        values = [o.name for o in readers.get(block.name, ()) if o.scope == block.scope]
    found: dict[str, str] = {}
    for value in values:
        like = (name for name in block.uses if specs[name] == specs[value])
        if specs[value] is None or (name := next(like, "")) == "":
            return None
        found[value] = name
    return found
