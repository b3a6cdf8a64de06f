"""Hidden: networks most of whose weights lie in modules that a trace cannot look into."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from pararealize.tracing.trace import Trace
from pararealize.tracing.uncut import uncut


def hidden(model: nn.Module, traced: Trace) -> tuple[str, ...]:
    """Paths of modules called whole since they cannot be traced, where most weights are theirs.

    As of a classifier whose forward is traced and calls an encoder which is not. Tables of
    embeddings, from which rows are read, are left out of the account.
    """
    uneven = (name for name, m in model.named_modules() if m.training != model.training)
    paths = traced.whole.keys() - uncut(model).keys() - set(uneven)
    within = _weights(model.get_submodule(path) for path in paths)
    return tuple(sorted(paths)) if 2 * within > _weights([model]) else ()


def _weights(modules: Iterable[nn.Module]) -> int:
    """How many numbers the weights of modules are, each counted once."""
    found = {
        parameter: parameter.numel()
        for module in modules
        for part in module.modules()
        if not isinstance(part, (nn.Embedding, nn.EmbeddingBag))
        for parameter in part.parameters(recurse=False)
    }
    return sum(found.values())
