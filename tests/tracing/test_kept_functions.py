"""Functions of other libraries are recorded whole: packed sequences, distributions, einops."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn
from torch.distributions import Beta, Categorical, MultivariateNormal, Normal, kl_divergence
from torch.nn.utils import rnn
from torch.nn.utils.rnn import pack_padded_sequence

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]
EXACT = Parareal(coarse="fine", correction="difference")


class Packing(nn.Module):
    """Packs by a name of its own, and by the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.ModuleList(Block() for _ in range(3))
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.after = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for block in self.before:
            x = block(x)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        for block in self.after:
            x = block(x)
        return x


class Padding(Packing):
    """Packs a list of sequences."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for block in self.before:
            x = block(x)
        packed = rnn.pack_sequence([x[0], x[1, :2], x[2, :1]])
        _, last = self.rnn(packed)
        x = rnn.pad_sequence([last[0], x[0]], batch_first=True) + lengths.sum()
        for block in self.after:
            x = block(x)
        return x


class Sampling(nn.Module):
    """Draws from normal distributions, and gives their divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.ModuleList(Block() for _ in range(3))
        self.decode = nn.ModuleList(Block() for _ in range(3))

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = Normal(x, x.exp())
        prior = Normal(torch.zeros_like(posterior.loc), torch.ones_like(x))
        assert isinstance(prior, distributions.Normal)
        return posterior.rsample(), kl_divergence(posterior, prior).sum(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.encode:
            x = block(x)
        x, other = self.draw(x)
        for block in self.decode:
            x = block(x)
        return x, other


class Choosing(Sampling):
    """The entropy and the likeliest of classes."""

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        choice = Categorical(logits=x)
        return x * choice.entropy()[:, None], choice.log_prob(choice.probs.argmax(-1))


class Correlated(Sampling):
    """By the library's names, and of two kinds."""

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drawn = distributions.MultivariateNormal(x, torch.eye(4, dtype=x.dtype)).rsample()
        weight = Beta(x.exp(), 1.0 + x.square()).rsample()
        return drawn * weight, distributions.Independent(Normal(x, 1.0), 1).log_prob(drawn)


def check(model: nn.Module, *inputs: Any) -> Any:
    model.double()
    net = pararealize(model, 4, method=EXACT, example_inputs=inputs)
    assert not net.plan.tracing.found
    assert not net.plan.tracing.blocks
    assert not net.plan.tracing.unverified
    for training in (True, False):
        answers = []
        for each in (model, net):
            torch.manual_seed(1)
            answers.append(each.train(training)(*inputs))
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-12, atol=1e-12)
    return net


@pytest.mark.parametrize("kind", [Packing, Padding])
def test_packed_sequences(kind: type[Packing]) -> None:
    torch.manual_seed(0)
    net, model = kind().double(), kind().double()
    x, lengths = torch.randn(3, 5, 4).double(), torch.tensor([5, 2, 4])
    net = check(model, x, lengths)
    other = torch.randn(3, 7, 4).double(), torch.tensor([3, 1, 7])
    torch.testing.assert_close(net(*other), model(*other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Sampling, Choosing, Correlated])
def test_distributions(kind: type[Sampling]) -> None:
    torch.manual_seed(0)
    check(kind(), torch.randn(3, 4).double() * 0.3)
    assert Normal(0.0, 1.0).rsample().shape == ()  # nothing is left of what a trace binds
    assert type(MultivariateNormal(torch.zeros(2), torch.eye(2))) is MultivariateNormal
    assert Normal.__mro__[0] is distributions.Normal
    assert type(Normal) is type
