"""Results: tensors that a module keeps of its last call, as hooks and forwards leave them."""

from __future__ import annotations

from torch import Tensor, nn


def detached_results(root: nn.Module) -> dict[int, Tensor]:
    """A memo that lets ``copy.deepcopy`` copy such tensors, which it refuses to: detached.

    ``nn.utils.weight_norm`` makes a weight anew before every call; others keep an activation.
    """
    attributes = (value for part in root.modules() for value in part.__dict__.values())
    kept = (value for value in attributes if isinstance(value, Tensor) and not value.is_leaf)
    return {id(value): value.detach().clone() for value in kept}
