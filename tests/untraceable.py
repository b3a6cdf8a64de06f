"""Networks whose forward no trace takes, as it looks at numbers, around lists of blocks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 6


def looks(x: Tensor) -> Tensor:
    """Branch on numbers, which no trace takes."""
    if float(x.abs().max()) > 1e6:
        raise ValueError("too large")
    return x


class Residual(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.drop, self.scale = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), scale

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        y = x if memory is None else x + memory.mean(1, keepdim=True)
        return x + self.drop(torch.tanh(self.linear(looks(y))))


def residuals(count: int) -> nn.ModuleList:
    return nn.ModuleList(Residual() for _ in range(count))


class Plain(nn.Module):
    """Reads its blocks' attributes, and gives a dictionary of a kind of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(4)

    def forward(self, x: Tensor) -> Any:
        x = looks(x)
        for block in self.blocks:
            x = block(x) if block.scale > 0 else x
        return OrderedDict(state=x)


class Pair(nn.Module):
    """Encoder and decoder; what is dropped behind the encoder is read by the decoder and given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.drop = residuals(3), residuals(3), nn.Dropout(0.3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = looks(x)
        for block in self.encoder:
            x = block(x)
        memory = self.drop(torch.tanh(x))
        y = self.drop(y)
        for block in self.decoder:
            y = block(y, memory=memory)
        return y, memory


class Repeated(nn.Module):
    """One block of a list of one, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = self.blocks[0](looks(x))
        return x


class Scaled(nn.Module):
    """Something is computed between two blocks, on what the first of them gave in place as well."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.drop = residuals(4), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(looks(x))
            x = self.drop(x) * 0.5 if i % 2 else x.add_(1.0)
        return x


class Biased(nn.Module):
    """The first block computes what the others are given besides the state."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, None]:
            if bias is None:
                bias = x.sin()[..., None] * x[..., None, :].cos()
            return x + torch.tanh(self.linear((bias @ x[..., None])[..., 0])), bias, None

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Biased.Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        bias = None
        for block in self.blocks:
            x, bias, _ = block(x, bias)
        return x


class Coins(nn.Module):
    """Draws a number before every block, and leaves the block out where it is small."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.blocks = residuals(4)
        for block in self.blocks:
            block.share = share

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        for block in self.blocks:
            if self.training and torch.rand([]) < block.share:
                continue
            x = block(x)
        return x


class Remembering(nn.Module):
    """Gives what has no graph: the largest number's place, and detached states."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = []
        for block in self.blocks:
            x = block(looks(x))
            states.append(x.detach()[:, :1])
        return x, torch.cat(states, 1), x.argmax(-1)


class Stage(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks, self.last = residuals(count), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x[:, ::2])


class Staged(nn.Module):
    """Lists in the items of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage(2), Stage(3)])

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean(1)


class Normed(nn.Module):
    """Statistics before, between and behind the blocks, which move once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(6)
        self.norms = nn.ModuleDict(
            {
                name: nn.BatchNorm1d(WIDTH, momentum=momentum)
                for name, momentum in (("stem", 0.1), ("middle", None), ("head", 0.5))
            }
        )

    def norm(self, name: str, x: Tensor) -> Tensor:
        return self.norms[name](x.transpose(1, 2)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm("stem", looks(x))
        for i, block in enumerate(self.blocks):
            x = block(self.norm("middle", x) if i == 3 else x)
        return self.norm("head", x)


class Branches(nn.Module):
    """Like modules side by side are no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(3)

    def forward(self, x: Tensor) -> Tensor:
        looks(x)
        return torch.stack([block(x) for block in self.blocks]).sum(0)
