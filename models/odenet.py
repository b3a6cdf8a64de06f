"""Residual networks read as forward Euler for an ordinary differential equation.

Haber and Ruthotto, "Stable Architectures for Deep Neural Networks" (arXiv:1705.03341), and Chen,
Rubanova, Bettencourt and Duvenaud, "Neural Ordinary Differential Equations" (arXiv:1806.07366).
"""

from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["dense", "conv"]


class DenseStep(nn.Module):
    """Forward Euler step of a dense layer (arXiv:1705.03341), `y = x + dt * tanh(W x + b)`."""

    def __init__(self, width: int, dt: float) -> None:
        super().__init__()
        self.dt = dt
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, width]` to the same shape."""
        return x + self.dt * torch.tanh(self.linear(x))


class ConvStep(nn.Module):
    """Forward Euler step (arXiv:1806.07366), `y = x + dt * relu(conv2(relu(conv1(x))))`."""

    def __init__(self, width: int, dt: float) -> None:
        super().__init__()
        self.dt = dt
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, channels, height, width]` to the same shape."""
        return x + self.dt * functional.relu(self.conv2(functional.relu(self.conv1(x))))


class Options(TypedDict, total=False):
    """Keyword arguments of an ODE net, as :class:`ODENet` describes them."""

    width: int
    kind: Kind
    horizon: float
    in_features: int | None
    classes: int


class ODENet(nn.Module):
    """Neural ODE chain of arXiv:1705.03341 and arXiv:1806.07366.

    `opening`, then `layers` forward Euler steps of `dx/dt = f(t, x)` on `[0, horizon]` with
    `dt = horizon / layers`, then `closing`. `in_features` counts the inputs of one example for
    dense steps (784 by default, after flattening) and the image channels for convolutional ones (1
    by default).
    """

    def __init__(
        self,
        layers: int,
        *,
        width: int = 64,
        kind: Kind = "dense",
        horizon: float = 1.0,
        in_features: int | None = None,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"an ODE net has at least one layer, not {layers}")
        dt = horizon / layers
        if kind == "dense":
            inputs = 784 if in_features is None else in_features
            self.opening = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width))
            self.steps = nn.Sequential(*(DenseStep(width, dt) for _ in range(layers)))
            self.closing = nn.Sequential(nn.Linear(width, classes))
        elif kind == "conv":
            inputs = 1 if in_features is None else in_features
            self.opening = nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1))
            self.steps = nn.Sequential(*(ConvStep(width, dt) for _ in range(layers)))
            self.closing = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
            )
        else:
            raise ValueError(f"ODE net kind is 'dense' or 'conv', not {kind!r}")

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[batch, channels, height, width]`, or dense features, to `[batch, classes]`."""
        logits: Tensor = self.closing(self.steps(self.opening(inputs)))
        return logits


def odenet(layers: int, **options: Unpack[Options]) -> ODENet:
    """Neural ODE chain (arXiv:1705.03341, arXiv:1806.07366) of `layers` forward Euler steps."""
    return ODENet(layers, **options)
