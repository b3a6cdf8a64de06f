"""Networks of images: skips, conditions, masks and routings."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from studies.subjects import Style


def image(batch: int, side: int) -> dict[str, Tensor]:
    """Colour images."""
    return {"x": torch.randn(batch, 3, side, side)}


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with statistics."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Pads what comes up to the size of what went down."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = block(3, 4)
        self.downs = nn.ModuleList([block(4, 8), block(8, 8), block(8, 8)])
        self.ups = nn.ModuleList([block(16, 8), block(16, 4), block(8, 4)])
        self.outc = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skips = [self.inc(x)]
        for down in self.downs:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up in self.ups:
            skip = skips.pop()
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            diff_y = skip.size()[2] - x.size()[2]
            diff_x = skip.size()[3] - x.size()[3]
            x = F.pad(x, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
            x = up(torch.cat([skip, x], dim=1))
        return self.outc(x)


class SkipDictionary(nn.Module):
    """An autoencoder that keeps its skips in a dictionary by level."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {f"e{i}": nn.Conv2d(3 if i == 0 else 6, 6, 3, 1, 1) for i in range(4)}
        )
        self.decoder = nn.ModuleDict(
            {f"d{i}": nn.Conv2d(6, 6 if i else 3, 3, 1, 1) for i in range(4)}
        )

    def forward(self, x):
        skips = {}
        for name, layer in self.encoder.items():
            x = torch.relu(layer(x))
            skips[name] = x
        for i in reversed(range(4)):
            x = self.decoder[f"d{i}"](x + skips[f"e{i}"])
            if i > 0:
                x = F.leaky_relu(x, 0.1)
        return OrderedDict(reconstruction=x, code=skips["e3"].mean(dim=(2, 3)))


class DenseBlock(nn.Module):
    """Every layer sees all that came before."""

    def __init__(self, channels: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(count)
        )

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1)


def densenet() -> nn.Module:
    """Dense blocks with transitions."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        DenseBlock(4, 4, 4),
        nn.Sequential(nn.Conv2d(20, 8, 1), nn.AvgPool2d(2)),
        DenseBlock(8, 4, 4),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)),
    )


class SqueezeExcite(nn.Module):
    """A residual block whose channels are weighed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Sequential(
            nn.Linear(channels, 2), nn.ReLU(), nn.Linear(2, channels), nn.Sigmoid()
        )

    def forward(self, x):
        y = self.bn(self.conv(x))
        b, c, _, _ = y.size()
        w = self.fc(F.adaptive_avg_pool2d(y, 1).view(b, c)).view(b, c, 1, 1)
        return F.relu(x + y * w.expand_as(y))


def squeeze_excite() -> nn.Module:
    """Eight of them."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *(SqueezeExcite(8) for _ in range(8)), *head)


class MaskedConv2d(nn.Conv2d):
    """Looks at what is above and to the left; writes on its weight in every call."""

    def __init__(self, kind: str, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones_like(self.weight))
        _, _, h, w = self.weight.shape
        self.mask[:, :, h // 2, w // 2 + (kind == "B") :] = 0
        self.mask[:, :, h // 2 + 1 :] = 0

    def forward(self, x):
        self.weight.data *= self.mask
        return super().forward(x)


def pixel_cnn() -> nn.Module:
    """Masked convolutions."""
    middle = [nn.Sequential(MaskedConv2d("B", 6, 6, 3, padding=1), nn.ReLU()) for _ in range(6)]
    return nn.Sequential(MaskedConv2d("A", 3, 6, 5, padding=2), *middle, nn.Conv2d(6, 12, 1))


class Capsules(nn.Module):
    """Routing by agreement: logits that begin as zeros are updated in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2))
        self.W = nn.Parameter(torch.randn(1, 16, 3, 6, 4) * 0.1)

    @staticmethod
    def squash(s):
        norm = (s**2).sum(-1, keepdim=True)
        return norm / (1 + norm) * s / (norm + 1e-8).sqrt()

    def forward(self, x):
        x = self.conv(x)
        u = self.squash(x.view(x.size(0), -1, 4))[:, :16]
        u_hat = (self.W @ u[:, :, None, :, None]).squeeze(-1)
        b = torch.zeros(x.size(0), 16, 3, 1, dtype=x.dtype, device=x.device)
        for i in range(3):
            c = F.softmax(b, dim=2)
            v = self.squash((c * u_hat).sum(dim=1, keepdim=True))
            if i < 2:
                b = b + (u_hat * v).sum(-1, keepdim=True)
        return v.squeeze(1).norm(dim=-1)


