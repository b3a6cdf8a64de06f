"""Small networks of many shapes: skips, ties, branches, dictionaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, TOKENS = 16, 50


def mlp() -> nn.Module:
    """Eight layers with dropout."""
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.3)) for _ in range(8)]
    return nn.Sequential(*layers)


def convolution(channels: int, filters: int) -> nn.Module:
    """A convolution that keeps the size, and its activation."""
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    """Three levels down, three up, the way up beside what the way down left."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(convolution(*size) for size in ((3, 4), (4, 8), (8, 8)))
        self.middle = convolution(8, 8)
        self.up = nn.ModuleList(convolution(*size) for size in ((16, 8), (16, 4), (8, 4)))
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the image's size."""
        seen = []
        for layer in self.down:
            seen.append(layer(x))
            x = self.pool(seen[-1])
        x = self.middle(x)
        for layer in self.up:
            x = layer(torch.cat([seen.pop(), self.grow(x)], 1))
        return x


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
        self.encoder = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.decoder = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(6))

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
