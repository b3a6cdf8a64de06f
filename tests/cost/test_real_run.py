"""Operations whose shapes numbers decide are profiled on the inputs at hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from networks import BlocksAround
from networks import TanhBlock as Block
from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Body(BlocksAround):
    """Blocks around something whose shape shapes do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = Block()


class Experts(Body):
    """Rows that a comparison chooses, by their numbers."""

    def middle(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        (rows,) = torch.where(x.sum(-1) > 0)
        out[rows] = self.expert(x[rows])
        return x + out


class Selecting(Body):
    """A mask as an index, and what is left is padded by nothing."""

    def middle(self, x: Tensor) -> Tensor:
        kept = x[x[:, 0] > x[:, 0].mean()]
        return x + kept.sum(0)


class Unique(Body):
    """How many different numbers there are."""

    def middle(self, x: Tensor) -> Tensor:
        classes, counts = torch.unique(x.argmax(-1), return_counts=True)
        return x * (1 + classes.sum() / counts.sum())


class Losses(Body):
    """A loss without a kernel for the meta device."""

    def middle(self, x: Tensor) -> Tensor:
        scores = x[:, None].log_softmax(-1)
        wanted, lengths = torch.ones(1, 2).long(), torch.tensor([x.shape[0]])
        return x + F.ctc_loss(scores, wanted, lengths, torch.tensor([2]))


@pytest.mark.parametrize("kind", [Experts, Selecting, Unique, Losses])
def test_shapes_that_numbers_decide(kind: type[Body]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(6, 4).double()
    state = torch.get_rng_state()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.plan.tracing.blocks
    assert not net.plan.tracing.unverified
    for inputs in (x, torch.randn(9, 4).double()):
        torch.testing.assert_close(net(inputs), model(inputs), rtol=1e-12, atol=1e-12)
    assert sum(piece.flops for piece in net.plan.pieces) > 0


def test_inside_a_module_that_is_called_whole() -> None:
    class Whole(Experts):
        def forward(self, x: Tensor) -> Tensor:
            return self.middle(x) if x.sum() < 1e9 else x

    torch.manual_seed(0)
    blocks = [*(Block() for _ in range(3)), Whole(), *(Block() for _ in range(3))]
    model, x = nn.Sequential(*blocks).double(), torch.randn(6, 4).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert list(net.plan.tracing.found) == ["3"]
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)
