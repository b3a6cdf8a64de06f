"""Stubs: what stands in lists of blocks while a network's own forward runs without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

from torch import nn

#: What is done in place of a block, given its path, arguments and keyword arguments.
Act = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]


@final
class Stub(nn.Module):
    """Stands in a list of blocks and acts instead of one; everything else is asked of the block.

    ``known`` are plain attributes of a block that is not there.
    """

    def __init__(
        self, path: str, act: Act, block: nn.Module | None, known: Mapping[str, Any]
    ) -> None:
        super().__init__()
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "act", act)
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "known", known)
        if block is not None:
            self._forward_hooks = block._forward_hooks  # whoever registers one means the block
            self._modules = block._modules
            self.training = block.training

    def __getattribute__(self, name: str) -> Any:
        """Its class as the block's, to whoever asks, as networks and their libraries do."""
        if name == "__class__":
            block = object.__getattribute__(self, "__dict__").get("block")
            return Stub if block is None else type(block)
        return super().__getattribute__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``act`` makes of the call, heard by the hooks of the block's own library.

        By such hooks a network collects what its blocks give. A user's run where the block does.
        """
        result = self.act(self.path, args, kwargs)
        block = self.__dict__["block"]
        for hook in tuple(self._forward_hooks.values()):
            if block is not None and is_librarys(hook, block):
                hook(block, args, result)
        return result

    def __getattr__(self, name: str) -> Any:
        """Networks look at their blocks' attributes between calls."""
        own = self.__dict__
        if own["block"] is None:
            if name in own["known"]:
                return own["known"][name]
            raise AttributeError(f"{own['path']} lies on another rank and has no {name!r} here")
        return getattr(own["block"], name)


def is_librarys(hook: Any, module: nn.Module) -> bool:
    """Whether a hook was written by the package that the module is of, and not by its user."""
    library, dot, _ = type(module).__module__.partition(".")
    return bool(dot) and str(getattr(hook, "__module__", "")).startswith(f"{library}.")


@contextmanager
def replaced(
    root: nn.Module, paths: Sequence[str], act: Act, known: Mapping[str, Mapping[str, Any]]
) -> Iterator[None]:
    """Stubs in place of the blocks for a while; a rank has not all of the blocks."""
    lists: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        lists.setdefault(path.rpartition(".")[0], []).append(path)
    with ExitStack() as stack:
        for parent, members in lists.items():
            stack.enter_context(_replaced(root, parent, members, act, known))
        yield


@contextmanager
def _replaced(
    root: nn.Module,
    parent: str,
    members: Sequence[str],
    act: Act,
    known: Mapping[str, Mapping[str, Any]],
) -> Iterator[None]:
    made = list(_missing(root, parent))
    holder = root.get_submodule(parent)
    own = holder._modules
    names = {path.rpartition(".")[2]: path for path in members}
    stubs: dict[str, nn.Module | None] = {
        name: Stub(path, act, own.get(name), known.get(path, {})) for name, path in names.items()
    }
    try:
        holder._modules = stubs | {name: m for name, m in own.items() if name not in stubs}
        yield
    finally:
        holder._modules = own
        for owner, name in reversed(made):
            del owner._modules[name]


def _missing(root: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    """Empty lists on a path of which nothing lies on this rank, made for a while."""
    owner = root
    for name in filter(None, path.split(".")):
        if owner._modules.get(name) is None:
            owner._modules[name] = nn.ModuleList()
            yield owner, name
        owner = owner.get_submodule(name)


def plain_attributes(block: nn.Module, plain: tuple[type, ...]) -> dict[str, Any]:
    """Numbers, strings and flags that a block keeps as attributes."""
    hidden = ("_", "training", "call_super_init", "dump_patches")
    return {
        name: value
        for name, value in vars(block).items()
        if isinstance(value, plain) and not name.startswith(hidden)
    }
