"""Networks whose layers are chosen, left out, used again, or steps in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from studies.subjects import Style
from styles.science import WIDTH as FEATURES
from styles.science import features, mlp
from styles.sentences import WIDTH, WORDS, words


class MoE(nn.Module):
    """Experts work on the words that chose them; which do is asked of the numbers."""

    def __init__(self, experts: int = 3, k: int = 2) -> None:
        super().__init__()
        self.gate, self.k = nn.Linear(WIDTH, experts, bias=False), k
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 12), nn.SiLU(), nn.Linear(12, WIDTH))
            for _ in range(experts)
        )

    def forward(self, x):
        flat = x.view(-1, x.shape[-1])
        weights, chosen = torch.topk(self.gate(flat), self.k)
        weights = F.softmax(weights, dim=1)
        results = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            batch_idx, nth = torch.where(chosen == i)
            results[batch_idx] += weights[batch_idx, nth, None] * expert(flat[batch_idx])
        return x + results.view_as(x)


def experts() -> nn.Module:
    """Four layers of experts on embeddings."""
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), *(MoE() for _ in range(4)))


class Universal(nn.Module):
    """One layer, used again and again, told the time it is used at."""

    def __init__(self, steps: int = 6) -> None:
        super().__init__()
        self.embed, self.steps = nn.Embedding(WORDS, WIDTH), steps
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True)
        self.times = nn.Parameter(torch.randn(steps, WIDTH) * 0.1)

    def forward(self, idx):
        x = self.embed(idx)
        for t in self.times:
            x = self.layer(x + t)
        return x.mean(1)


class LayerDrop(nn.Module):
    """Leaves blocks out at random while it learns."""

    def __init__(self, depth: int = 6, p: float = 0.3) -> None:
        super().__init__()
        self.embed, self.p = nn.Embedding(WORDS, WIDTH), p
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))

    def forward(self, idx):
        x = self.embed(idx)
        for layer in self.layers:
            if not self.training or torch.rand(1).item() > self.p:
                x = x + torch.tanh(layer(x))
        return x


class ODE(nn.Module):
    """Euler's steps between given times."""

    def __init__(self, steps: int = 8) -> None:
        super().__init__()
        self.func = mlp(FEATURES + 1, 8, FEATURES)
        self.register_buffer("t", torch.linspace(0, 1, steps + 1))

    def forward(self, x):
        for t0, t1 in zip(self.t[:-1], self.t[1:]):
            h = t1 - t0
            x = x + h * self.func(torch.cat([x, t0.expand(x.size(0), 1)], -1))
        return x


class Timed(nn.Module):
    """Layers zipped with times, which are a plain list."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(depth))
        self.times = torch.linspace(0.0, 1.0, depth)

    def forward(self, x):
        for layer, t in zip(self.layers, self.times):
            x = x + 0.3 * torch.sin(layer(x) + t.to(x))
        return x


class Equilibrium(nn.Module):
    """A fixed point is looked for until steps are small, then one step has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.f = nn.Linear(FEATURES, 8), nn.Linear(8, 8)
        self.pre, self.post = mlp(FEATURES, 8, FEATURES), mlp(8, 8, 8, 3)
        nn.init.normal_(self.f.weight, std=0.05)

    def step(self, z, x):
        return torch.tanh(self.f(z) + x)

    def forward(self, x):
        x = self.inject(self.pre(x))
        z = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(30):
                new = self.step(z, x)
                if (new - z).norm() < 1e-5:
                    break
                z = new
        return self.post(self.step(z, x))


STYLES = {
    "mixture of experts": Style(experts, words, 7, 9),
    "universal transformer": Style(Universal, words, 6, 8),
    "LayerDrop by hand": Style(LayerDrop, words, 6, 8),
    "neural ODE, Euler between times": Style(ODE, features),
    "layers zipped with times": Style(Timed, features),
    "equilibrium, loop until small": Style(Equilibrium, features),
}
