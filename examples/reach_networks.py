"""Small networks of many shapes, each with the inputs of a call and where a pipeline is split."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor, nn

from pararealize.models import resnet
from pararealize.specs import load_model
from pararealize.studies.reach import Case

WIDTH, TOKENS = 16, 50


def mlp() -> nn.Module:
    """Eight layers with dropout."""
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.3)) for _ in range(8)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down, two up, the way up beside what the way down left."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the image's size."""
        a = torch.relu(self.down1(x))
        b = torch.relu(self.down2(self.pool(a)))
        c = torch.relu(self.middle(self.pool(b)))
        d = torch.relu(self.up2(torch.cat([b, self.grow(c)], 1)))
        e = torch.relu(self.up1(torch.cat([a, self.grow(d)], 1)))
        result: Tensor = self.last(e)
        return result


class Residuals(nn.Module):
    """Six residual layers, and what a sub-class adds to them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        """The state after the layers."""
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class InputAgain(Residuals):
    """The input comes back before the last layer, as a coordinate does in a radiance field."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2 * WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Four numbers a sample."""
        result: Tensor = self.last(torch.cat([super().forward(x), x], 1))
        return result


class EncoderDecoder(nn.Module):
    """Every layer of the decoder looks at what the encoder made of another input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.decoder = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(4))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The decoder's last state."""
        for layer in self.encoder:
            source = torch.tanh(layer(source))
        for layer in self.decoder:
            target = target + torch.tanh(layer(torch.cat([source, target], 1)))
        return target


class Dense(nn.Module):
    """Every layer sees all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH + 4 * i, 4) for i in range(6))
        self.last = nn.Linear(WIDTH + 24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Four numbers a sample."""
        seen = [x]
        for layer in self.layers:
            seen.append(torch.tanh(layer(torch.cat(seen, 1))))
        result: Tensor = self.last(torch.cat(seen, 1))
        return result


class Tied(Residuals):
    """Scores of the next token by the transposed embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.scores = nn.Linear(WIDTH, TOKENS, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, length]`` to ``[batch, length, TOKENS]``."""
        result: Tensor = self.scores(super().forward(self.embedding(tokens)))
        return result


class Branch(nn.Module):
    """A layer whose code asks for the value of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The layer, or a damped one where the input is large."""
        y: Tensor = self.linear(x)
        return y / 2 if x.norm() > 1 else y


def branching() -> nn.Module:
    """A data-dependent branch in the middle of a plain chain."""
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(6)]
    return nn.Sequential(*layers[:3], Branch(), *layers[3:])


class Transformer(nn.Module):
    """torch's own encoder between an embedding and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.1, batch_first=True)
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 6)
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Four numbers a sequence."""
        result: Tensor = self.last(self.encoder(self.embedding(tokens)).mean(1))
        return result


class Recurrent(nn.Module):
    """LSTMs one after another, and a classifier of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(WIDTH, WIDTH, batch_first=True) for _ in range(3))
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Four numbers a sequence."""
        for layer in self.layers:
            x, _ = layer(x)
        result: Tensor = self.last(x[:, -1])
        return result


class Named(Residuals):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.place = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Scores of four kinds, and a place in the plane."""
        x = super().forward(x)
        return {"scores": self.scores(x), "place": self.place(x)}


def image(side: int, name: str = "x") -> dict[str, Tensor]:
    """Four images."""
    return {name: torch.randn(4, 3, side, side, dtype=torch.float64)}


def cases() -> list[Case]:
    """All networks."""
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    sequence = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    tokens = torch.randint(TOKENS, (2, 5))
    inner = ("layers.2", "layers.4")
    return [
        Case("MLP, dropout", mlp, {"input": x}, ("3", "6")),
        Case("ResNet-20", partial(resnet, 20), image(16, "images"), ("layer2.0", "layer3.0")),
        Case("U-Net", UNet, image(16), ("middle", "up1")),
        Case("input used again", InputAgain, {"x": x}, inner),
        Case(
            "encoder-decoder",
            EncoderDecoder,
            {"source": x, "target": x + 1},
            ("decoder.0", "decoder.2"),
        ),
        Case("dense connections", Dense, {"x": x}, inner),
        Case("tied embedding", Tied, {"tokens": tokens}, inner),
        Case("data-dependent branch", branching, {"input": x}, ("2", "5")),
        Case(
            "nn.TransformerEncoder",
            Transformer,
            {"tokens": tokens},
            ("encoder.layers.2", "encoder.layers.4"),
        ),
        Case("LSTM", Recurrent, {"x": sequence}, ("layers.1", "layers.2")),
        Case("dict output", Named, {"x": x}, inner),
        *(torchvision(*each) for each in TORCHVISION),
    ]


TORCHVISION = (
    ("vgg11_bn", 32, ("features.11", "features.22")),
    ("resnet18", 64, ("layer2", "layer4")),
    ("densenet121", 64, ("features.denseblock3", "features.denseblock4")),
    ("googlenet", 64, ("inception4a", "inception5a")),
)


def torchvision(name: str, side: int, splits: tuple[str, ...]) -> Case:
    """One of torchvision's networks on small images."""
    return Case(name, partial(quietly, f"torchvision:{name}"), image(side), splits)


def quietly(spec: str) -> nn.Module:
    """The network, without torchvision's advice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(spec)
