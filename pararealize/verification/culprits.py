"""Culprits: where a program is not its network, whose ``forward`` is to blame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from pararealize.ir.program import Operation, Program
from pararealize.runtime.values.equality import is_equal
from pararealize.runtime.values.pytree import tensors_of

#: Of how many modules the last results are remembered: those that end between two layers.
RECENT = 16


@dataclass(frozen=True)
class Mismatch:
    """Where the program is not the network: what differs first, and whose ``forward`` wrote it.

    ``largest`` is the largest difference of numbers, where numbers differ; ``culprit`` the path of
    the module, empty for the network itself.
    """

    what: str
    culprit: str
    largest: float | None = None


@final
class Culprits:
    """Knows what the modules that a program looks into gave last, which tells who is right."""

    def __init__(self, root: nn.Module, program: Program) -> None:
        self._root, self._program = root, program
        self._called = {o.target for o in program if o.kind == "module"}
        inside = tuple(f"{path}." for path in self._called)
        self.looked_into = [
            (path, module)
            for path, module in root.named_modules()
            if path not in self._called and not path.startswith(inside)
        ]
        self._left: OrderedDict[str, Any] = OrderedDict()

    def left(self, path: str) -> Callable[..., None]:
        """A hook that remembers what the module gives."""

        def remember(_module: nn.Module, _args: Any, output: Any) -> None:
            self._left[path] = output
            self._left.move_to_end(path)
            if len(self._left) > RECENT:
                self._left.popitem(last=False)

        return remember

    def writer(self, operation: Operation, values: Mapping[str, Any]) -> str:
        """Whose forward computed what an operation reads: the last that gave something else.

        Where all gave what they should, the one that passes it on.
        """
        wrote = [self._program[name] for name in operation.uses]
        glue = [o for o in wrote if o.kind in {"function", "method", "attribute"}]
        wrong = [o.scope for o in glue if not self._is_right(o, values.get(o.name))]
        if wrong:
            return max(wrong, key=len)
        return self.caller(operation.target) if operation.kind == "module" else ""

    def _is_right(self, operation: Operation, value: Any) -> bool:
        given = tensors_of(self._left.get(operation.scope))
        return any(is_equal(value, tensor) for tensor in given)

    def out_of_order(
        self, layer: Operation, module: nn.Module, rest: Sequence[Operation]
    ) -> Mismatch:
        """The network calls a module where the program comes to another one."""
        names = [n for n, m in self._root.named_modules(remove_duplicate=False) if m is module]
        called = next((name for name in names if name in self._called), names[0])
        skipped = layer.kind == "module" and any(o.target == called for o in rest)
        what = f"the call of {called}, where the program comes to {layer.describe},"
        return Mismatch(what, self.caller(layer.target if skipped else called))

    def unknown(self, module: nn.Module) -> Mismatch:
        """The network calls a layer that the program does not have."""
        path = next(n for n, m in self._root.named_modules() if m is module)
        return Mismatch(f"the call of {path}, which was not traced,", self.caller(path))

    def caller(self, path: str) -> str:
        """The user's own module around a path: containers of torch's call what they hold."""
        while path:
            path = path.rpartition(".")[0]
            if not type(self._root.get_submodule(path)).__module__.startswith("torch."):
                return path
        return path
