"""Vision transformers.

Dosovitskiy et al., "An Image Is Worth 16x16 Words" (arXiv:2010.11929).
"""

import torch
from torch import Tensor, nn

from .transformer import POSITIONS_STD, blocks


class ViT(nn.Module):
    """Vision transformer of arXiv:2010.11929 that classifies the mean of its patches.

    Square patches of `patch` pixels become `(size / patch) ** 2` positions of `width` numbers, to
    which learned positions are added; then `depth` pre-norm blocks, a normalisation, the mean over
    positions and a linear classifier.
    """

    def __init__(
        self,
        depth: int = 12,
        *,
        width: int = 64,
        heads: int = 4,
        patch: int = 7,
        size: int = 28,
        channels: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            raise ValueError(f"images of side {size} do not split into patches of side {patch}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(POSITIONS_STD * torch.randn((size // patch) ** 2, width))
        self.blocks = blocks(depth, width, heads)
        self.ln = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[batch, channels, size, size]` to logits `[batch, classes]`."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.fc(self.ln(self.blocks(x)).mean(1))
        return logits


def vit(
    depth: int = 12,
    *,
    width: int = 64,
    heads: int = 4,
    patch: int = 7,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
) -> ViT:
    """Vision transformer (arXiv:2010.11929) of `depth` pre-norm blocks."""
    return ViT(
        depth,
        width=width,
        heads=heads,
        patch=patch,
        size=size,
        channels=channels,
        classes=classes,
    )
