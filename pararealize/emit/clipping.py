"""Clipping: gradients by their norm over the whole network, the same on any number of ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from pararealize.emit.emission import Share
from pararealize.emit.weight_names import first_names
from pararealize.runtime.communication.occasions import agree

#: What norms are added up in, whatever the gradients are.
WIDE = torch.float64


def clip_over_ranks(network: nn.Module, share: Share | None, most: float, kind: float) -> Tensor:
    """Clip gradients by their ``kind``-norm over the parameters of all ranks, and return it.

    It is the norm of the norms of all parameters, in the order of their names: the same number to
    the last bit in one process and on any ranks. A parameter that several ranks hold counts on the
    first of them.
    """
    if share is not None:
        agree(share.transport, f"clips gradients to a {kind}-norm of {float(most)}")
    parameters = [p for p in nn.Module.parameters(network) if p.grad is not None]
    sizes = _sizes(_counted(network, share), kind)
    dtypes = {size.dtype for size in sizes.values()}
    if share is not None:
        numbers = _stacked(sizes).tolist()
        every = share.transport.exchange((dict(zip(sizes, numbers, strict=True)), dtypes))
        dtypes = set().union(*(found for _, found in every))
        found = {name: number for some, _ in every for name, number in some.items()}
        names = sorted(found)
        device = next((p.device for p in parameters), torch.device("cpu"))
        ordered = torch.tensor([found[name] for name in names], dtype=WIDE, device=device)
    else:
        ordered = _stacked({name: sizes[name] for name in sorted(sizes)})
    total = torch.linalg.vector_norm(ordered, kind) if len(ordered) else ordered.sum()
    norm: Tensor = total.to(reduce(torch.promote_types, dtypes, torch.float32))
    nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def _counted(network: nn.Module, share: Share | None) -> dict[str, Tensor]:
    """The gradients that count on this rank, by the first name that their parameters have."""
    skip: set[int] = set()
    if share is not None:
        rank = share.transport.rank
        skip = {id(network.get_parameter(t.name)) for t in share.ties if t.ranks[0] != rank}
    first = first_names(share) if share is not None and share.ties else {}
    return {
        first.get(name, name): p.grad
        for name, p in network.named_parameters()
        if p.grad is not None and id(p) not in skip
    }


def _sizes(gradients: Mapping[str, Tensor], kind: float) -> dict[str, Tensor]:
    """The norm of every gradient; those of one type on one device take one call."""
    groups: defaultdict[tuple[torch.device, torch.dtype], list[str]] = defaultdict(list)
    for name, gradient in gradients.items():
        groups[gradient.device, gradient.dtype].append(name)
    sizes: dict[str, Tensor] = {}
    for names in groups.values():
        found = torch._foreach_norm([gradients[name] for name in names], kind)
        sizes.update(zip(names, found, strict=True))
    return sizes


def _stacked(sizes: Mapping[str, Tensor]) -> Tensor:
    """All norms, on the device of the first."""
    parts = list(sizes.values())
    if len({(part.device, part.dtype) for part in parts}) > 1:
        parts = [part.to(parts[0].device, WIDE) for part in parts]
    return torch.stack(parts).to(WIDE) if parts else torch.zeros(0, dtype=WIDE)
