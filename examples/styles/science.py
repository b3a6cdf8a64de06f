"""Networks of physics and statistics: flows, equations, derivatives inside, distributions."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from studies.subjects import Style

WIDTH = 6


def features(batch: int, _: int) -> dict[str, Tensor]:
    """Six numbers a sample."""
    return {"x": torch.randn(batch, WIDTH)}


def mlp(*widths: int) -> nn.Sequential:
    """Dense layers with smooth activations between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    """Draws from torch's distributions, and gives their divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(WIDTH, 8, 8, 8), mlp(3, 8, 8, 8, WIDTH)
        self.mu, self.sigma = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.encoder(x)
        posterior = Normal(self.mu(h), F.softplus(self.sigma(h)) + 1e-4)
        prior = Normal(torch.zeros_like(posterior.loc), torch.ones_like(posterior.scale))
        z = posterior.rsample()
        kl = torch.distributions.kl_divergence(posterior, prior).sum(-1)
        return self.decoder(z), kl


class Actor(nn.Module):
    """Actor and critic: log-probabilities of actions, entropy, a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(WIDTH, 8, 8, 8, 8)
        self.mean, self.policy, self.value = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(8, 1)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x, action):
        h = self.body(x)
        dist = Independent(Normal(self.mean(h), self.log_std.exp().expand(x.shape[0], 2)), 1)
        choice = Categorical(logits=self.policy(h))
        return dist.log_prob(action), choice.entropy(), self.value(h).squeeze(-1)


class Score(nn.Module):
    """The score is the gradient of a scalar network with respect to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = mlp(WIDTH, 8, 8, 8, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(x).sum()
            return -torch.autograd.grad(energy, x, create_graph=True)[0]


class Forces(nn.Module):
    """Energies of molecules, and forces as their derivative by positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pair = nn.Embedding(5, 6), mlp(13, 8, 8)
        self.updates, self.out = nn.ModuleList(mlp(8, 8, 8) for _ in range(4)), nn.Linear(8, 1)

    def forward(self, z, pos):
        pos = pos.clone().requires_grad_()
        d = (pos.unsqueeze(1) - pos.unsqueeze(2)).pow(2).sum(-1, keepdim=True).add(1e-6).sqrt()
        h = self.embed(z)
        n = z.size(1)
        a, b = h.unsqueeze(1).expand(-1, n, -1, -1), h.unsqueeze(2).expand(-1, -1, n, -1)
        h = self.pair(torch.cat([a, b, d], -1)).sum(2)
        for update in self.updates:
            h = h + update(h)
        energy = self.out(h).sum((1, 2))
        (grad,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        return energy, -grad


class PINN(nn.Module):
    """The residual of the heat equation, by derivatives of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 8, 8, 8, 8, 1)

    def forward(self, x, t):
        x = x.requires_grad_(True)
        t = t.requires_grad_(True)
        u = self.net(torch.cat([x, t], dim=1))
        ones = torch.ones_like(u)
        u_t = torch.autograd.grad(u, t, ones, retain_graph=True, create_graph=True)[0]
        u_x = torch.autograd.grad(u, x, ones, retain_graph=True, create_graph=True)[0]
        u_xx = torch.autograd.grad(u_x, x, torch.ones_like(u_x), create_graph=True)[0]
        return u, u_t - 0.1 * u_xx


class Hamiltonian(nn.Module):
    """Steps of leapfrog by the gradient of an energy."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.potentials = nn.ModuleList(mlp(3, 8, 1) for _ in range(steps))

    def forward(self, x):
        q, p = torch.chunk(x, 2, dim=-1)
        q = q.requires_grad_() if not q.requires_grad else q
        for potential in self.potentials:
            dh = torch.autograd.grad(potential(q).sum(), q, create_graph=True)[0]
            p = p - 0.1 * dh
            q = q + 0.1 * p
        return torch.cat([q, p], -1)


class Coupling(nn.Module):
    """Half of the numbers are scaled and shifted by the other half."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.s, self.t = mlp(WIDTH, 8, WIDTH), mlp(WIDTH, 8, WIDTH)

    def forward(self, x):
        x_ = x * self.mask
        s, t = torch.tanh(self.s(x_)) * (1 - self.mask), self.t(x_) * (1 - self.mask)
        return x_ + (1 - self.mask) * (x * torch.exp(s) + t), s.sum(dim=1)


class RealNVP(nn.Module):
    """The logarithm of a determinant is summed in zeros of the batch's size."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        mask = torch.arange(WIDTH) % 2
        self.flows = nn.ModuleList(Coupling((mask + i) % 2) for i in range(depth))

    def forward(self, x):
        log_det_J, z = x.new_zeros(x.shape[0]), x
        for flow in self.flows:
            z, ldj = flow(z)
            log_det_J += ldj
        return z, -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + log_det_J


class KANLayer(nn.Module):
    """Splines on a grid that is a buffer."""

    def __init__(self, inputs: int, outputs: int, grid: int = 3, order: int = 2) -> None:
        super().__init__()
        h = 2 / grid
        knots = torch.arange(-order, grid + order + 1) * h - 1
        self.register_buffer("grid", knots.expand(inputs, -1).contiguous())
        self.base = nn.Parameter(torch.randn(outputs, inputs) * 0.3)
        self.spline = nn.Parameter(torch.randn(outputs, inputs, grid + order) * 0.1)
        self.order = order

    def b_splines(self, x):
        assert x.dim() == 2
        assert x.size(1) == self.grid.size(0)
        grid, x = self.grid, x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:(-k)])
            bases = left * bases[:, :, :-1] + right * bases[:, :, 1:]
        return bases.contiguous()

    def forward(self, x):
        shape = x.shape
        x = x.view(-1, shape[-1])
        y = F.linear(F.silu(x), self.base) + F.linear(
            self.b_splines(x).view(x.size(0), -1), self.spline.view(self.spline.size(0), -1)
        )
        return y.view(*shape[:-1], y.size(-1))


