"""Networks of one family: which tensor of a shallow one stands for which of a deeper one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from pararealize.errors import RefinementError


def sources(coarse: nn.Module, fine: nn.Module) -> dict[str, str]:
    """Names in ``fine.state_dict()``, each with that of the coarse network at the same depth.

    In an ``nn.Sequential`` or ``nn.ModuleList`` of f blocks, where ``coarse`` has m ≤ f, block i
    belongs to ``floor(i m / f)``; elsewhere names are equal. Raises :class:`RefinementError` where
    the networks differ in more than depth.
    """
    known, wanted = coarse.state_dict(), fine.state_dict()
    modules = dict(_modules(coarse, fine))
    found = {name: _source(name, modules) for name in wanted}
    missing = [name for name, source in found.items() if source not in known]
    unused = sorted(known.keys() - found.values())
    if missing:
        raise RefinementError(f"the coarse network has nothing for {missing[0]} of the fine one")
    if unused:
        raise RefinementError(f"the fine network has no place for {unused[0]} of the coarse one")
    for name, source in found.items():
        before, after = _shape(known[source]), _shape(wanted[name])
        if before != after:
            raise RefinementError(
                f"{source} of the coarse network has shape {before}, but {name} of the fine one "
                f"has {after}; only depths may differ"
            )
    return found


def _modules(
    coarse: nn.Module, fine: nn.Module, source: str = "", name: str = ""
) -> Iterator[tuple[str, str]]:
    """Names of ``fine``'s modules, each with that of the coarse one whose weights it takes."""
    yield name, source
    for child, taken in _children(coarse, fine, name).items():
        first, second = coarse._modules[taken], fine._modules[child]
        if first is not None and second is not None:
            yield from _modules(first, second, _join(source, taken), _join(name, child))


def _children(coarse: nn.Module, fine: nn.Module, name: str) -> dict[str, str]:
    """Names of the children of one module of ``fine``, each with that of its coarse block."""
    # named_children() would leave out a block that stands there twice.
    known, wanted = list(coarse._modules), list(fine._modules)
    if _is_list(coarse) and _is_list(fine) and len(known) != len(wanted):
        if not 0 < len(known) < len(wanted):
            raise RefinementError(
                f"{name or 'the fine network'} has {len(wanted)} blocks and can take the weights "
                f"of 1 to {len(wanted)}, not of {len(known)}"
            )
        _check_alike(coarse, name)
        _check_alike(fine, name)
        return {child: known[i * len(known) // len(wanted)] for i, child in enumerate(wanted)}
    if set(known) != set(wanted):
        odd = min(set(known) ^ set(wanted))
        raise RefinementError(
            f"only the {'fine' if odd in wanted else 'coarse'} network has a module "
            f"{_join(name, odd)}; networks of one family differ in the lengths of their "
            "nn.Sequential and nn.ModuleList only"
        )
    return {child: child for child in wanted}


def _check_alike(blocks: nn.Module, name: str) -> None:
    layouts = [
        {} if block is None else {k: _shape(v) for k, v in block.state_dict().items()}
        for block in blocks._modules.values()
    ]
    for i, layout in enumerate(layouts):
        odd = sorted(set(layout.items()) ^ set(layouts[0].items()), key=repr)
        if odd:
            raise RefinementError(
                f"blocks that are interpolated have equal names and shapes, but blocks 0 and {i} "
                f"of {name or 'the network'} differ in {odd[0][0]}; put what is not repeated "
                "outside of the list"
            )


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _source(name: str, modules: dict[str, str]) -> str:
    """The name in the coarse network of what the parameter or buffer ``name`` takes."""
    module, _, leaf = name.rpartition(".")
    return _join(modules.get(module, module), leaf)


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _shape(value: object) -> tuple[int, ...] | None:
    """Sizes of a tensor; a module's extra state has none."""
    return tuple(value.shape) if isinstance(value, Tensor) else None
