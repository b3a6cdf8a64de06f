"""Values of the inputs alone that layers far on read."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "compared": lambda t: (t == 0).to(torch.float64).unsqueeze(-1),
    "method": lambda t: t.ne(0).unsqueeze(-1) * 0.5,
    "infinite": lambda t: (
        torch.zeros_like(t, dtype=torch.float64).masked_fill(t == 0, -torch.inf).unsqueeze(1)
    ),
}


class Masked(nn.Module):
    """Attention with a mask, made of the tokens, that every layer reads."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.mask = mask

    def forward(self, t: Tensor) -> Tensor:
        h = self.embedding(t)
        mask = self.mask(t)
        for layer in self.layers:
            h = h + 0.1 * (layer(h) @ h.transpose(1, 2) + mask).softmax(-1) @ h
        return h


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_masks_of_the_inputs_are_compared_and_exact(mask: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Masked(mask).double()
    tokens = torch.tensor([[1, 2, 3, 0], [4, 0, 5, 6]])
    method = Parareal(coarse="fine", correction="difference")
    net = pararealize(model, 3, method=method, example_inputs=(tokens,))
    other = tokens.flip(0, 1)
    # One sweep with the fine propagators is exact but for rounding.
    torch.testing.assert_close(net(other), model(other), rtol=1e-12, atol=0)
    default = pararealize(model, 3, example_inputs=(tokens,))
    assert default(other).isfinite().all()