def kan() -> nn.Module:
    """Five layers of splines."""
    return nn.Sequential(*(KANLayer(WIDTH, WIDTH) for _ in range(5)))


class Denoiser(nn.Module):
    """Sinusoids of the time go into every block, and the input comes back in the middle."""

    def __init__(self, depth: int = 6, dim: int = 8) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.first, self.again = nn.Linear(WIDTH, dim), nn.Linear(dim + WIDTH, dim)
        self.blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.times = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.dim = dim

    def forward(self, x, t):
        half = self.dim // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        args = t[:, None].to(x) * freqs[None].to(x)
        emb = self.time(torch.cat([torch.cos(args), torch.sin(args)], dim=-1))
        h = self.first(x)
        for i, (block, time) in enumerate(zip(self.blocks, self.times)):
            if i == 3:
                h = self.again(torch.cat([h, x], -1))
            h = h + F.silu(block(h) + time(emb))
        return h


def acted(batch: int, _: int) -> dict[str, Tensor]:
    """What is seen, and what was done."""
    return {**features(batch, 0), "action": torch.randn(batch, 2)}


def molecules(batch: int, atoms: int) -> dict[str, Tensor]:
    """Kinds of atoms and where they are."""
    return {"z": torch.randint(5, (batch, atoms)), "pos": torch.randn(batch, atoms, 3)}


def noised(batch: int, _: int) -> dict[str, Tensor]:
    """Samples, and times."""
    return {**features(batch, 0), "t": torch.randint(1000, (batch,))}


def spacetime(batch: int, _: int) -> dict[str, Tensor]:
    """Places and times."""
    return {"x": torch.rand(batch, 1), "t": torch.rand(batch, 1)}


STYLES = {
    "VAE, torch.distributions": Style(VAE, features),
    "actor and critic, distributions": Style(Actor, acted),
    "score, autograd.grad": Style(Score, features),
    "forces, autograd.grad": Style(Forces, molecules, 4, 5),
    "PINN, second derivatives": Style(PINN, spacetime),
    "Hamiltonian steps, autograd.grad": Style(Hamiltonian, features),
    "RealNVP": Style(RealNVP, features),
    "KAN, splines": Style(kan, features),
    "denoiser, sinusoids": Style(Denoiser, noised),
}
