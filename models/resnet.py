"""Pre-activation bottleneck residual networks.

He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS_PER_BLOCK = 3
STAGES = 3
EXPANSION = 4


class PreActBottleneck(nn.Module):
    """Pre-activation bottleneck block of arXiv:1603.05027, `y = s(x) + f(relu(bn1(x)))`.

    The branch is `f = conv3 relu bn3 conv2 relu bn2 conv1`, rightmost first.
    The shortcut `s` is the identity where input and output have the same shape; elsewhere it is a
    1x1 convolution of `relu(bn1(x))` with the stride that `conv1`, also 1x1, carries.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = outputs // EXPANSION
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inner, 1, stride=stride, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, inputs, h, w]` to `[batch, outputs, h / stride, w / stride]`."""
        activated = functional.relu(self.bn1(x))
        branch: Tensor = self.conv1(activated)
        branch = self.conv2(functional.relu(self.bn2(branch)))
        branch = self.conv3(functional.relu(self.bn3(branch)))
        if self.shortcut is None:
            return x + branch
        shortcut: Tensor = self.shortcut(activated)
        return shortcut + branch


class ResNet(nn.Module):
    """Pre-activation ResNet for small images, of arXiv:1603.05027.

    A 3x3 stem, three stages of `(depth - 2) / 9` bottleneck blocks with `4 * width`, `8 * width`
    and `16 * width` outputs, and a linear classifier of the globally averaged maps.
    """

    def __init__(
        self, depth: int, *, classes: int = 10, channels: int = 3, width: int = 16
    ) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth)
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, width, outputs, stride=1)
        self.layer2 = _stage(blocks, outputs, 2 * outputs, stride=2)
        self.layer3 = _stage(blocks, 2 * outputs, 4 * outputs, stride=2)
        self.bn = nn.BatchNorm2d(4 * outputs)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * outputs, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[batch, channels, height, width]` to logits `[batch, classes]`."""
        maps = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        pooled = self.avgpool(self.relu(self.bn(maps)))
        logits: Tensor = self.fc(torch.flatten(pooled, 1))
        return logits


def resnet(depth: int, *, classes: int = 10, channels: int = 3, width: int = 16) -> ResNet:
    """Pre-activation ResNet (arXiv:1603.05027) of any depth `9k + 2`: 56, 110, 164, ..., 1001."""
    return ResNet(depth, classes=classes, channels=channels, width=width)


def resnet56() -> ResNet:
    """ResNet-56 of arXiv:1603.05027: 18 bottleneck blocks, three-channel images, ten classes."""
    return resnet(56)


def resnet164() -> ResNet:
    """ResNet-164 of arXiv:1603.05027: 54 bottleneck blocks, three-channel images, ten classes."""
    return resnet(164)


def resnet1001() -> ResNet:
    """ResNet-1001 of arXiv:1603.05027: 333 bottleneck blocks, three-channel images, ten classes."""
    return resnet(1001)


def _blocks_per_stage(depth: int) -> int:
    """Solve `depth = 9 * blocks + 2`."""
    step = STAGES * CONVOLUTIONS_PER_BLOCK
    blocks, excess = divmod(depth - 2, step)
    if blocks >= 1 and excess == 0:
        return blocks
    valid = [step * k + 2 for k in (blocks, blocks + 1) if k >= 1] or [step + 2]
    raise ValueError(
        f"ResNet depth is 9k + 2 for k = 1, 2, ..., not {depth}; "
        f"nearest valid depths: {', '.join(map(str, valid))}"
    )


def _stage(blocks: int, inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        PreActBottleneck(inputs, outputs, stride),
        *(PreActBottleneck(outputs, outputs) for _ in range(blocks - 1)),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
