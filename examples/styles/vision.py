"""Networks of images, further: patches with einops, spectra, weights that are made."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, reduce, repeat
from einops.layers.torch import Rearrange, Reduce
from torch import nn

from studies.subjects import Style
from styles.images import image


class PreNormResidual(nn.Module):
    """As in lucidrains' networks."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn, self.norm = fn, nn.LayerNorm(dim)

    def forward(self, x):
        return self.fn(self.norm(x)) + x


def mixer(depth: int = 4, dim: int = 8) -> nn.Module:
    """MLP-Mixer with einops' layers."""

    def feed(size: int, dense: type) -> nn.Module:
        if dense is nn.Conv1d:
            return nn.Sequential(nn.Conv1d(size, 12, 1), nn.GELU(), nn.Conv1d(12, size, 1))
        return nn.Sequential(nn.Linear(size, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, size))

    blocks = [
        nn.Sequential(
            PreNormResidual(dim, feed(9, nn.Conv1d)), PreNormResidual(dim, feed(dim, nn.Linear))
        )
        for _ in range(depth)
    ]
    stem = [Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=4, p2=4), nn.Linear(48, dim)]
    return nn.Sequential(*stem, *blocks, Reduce("b n c -> b c", "mean"), nn.Linear(dim, 5))


class Attention(nn.Module):
    """Heads taken apart and put together by einops' functions."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim**-0.5
        self.to_qkv, self.to_out = nn.Linear(dim, dim * 3, bias=False), nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in qkv)
        attn = (torch.matmul(q, k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
        return self.to_out(rearrange(torch.matmul(attn, v), "b h n d -> b n (h d)"))


class ViT(nn.Module):
    """A class token is repeated for the batch."""

    def __init__(self, depth: int = 4, dim: int = 8) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=4, p2=4), nn.Linear(48, dim)
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos = nn.Parameter(torch.randn(1, 17, dim))
        self.layers = nn.ModuleList([])
        for _ in range(depth):
            mlp = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, dim))
            self.layers.append(nn.ModuleList([Attention(dim), mlp]))
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.embed(x)
        b, n, _ = x.shape
        x = torch.cat((repeat(self.cls_token, "1 1 d -> b 1 d", b=b), x), dim=1)
        x = x + self.pos[:, : (n + 1)]
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.head(reduce(x, "b n d -> b d", "mean"))


class WindowAttention(nn.Module):
    """Windows by einops, whose number is asked of the image."""

    def __init__(self, depth: int = 4, dim: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 1)
        self.mix = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        x = self.stem(x)
        _, _, h, w = x.shape
        assert h % 2 == 0, "windows do not fit"
        assert w % 2 == 0, "windows do not fit"
        for layer in self.mix:
            y = rearrange(x, "b c (h i) (w j) -> (b h w) c (i j)", i=2, j=2)
            y = torch.tanh(layer(y))
            x = x + rearrange(y, "(b h w) c (i j) -> b c (h i) (w j)", h=h // 2, w=w // 2, i=2)
        return reduce(x, "b c h w -> b c", "max")


class SpectralConv2d(nn.Module):
    """Multiplies the lowest frequencies."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weights = nn.Parameter(torch.randn(width, width, modes, modes, 2) / width**2)

    def forward(self, x):
        batch = x.shape[0]
        ft = torch.fft.rfft2(x)
        out = torch.zeros(
            batch, x.size(1), x.size(-2), x.size(-1) // 2 + 1, dtype=ft.dtype, device=x.device
        )
        m = self.modes
        weights = torch.view_as_complex(self.weights)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", ft[:, :, :m, :m], weights)
        return torch.fft.irfft2(out, s=(x.size(-2), x.size(-1)))


class FNO(nn.Module):
    """Fourier neural operator with a grid that is made of sizes."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.p = nn.Linear(5, width)
        self.spectral = nn.ModuleList(SpectralConv2d(width, 3) for _ in range(4))
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))
        self.q = nn.Linear(width, 1)

    def get_grid(self, shape, x):
        b, h, w = shape[0], shape[1], shape[2]
        gy = torch.linspace(0, 1, h, dtype=x.dtype, device=x.device).reshape(1, h, 1, 1)
        gx = torch.linspace(0, 1, w, dtype=x.dtype, device=x.device).reshape(1, 1, w, 1)
        return torch.cat((gy.repeat([b, 1, w, 1]), gx.repeat([b, h, 1, 1])), dim=-1)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = self.p(torch.cat((x, self.get_grid(x.shape, x)), dim=-1)).permute(0, 3, 1, 2)
        for conv, w in zip(self.spectral, self.pointwise):
            x = F.gelu(conv(x) + w(x))
        return self.q(x.permute(0, 2, 3, 1))


class HyperConv(nn.Module):
    """Kernels are made by a small network from an embedding of the layer."""

    def __init__(self, depth: int = 5, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.z = nn.ParameterList(nn.Parameter(torch.randn(4)) for _ in range(depth))
        self.hyper = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, width * width * 9))
        self.width = width

    def forward(self, x):
        x = self.stem(x)
        for z in self.z:
            kernel = self.hyper(z).view(self.width, self.width, 3, 3)
            x = x + torch.tanh(F.conv2d(x, kernel, padding=1))
        return x


class StochasticDepth(nn.Module):
    """Drops the branches of single samples with a mask of the batch's size."""

    def __init__(self, depth: int = 6, dim: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 3, 2)
        self.blocks = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(depth))
        self.rates = [x.item() for x in torch.linspace(0, 0.3, depth)]

    def drop(self, x, p):
        if p == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = torch.rand(shape, dtype=x.dtype, device=x.device) < 1 - p
        return x / (1 - p) * mask

    def forward(self, x):
        x = self.stem(x)
        for block, rate in zip(self.blocks, self.rates):
            x = x + self.drop(F.relu(block(x)), rate)
        return x.flatten(2).mean(-1)


class Highway(nn.Module):
    """Gates of dense layers on flattened images, in lists zipped together."""

    def __init__(self, depth: int = 6, size: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(3, size)
        self.nonlinear = nn.ModuleList([nn.Linear(size, size) for _ in range(depth)])
        self.linear = nn.ModuleList([nn.Linear(size, size) for _ in range(depth)])
        self.gate = nn.ModuleList([nn.Linear(size, size) for _ in range(depth)])

    def forward(self, x):
        x = self.first(x.flatten(2).mean(-1))
        for gate, linear, nonlinear in zip(self.gate, self.linear, self.nonlinear):
            g = torch.sigmoid(gate(x))
            x = g * F.relu(nonlinear(x)) + (1 - g) * linear(x)
        return x


class Checkpointed(nn.Module):
    """Every block under activation checkpointing."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh())
            for _ in range(depth)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return x.sum((2, 3))


STYLES = {
    "MLP-Mixer, einops layers": Style(mixer, image, 12, None),
    "ViT, einops functions": Style(ViT, image, 16, 12),
    "windows, einops of sizes": Style(WindowAttention, image, 8, 12),
    "Fourier neural operator": Style(FNO, image, 8, 12),
    "hypernetwork": Style(HyperConv, image, 8, 6),
    "stochastic depth": Style(StochasticDepth, image, 9, 13),
    "highway": Style(Highway, image, 6, 9),
    "checkpointed blocks": Style(Checkpointed, image, 6, 9),
}