class FiLM(nn.Module):
    """Blocks scaled and shifted by what a condition says."""

    def __init__(self, depth: int = 6, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.embed = nn.Embedding(10, 8)
        self.films = nn.Linear(8, depth * 2 * width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.depth, self.width = depth, width

    def forward(self, x, label):
        film = self.films(self.embed(label)).view(-1, self.depth, 2, self.width)
        x = self.stem(x)
        for i, conv in enumerate(self.convs):
            gamma, beta = film[:, i, 0], film[:, i, 1]
            x = x + F.relu(conv(x) * gamma[..., None, None] + beta[..., None, None])
        return x.mean((-2, -1))


class Siamese(nn.Module):
    """One network for two images."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(block(3, 6), nn.MaxPool2d(2), block(6, 6), nn.AdaptiveAvgPool2d(2))
        self.fc = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward_once(self, x):
        x = self.cnn(x)
        return self.fc(x.view(x.size()[0], -1))

    def forward(self, x, other):
        a, b = self.forward_once(x), self.forward_once(other)
        return F.pairwise_distance(a, b), a, b


class Critic(nn.Module):
    """WGAN's, with spectral norms of the old kind in every other layer."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        for i in range(6):
            conv = nn.Conv2d(3 if i == 0 else 6, 6, 3, 1, 1)
            layers += [nn.utils.spectral_norm(conv) if i % 2 else conv, nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers)
        self.last = nn.Linear(6, 1)

    def forward(self, x):
        return self.last(self.main(x).sum(dim=[2, 3])).view(-1)


class Pyramid(nn.Module):
    """Lateral connections from the top down; a list of maps comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom_up = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, 2, 1) for i in range(4))
        self.lateral = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(4))
        self.smooth = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))

    def forward(self, x):
        maps = []
        for layer in self.bottom_up:
            x = F.relu(layer(x))
            maps.append(x)
        p = [self.lateral[-1](maps[-1])]
        for i in range(len(maps) - 2, -1, -1):
            up = F.interpolate(p[0], size=maps[i].shape[-2:], mode="nearest")
            p.insert(0, self.lateral[i](maps[i]) + up)
        return [s(q) for s, q in zip(self.smooth, p)] + p[-1:]


def conditioned(batch: int, side: int) -> dict[str, Tensor]:
    """Images with labels."""
    return {**image(batch, side), "label": torch.randint(10, (batch,))}


def twice(batch: int, side: int) -> dict[str, Tensor]:
    """Pairs of images."""
    return {**image(batch, side), "other": torch.randn(batch, 3, side, side)}


STYLES = {
    "U-Net, padded": Style(UNet, image, 17, 22),
    "autoencoder, skip dictionary": Style(SkipDictionary, image, 12, 9),
    "DenseNet": Style(densenet, image, 12, 16),
    "squeeze-excite": Style(squeeze_excite, image, 12, 9),
    "PixelCNN, masked weights": Style(pixel_cnn, image, 10, 8),
    "capsules, routing": Style(Capsules, image, 14, 18),
    "FiLM": Style(FiLM, conditioned, 10, 7),
    "siamese": Style(Siamese, twice, 12, 16),
    "WGAN critic, spectral norm": Style(Critic, image, 12, 9),
    "feature pyramid": Style(Pyramid, image, 32, 40),
}
