"""Masks that a network hands its blocks only where something is to be masked."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
WIDTH, WORDS, PAD = 6, 20, 3
EXACT = Parareal(coarse="fine", correction="difference")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        mean = x.mean(1, keepdim=True) if mask is None else (x * mask).sum(1, keepdim=True)
        return x + scale * torch.tanh(self.linear(x - mean))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=PAD)
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def through(self, x: Tensor, kept: Tensor, **others: Any) -> Tensor:
        """As networks of transformers do, with no mask where there is nothing to mask."""
        mask = None if bool(kept.all()) else kept[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask=mask, **others)
        return x


class WithMask(Encoder):
    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        return self.through(self.embed(words), mask != 0)


class WithPadding(Encoder):
    def forward(self, words: Tensor) -> Tensor:
        return self.through(self.embed(words), words != PAD)


class WithIgnored(Encoder):
    """What is True is left out, as of ``key_padding_mask``."""

    def forward(self, words: Tensor, ignored: Tensor) -> Tensor:
        return self.through(self.embed(words), ~ignored)


class WithFactors(Encoder):
    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        return self.through(x, factors != 0)


class Loud(Encoder):
    """What it hands its blocks depends on numbers that no padding shows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x, torch.ones(x.shape[:2]), scale=0.5 if float(x.max()) > 50 else 1.0)


def words() -> Tensor:
    return torch.randint(PAD + 1, WORDS, (3, 8))


def inputs(kind: type[nn.Module], padded: bool) -> tuple[Tensor, ...]:
    ones = torch.ones(3, 8, dtype=torch.long)
    if padded:
        ones[1:, 5:] = 0
    if kind is WithMask:
        return words(), ones
    if kind is WithPadding:
        return (torch.where(ones == 0, PAD, words()),)
    if kind is WithIgnored:
        return words(), ones == 0
    return torch.randn(3, 8, WIDTH).double(), ones.double()


@pytest.mark.parametrize("kind", [WithMask, WithPadding, WithIgnored, WithFactors])
@pytest.mark.parametrize("compiled_with", [False, True])
def test_one_program_serves_inputs_with_padding_and_without(
    kind: type[nn.Module], compiled_with: bool
) -> None:
    torch.manual_seed(0)
    model = kind().double()
    net = pararealize(model, 2, method=EXACT, example_inputs=inputs(kind, compiled_with))
    for padded in (False, True, False):
        given = inputs(kind, padded)
        for training in (True, False):
            assert torch.equal(net.train(training)(*given), model.train(training)(*given))


def test_other_values_than_tensors_are_an_error_and_no_other_answer() -> None:
    torch.manual_seed(0)
    model, x = Loud().double(), torch.randn(3, 8, WIDTH).double()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net(x), model(x))
    with pytest.raises(ShapeError, match=r"hands 0.5 to blocks.0, where it was 1.0"):
        net(100 * x)
    assert torch.equal(net(x), model(x))
