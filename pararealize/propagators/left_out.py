"""What to write where a network leaves blocks out at random."""

from __future__ import annotations

from torch import nn


def how_to_keep(root: nn.Module) -> str:
    """A sentence: by its configuration where that has a layerdrop, else by the blocks' own code."""
    settings = getattr(getattr(root, "config", None), "__dict__", {})
    named = [name for name in settings if "layerdrop" in name]
    if named:
        lines = "; ".join(f"model.config.{name} = 0.0" for name in named)
        return f"Keep them all: {lines}."
    return (
        "Call every block, and let each decide in a forward of its own, which is called whole and "
        "stays random: return x if self.training and torch.rand(()) < self.p else x + "
        "self.layer(x). Or set the share that is left out to 0."
    )
