"""VGG networks.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(arXiv:1409.1556).
"""

from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

Head = Literal["imagenet", "small"]

STAGE_MULTIPLIERS = (1, 2, 4, 8, 8)
CONVOLUTIONS_PER_STAGE = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class Options(TypedDict, total=False):
    """Keyword arguments of every VGG, as :class:`VGG` describes them."""

    classes: int
    channels: int
    head: Head
    batch_norm: bool
    width: int


class VGG(nn.Module):
    """VGG network of arXiv:1409.1556.

    Five stages of 3x3 convolutions, each ended by a 2x2 max pooling, and a fully connected
    classifier. Parameters carry torchvision's names,
    `features.N` and `classifier.N`. Two heads exist:

    * `"imagenet"`: the paper's 4096-4096-classes classifier on a 7x7 map, for 224x224 inputs.
    * `"small"`: a 512-512-classes classifier (at `width=64`) on a 1x1 map, for inputs of up to
      32x32. Its poolings round sizes up, which changes nothing at 32x32 (16, 8, 4, 2, 1) and lets
      28x28 inputs reach 1x1 as well (14, 7, 4, 2, 1).
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int = 1000,
        channels: int = 3,
        head: Head = "imagenet",
        batch_norm: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS_PER_STAGE:
            raise ValueError(f"VGG depth is one of {sorted(CONVOLUTIONS_PER_STAGE)}, not {depth}")
        if head not in ("imagenet", "small"):
            raise ValueError(f"VGG head is 'imagenet' or 'small', not {head!r}")
        small = head == "small"
        side = 1 if small else 7
        maps = STAGE_MULTIPLIERS[-1] * width
        self.features = _features(depth, channels, width, batch_norm=batch_norm, ceil_mode=small)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        if small:
            self.classifier = _small_classifier(maps, classes)
        else:
            self.classifier = _imagenet_classifier(maps * side * side, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[batch, channels, height, width]` to logits `[batch, classes]`."""
        maps = self.avgpool(self.features(images))
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


def vgg11(**options: Unpack[Options]) -> VGG:
    """VGG-11, configuration A of arXiv:1409.1556."""
    return VGG(11, **options)


def vgg13(**options: Unpack[Options]) -> VGG:
    """VGG-13, configuration B of arXiv:1409.1556."""
    return VGG(13, **options)


def vgg16(**options: Unpack[Options]) -> VGG:
    """VGG-16, configuration D of arXiv:1409.1556."""
    return VGG(16, **options)


def vgg19(**options: Unpack[Options]) -> VGG:
    """VGG-19, configuration E of arXiv:1409.1556."""
    return VGG(19, **options)


def _features(
    depth: int, channels: int, width: int, *, batch_norm: bool, ceil_mode: bool
) -> nn.Sequential:
    """Map `[batch, channels, height, width]` to `[batch, 8 * width, height / 32, width / 32]`."""
    layers: list[nn.Module] = []
    for multiplier, convolutions in zip(
        STAGE_MULTIPLIERS, CONVOLUTIONS_PER_STAGE[depth], strict=True
    ):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, multiplier * width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(multiplier * width))
            layers.append(nn.ReLU())
            channels = multiplier * width
        layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=ceil_mode))
    return nn.Sequential(*layers)


def _imagenet_classifier(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )


def _small_classifier(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(),
        nn.Linear(features, features),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(features, features),
        nn.ReLU(),
        nn.Linear(features, classes),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
