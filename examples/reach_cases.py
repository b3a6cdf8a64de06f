"""The networks of ``reach.py``, each with the inputs of a call and where a pipeline is split."""

from __future__ import annotations

import warnings
from functools import partial

import reach_networks as networks
import torch
from torch import Tensor, nn

from pararealize.cli.specs import load_model
from pararealize.models import resnet
from studies.reach import Case

TORCHVISION = (
    ("vgg11_bn", 32, ("features.11", "features.22")),
    ("resnet18", 64, ("layer2", "layer4")),
    ("densenet121", 64, ("features.denseblock3", "features.denseblock4")),
    ("googlenet", 64, ("inception4a", "inception5a")),
)


def cases() -> list[Case]:
    """All networks."""
    return [*plain(), *connected(), *other(), *(torchvision(*each) for each in TORCHVISION)]


def plain() -> list[Case]:
    """Chains with layers that have two modes."""
    encoder = ("encoder.layers.2", "encoder.layers.4")
    return [
        Case("MLP, dropout", networks.mlp, {"input": features()}, ("3", "6")),
        Case("ResNet-20", partial(resnet, 20), {"images": image(16)}, ("layer2.0", "layer3.0")),
        Case("TransformerEncoder", networks.Transformer, {"tokens": tokens()}, encoder),
    ]


def connected() -> list[Case]:
    """Values that go past layers, in so many pieces that no tool can cut only beside them."""
    x, y = features(), features()
    unet = ("down.1", "down.2", "middle", *(f"up.{i}" for i in range(3)))
    decoder = tuple(f"decoder.{i}" for i in range(5))
    dense = tuple(f"layers.{i}" for i in range(1, 6))
    return [
        Case("U-Net", networks.UNet, {"x": image(16)}, unet),
        Case("encoder-decoder", networks.EncoderDecoder, {"source": x, "target": y}, decoder),
        Case("dense connections", networks.Dense, {"x": x}, dense),
        Case("input used again", networks.InputAgain, {"x": x}, ("layers.2", "layers.4")),
    ]


def other() -> list[Case]:
    """One peculiarity each."""
    inner = ("layers.2", "layers.4")
    sequence = torch.randn(2, 5, networks.WIDTH, dtype=torch.float64)
    return [
        Case("tied embedding", networks.Tied, {"tokens": tokens()}, inner),
        Case("data-dependent branch", networks.branching, {"input": features()}, ("2", "5")),
        Case("LSTM, batch first", networks.Recurrent, {"x": sequence}, ("layers.1", "layers.2")),
        Case("dict output", networks.Named, {"x": features()}, inner),
    ]


def features() -> Tensor:
    """Four samples."""
    return torch.randn(4, networks.WIDTH, dtype=torch.float64)


def tokens() -> Tensor:
    """Two short texts."""
    return torch.randint(networks.TOKENS, (2, 5))


def image(side: int) -> Tensor:
    """Four images."""
    return torch.randn(4, 3, side, side, dtype=torch.float64)


def torchvision(name: str, side: int, splits: tuple[str, ...]) -> Case:
    """One of torchvision's networks on small images."""
    return Case(name, partial(quietly, f"torchvision:{name}"), {"x": image(side)}, splits)


def quietly(spec: str) -> nn.Module:
    """The network, without torchvision's advice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(spec)
