"""Layers: what lies between two neighbouring interfaces."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.node import map_aggregate

from pararealize.ir.chain import Cost, Interface, Layer, Profile
from pararealize.ir.program import AMBIENT, Operation, Program, Ref
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.fresh import normalises
from pararealize.propagators.paths import parts_of, submodule
from pararealize.propagators.step import Step

ADDITIONS = frozenset({"add", "add_", "iadd", "__add__", "__iadd__"})

#: Functions that scale a state by what it is.
NORMALISING = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})


class LayerBuilder:
    """Makes the layer between two interfaces of a program."""

    def __init__(self, model: nn.Module, program: Program, profile: Profile) -> None:
        self.program, self.profile, self.model = program, profile, model
        first = {id(p): name for name, p in model.named_parameters()}
        paths = model.named_parameters(remove_duplicate=False)
        self.names = {path: first[id(p)] for path, p in paths}  # tied weights have one name
        self.seen: dict[str, str] = {}

    def __call__(
        self, start: int, stop: int, before: Interface | None, after: Interface | None
    ) -> Layer:
        """The layer of the operations ``start`` … ``stop - 1``."""
        skipped = AMBIENT | {"output"}
        own = [o for o in self.program.operations[start:stop] if o.kind not in skipped]
        costs = [self.profile.costs[o.name] for o in own]
        preserves = before is not None and after is not None and before.state == after.state
        single: tuple[str, ...] = ()
        if before and after and preserves and len(before.values) == 1:
            single = before.values + after.values
        return Layer(
            name=_layer_name(own, after),
            start=start,
            stop=stop,
            parameters=self._parameters(own),
            cost=sum(costs, Cost()),
            preserves=preserves,
            branch=self._branch(*single) if single else None,
            signature=tuple(self._signature(o) for o in own),
            span=self._span(*single) if single else None,
            normalises=any(map(self._normalises, own)),
        )

    def _parameters(self, operations: list[Operation]) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for operation in operations:
            if operation.kind == "module":
                module = submodule(self.model, operation.target)
                prefix = f"{operation.target}." if operation.target else ""
                own = module.named_parameters(remove_duplicate=False)
                names.update({self.names[prefix + name]: None for name, _ in own})
            if isinstance(operation.target, OutsideBlocks):
                outside = {f"{path}." for path in operation.target.outside(self.model)}
                owned = (n for n in self.names.values() if f"{n}.".startswith(tuple(outside)))
                names.update(dict.fromkeys(owned))
            attributes = [self.program[name].target for name in operation.uses]
            names.update({self.names[path]: None for path in attributes if path in self.names})
        return tuple(names)

    def _branch(self, before: str, after: str) -> str | None:
        """φ where the layer is x + φ(x): the other operand of an addition that ends it."""
        last = self.program[after]
        name = last.call
        operands = [a.name for a in last.args if isinstance(a, Ref)]
        if name not in ADDITIONS or len(operands) != 2 or before not in operands:
            return None
        if last.kwargs or operands[0] == operands[1]:
            return None
        return operands[1] if operands[0] == before else operands[0]

    def _span(self, before: str, after: str) -> str | None:
        """The call that makes the layer's state of the one before it, where it is a Step."""
        last = self.program[after]
        steps = last.kind == "module" and isinstance(submodule(self.model, last.target), Step)
        return last.name if steps and last.args[:1] == (Ref(before),) else None

    def _signature(self, operation: Operation) -> tuple[Any, ...]:
        spec = self.profile.specs[operation.name]
        shape = spec.shape if spec else None
        given = self._given(operation)
        if operation.kind == "module":
            if operation.target not in self.seen:
                self.seen[operation.target] = repr(submodule(self.model, operation.target))
            return (operation.kind, self.seen[operation.target], shape, given)
        return (operation.kind, str(operation.target), shape, given)

    def _normalises(self, operation: Operation) -> bool:
        if operation.kind == "module":
            return any(map(normalises, parts_of(submodule(self.model, operation.target))))
        return operation.kind == "function" and operation.call in NORMALISING

    def _given(self, operation: Operation) -> str:
        """What kinds of arguments it has: steps of other sizes are still steps."""

        def kind(leaf: Any) -> str:
            if isinstance(leaf, Ref):
                return "weight" if self.program[leaf.name].kind == "attribute" else "value"
            return type(leaf).__name__ if isinstance(leaf, (int, float, slice)) else str(leaf)

        return str(map_aggregate((operation.args, dict(operation.kwargs)), kind))


def _layer_name(operations: list[Operation], after: Interface | None) -> str:
    if after is not None and after.module:
        return after.module
    paths = [module_path(o) for o in operations if module_path(o)]
    return paths[-1] if paths else (operations[-1].name if operations else "output")


def module_path(operation: Operation) -> str:
    """The path of the module that an operation calls, or of the one that wrote it."""
    return str(operation.target) if operation.kind == "module" else operation.scope
