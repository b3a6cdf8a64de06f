"""Lockstep: a traced program beside the network that it was traced from, layer by layer.

    network   … ── glue ── layer(x) ──► y ── glue ── layer' …
    program   … ── glue ──    x' = x?   y ── glue ──  x' = x? …

Whatever layer the network calls, the program has to call next, with the same arguments. Each layer
runs once, for both, so that what is compared is all that a trace could get wrong, at the price of
one forward pass; and where they part, it is known after which layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Program
from pararealize.propagators.memory import written_by_call
from pararealize.runtime.effects.statistics import is_torchs
from pararealize.runtime.values.equality import is_equal, largest_difference
from pararealize.runtime.values.pytree import map_tensors
from pararealize.tracing.composites import FORWARDS
from pararealize.verification.culprits import Culprits, Mismatch
from pararealize.verification.exchange import (
    PartedError,
    RefusedError,
    answer,
    given_to,
    own_copy,
    quick_tensors,
)
from pararealize.verification.hooks import Acts, hooked
from pararealize.verification.kept import (
    contents,
    other_streams,
    set_streams,
    streams,
)


@final
class Lockstep:
    """One run of the network with its program beside it.

    Args:
        program: of the network's present mode.
        root: the network.
        inputs: its arguments, by the names of their operations.
        devices: those besides the CPU on which it may draw random numbers.
        apart: whether the program works on copies of what layers give: in-place operations of one
            are then not seen by the other.
        watched: modules that are looked into, of which no attribute may change between layers.

    ``moved`` are afterwards such modules of which one has changed at all; the network where numbers
    of Python or NumPy were drawn.
    """

    def __init__(
        self,
        program: Program,
        root: nn.Module,
        inputs: Mapping[str, Any],
        devices: tuple[torch.device, ...],
        *,
        apart: bool,
        watched: Iterable[str] = (),
    ) -> None:
        self._program, self._root = program, root
        self._apart = apart or any(written_by_call(operation) for operation in program)
        self._values = dict(inputs)
        self._versions: dict[str, list[int]] = {}
        self._last = {name: i for i, o in enumerate(program) for name in o.uses}
        self._position, self._depth = 0, 0
        modules = dict(root.named_modules(remove_duplicate=False))
        self._modules = {o.target: modules[o.target] for o in program if o.kind == "module"}
        composites = [path for path, m in modules.items() if type(m) in FORWARDS]
        self._composites = tuple(f"{path}." if path else "" for path in composites)
        self._culprits = Culprits(root, program)
        self._devices = devices
        self._streams, self._others = streams(self._devices), other_streams()
        self._watched = [(path, root.get_submodule(path)) for path in watched]
        self._contents = contents(self._watched)
        self.difference: Mismatch | None = None
        self._fault: Exception | None = None
        self.parted, self._drawn = False, set[str]()
        self.moved: tuple[str, ...] = ()

    def run(self, call: inspect.BoundArguments) -> None:
        """The network's answer to the call, compared with the program's.

        Raises:
            PartedError: try again, ``apart``.
            RefusedError: the network itself raises an error.

        """
        looked_into = self._culprits.looked_into
        before = contents(looked_into)
        acts = Acts(self._before, self._after, self._unknown, self._culprits.left)
        with hooked(self._root, self._modules, looked_into, acts):
            output = self._answer(call)
        if self.difference is None and not self.parted:
            self._end(output)
        after = contents(looked_into)
        moved = {path for path, name in after if after[path, name] != before.get((path, name))}
        self.moved = tuple(moved | self._drawn)

    def _answer(self, call: inspect.BoundArguments) -> Any:
        try:
            return answer(self._root, call)
        except RefusedError:
            if self._fault is not None:
                raise self._fault from None  # it is not the network's
            raise

    def _unknown(self, module: nn.Module, _args: Any) -> None:
        """A layer is about to be called that the program does not have."""
        if not self._depth and not self.parted and self.difference is None:
            self.difference = self._culprits.unknown(module)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        try:
            self._meet(module, args, kwargs)
        except Exception as error:
            self._fault = error
            raise

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        try:
            self._share(module, args, kwargs, output)
        except Exception as error:
            self._fault = error
            raise

    def _meet(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A layer is about to be called: the program has to come to the same call."""
        self._depth += 1
        if self._depth > 1 or self.parted or self.difference is not None:
            return
        layer = self._advance()
        self._compare_contents()
        if self._watched or not is_torchs(module):
            self._compare_others(layer)
        if self.difference is not None or layer is None:
            return
        if layer.kind != "module" or self._modules[layer.target] is not module:
            rest = self._program.operations[self._position :]
            self.difference = self._culprits.out_of_order(layer, module, rest)
            return
        mine, named = layer.map_refs(lambda ref: self._values[ref.name])
        self._compare_arguments(layer, (args, kwargs), (mine, named))
        self._call = layer, (mine, named), [t._version for t in quick_tensors((args, kwargs))]

    def _share(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """The layer has been called: its result is the program's as well."""
        self._depth -= 1
        if self._depth or self.parted or self.difference is not None:
            return
        layer, mine, versions = self._call
        pairs = zip(quick_tensors((args, kwargs)), quick_tensors(mine), versions, strict=False)
        written = [(theirs, own) for theirs, own, v in pairs if theirs._version != v]
        for theirs, own in written:
            if own is not theirs:
                own.detach().copy_(theirs.detach())
        if self._apart:
            given = list(zip(quick_tensors((args, kwargs)), quick_tensors(mine), strict=False))
            output = map_tensors(lambda tensor: own_copy(tensor, given), output)
        elif written:  # by the layer: no other value may have shared that memory
            known = {id(own) for _, own in written}
            self._versions = {
                name: [t._version for t in quick_tensors(self._values[name])]
                if any(id(t) in known for t in quick_tensors(self._values[name]))
                else found
                for name, found in self._versions.items()
            }
        self._keep(layer, output)
        self._position += 1
        self._streams = streams(self._devices)
        self._contents = contents(self._watched)
        if self._watched or not is_torchs(module):
            self._others = other_streams()

    def _advance(self) -> Operation | None:
        """Evaluate the program up to its next layer, or its end, which is returned."""
        now, operations = None, self._program.operations
        while (operation := operations[self._position]).kind not in {"module", "output"}:
            if operation.kind in {"function", "method"} and now is None:
                now = streams(self._devices)
                set_streams(self._devices, self._streams)
            if operation.kind != "input" and not self._evaluate(operation):
                return None
            self._position += 1
        if now is not None:
            self._compare_streams(operation, now)
        self._check_sharing(operation)
        return operation

    def _evaluate(self, operation: Operation) -> bool:
        self._check_sharing(operation)
        args, kwargs = operation.map_refs(lambda ref: self._values[ref.name])
        target = operation.target
        try:
            match operation.kind:
                case "attribute":
                    value = attrgetter(target)(self._root)
                case "training":
                    value = self._root.get_submodule(target).training
                case "method":
                    value = getattr(args[0], target)(*args[1:], **kwargs)
                case "network" | "context":
                    value = target(self._root, *args, **kwargs)
                case _:
                    value = target(*args, **kwargs)
        except Exception as error:  # whatever it is, the network got further
            what = f"{operation.describe} raises {type(error).__name__}: {error}"
            self.difference = Mismatch(what, operation.scope)
            return False
        self._keep(operation, value)
        return True

    def _keep(self, operation: Operation, value: Any) -> None:
        """Keep a value, and drop those that nothing reads any more."""
        self._values[operation.name] = value
        if not self._apart:
            self._versions[operation.name] = [t._version for t in quick_tensors(value)]
        here = self._position
        for name in operation.uses:
            if self._last[name] <= here:
                self._values.pop(name, None)
                self._versions.pop(name, None)

    def _check_sharing(self, operation: Operation) -> None:
        """Raise where the network has written on what the program is about to read."""
        for name in operation.uses if not self._apart else ():
            known = self._versions.get(name)
            if known and [t._version for t in quick_tensors(self._values[name])] != known:
                self.parted = True
                raise PartedError

    def _compare_arguments(self, layer: Operation, theirs: Any, mine: Any) -> None:
        theirs, mine = given_to(*theirs), given_to(*mine)
        if layer.target.startswith(self._composites):  # which passes hints on as well
            theirs, mine = quick_tensors(theirs), quick_tensors(mine)
        if not is_equal(theirs, mine):
            culprit = self._culprits.writer(layer, self._values)
            largest = largest_difference(theirs, mine)
            self.difference = Mismatch(f"what {layer.target} is given", culprit, largest)

    def _compare_streams(self, operation: Operation, now: list[Tensor]) -> None:
        """Whether the program has drawn what the network drew since the last layer."""
        mine = streams(self._devices)
        set_streams(self._devices, now)
        if not all(torch.equal(a, b) for a, b in zip(mine, now, strict=True)):
            what = f"the random numbers drawn before {operation.describe}"
            self.difference = Mismatch(what, self._culprits.writer(operation, self._values))

    def _compare_others(self, operation: Operation | None) -> None:
        """Whether Python's or NumPy's generator has moved outside layers."""
        if operation is not None and self.difference is None and other_streams() != self._others:
            what = f"a random number of Python or NumPy before {operation.describe}"
            self.difference = Mismatch(what, self._culprits.writer(operation, self._values))

    def _compare_contents(self) -> None:
        """Whether attributes have changed outside layers."""
        now = contents(self._watched)
        moved = next((key for key in now if now[key] != self._contents.get(key)), None)
        if moved is not None and self.difference is None:
            path, name = moved
            what = f"self.{name} of {path or 'the network'}, which a call changes,"
            self.difference = Mismatch(what, path)

    def _end(self, output: Any) -> None:
        """The network has answered."""
        last = self._advance()
        self._compare_contents()
        if self._watched:
            self._compare_others(last)
        elif other_streams() != self._others:
            self._drawn = {""}
        if self.difference is not None or last is None:
            return
        if last.kind != "output":
            what = f"{last.target}, which the network does not call"
            self.difference = Mismatch(what, self._culprits.caller(last.target))
            return
        (mine,), _ = last.map_refs(lambda ref: self._values[ref.name])
        if not is_equal(output, mine):
            found = largest_difference(output, mine)
            self.difference = Mismatch(
                "the output", self._culprits.writer(last, self._values), found
            )
