"""A coarse propagator of one's own: a depthwise convolution in place of a residual stage.

python examples/own_coarse.py
"""

from __future__ import annotations

import torch
from torch import nn

from pararealize import Parareal, pararealize
from pararealize.ir.chain import TensorSpec
from pararealize.models import resnet


def depthwise(_fine: nn.Module, before: TensorSpec, after: TensorSpec) -> nn.Module:
    """A 3×3 depthwise and a 1×1 convolution, strided where the subnetwork shrinks the image."""
    channels, stride = before.shape[1], before.shape[2] // after.shape[2]
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, after.shape[1], 1, bias=False),
    )


def main() -> None:
    """Compile with it, say what it costs, and show one step of training."""
    net = pararealize(resnet(110), 4, method=Parareal(coarse=depthwise))
    print(net.explain())
    loss = net(torch.randn(2, 3, 32, 32)).logsumexp(1).mean()
    torch.autograd.backward(loss)
    print(net.report)


if __name__ == "__main__":
    main()
