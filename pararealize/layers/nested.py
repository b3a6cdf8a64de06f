"""Nested iteration: train a shallow network, interpolate its weights in depth, train on.

Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep Neural Network
Training" (arXiv:1912.08974).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pararealize.errors import RefinementError


def refine(coarse: nn.Module, fine: nn.Module) -> nn.Module:
    """Copy the weights of ``coarse`` into ``fine``, piecewise constant in depth.

    ``W_fine[i] = W_coarse[floor(i m / f)]`` for every ``nn.Sequential`` or ``nn.ModuleList`` of m
    blocks in ``coarse`` and f ≥ m in ``fine``; what else a ``state_dict`` holds is copied by name
    and shape. Other buffers, as a step size, stay ``fine``'s own. Returns ``fine``; ``coarse``
    stays as it is. Raises :class:`RefinementError`, before anything is copied, where the two
    networks differ in more than depth.
    """
    known, wanted = coarse.state_dict(), fine.state_dict()
    modules = dict(_modules(coarse, fine))
    sources = {name: _source(name, modules) for name in wanted}
    missing = [name for name, source in sources.items() if source not in known]
    unused = sorted(known.keys() - sources.values())
    if missing:
        raise RefinementError(f"the coarse network has nothing for {missing[0]} of the fine one")
    if unused:
        raise RefinementError(f"the fine network has no place for {unused[0]} of the coarse one")
    for name, source in sources.items():
        before, after = _shape(known[source]), _shape(wanted[name])
        if before != after:
            raise RefinementError(
                f"{source} of the coarse network has shape {before}, but {name} of the fine one "
                f"has {after}; only depths may differ"
            )
    fine.load_state_dict({name: known[source] for name, source in sources.items()})
    return fine


def nested_iteration(
    factory: Callable[[int], nn.Module], depths: Sequence[int], train: Callable[[nn.Module], None]
) -> nn.Module:
    """Train on the first depth, then refine and train on every further one.

    ``net[k] = train(refine(net[k - 1], factory(depths[k])))``; the last one is returned.
    ``depths`` increase; ``train`` changes weights in place and makes its own optimizer, whose state
    fits one depth only. Raises :class:`RefinementError` for depths that do not increase, or where
    :func:`refine` does.
    """
    if not depths or any(first >= second for first, second in pairwise(depths)):
        raise RefinementError(f"depths increase, as in [8, 16, 32]; they are {list(depths)}")
    net = factory(depths[0])
    train(net)
    for depth in depths[1:]:
        net = refine(net, factory(depth))
        train(net)
    return net


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
