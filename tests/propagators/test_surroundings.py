"""Coarse networks of networks that run around their blocks: stems and masks by a copy."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from untraceable import looks

from pararealize import Parareal, load, pararealize
from pararealize.ir.target import ADDED, Target
from pararealize.propagators.block_list import OutsideBlocks

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
WIDTH, WORDS = 6, 20
SWEPT = Parareal("thinned", "difference", guess="coarse")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mean = x.mean(1, keepdim=True) if mask is None else (x * mask).mean(1, keepdim=True)
        return x + self.drop(torch.tanh(self.linear(x - mean)))


class Encoder(nn.Module):
    """Embeds words, and hands a mask of them to every block where it is to."""

    def __init__(self, masked: bool, blocks: int = 6) -> None:
        super().__init__()
        self.embed, self.masked, self.drop = nn.Embedding(WORDS, WIDTH), masked, nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.norm(self.drop(looks(self.embed(words))).transpose(1, 2)).transpose(1, 2)
        mask = (words != 0)[..., None].to(x.dtype) if self.masked else None
        for block in self.blocks:
            x = block(x, mask=mask)
        scores: Tensor = self.head(x.mean(1))
        return scores


def made(masked: bool, **options: Any) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model = Encoder(masked).double().eval()
    words = torch.randint(0, WORDS, (4, 7))
    method = Parareal(**{**SWEPT.__dict__, **options})
    return model, pararealize(model, 3, method=method, example_inputs=(words,)).eval(), words


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["network", "thinned", "stepped"])
def test_a_coarse_sweep_begins_with_the_stem(masked: bool, kind: str) -> None:
    model, net, words = made(masked, coarse=kind)
    coarse = net._emission.propagators[Target.coarse(1)]
    assert coarse(words).shape == net._emission.propagators[Target.fine(1)](words).shape
    for step in (net, made(masked, coarse=kind, iterations=3)[1]):
        step.train()(words).square().sum().backward()
        assert all(p.grad is not None for n, p in step.named_parameters() if p.requires_grad), [
            n for n, p in step.named_parameters() if p.grad is None and p.requires_grad
        ]
    exact = made(masked, coarse=kind, iterations=3)[1]
    torch.testing.assert_close(exact(words), model(words), rtol=1e-12, atol=1e-13)


def test_with_all_blocks_the_copy_is_the_subnetwork_and_masks_are_heeded() -> None:
    _, net, words = made(True, coarse_depth=9)
    parts = net._emission.propagators
    assert torch.equal(parts[Target.coarse(1)](words), parts[Target.fine(1)](words))
    state = parts[Target.fine(1)](words)
    for given in (words, torch.randint(0, WORDS, (2, 5))):
        found = (
            parts[kind(2)](state[: len(given), :5], given[:, :5])
            for kind in (Target.coarse, Target.fine)
        )
        assert torch.equal(*found)


def test_the_copy_is_not_trained_and_draws_nothing() -> None:
    _, net, words = made(False)
    net.train()
    coarse = net._emission.propagators[Target.coarse(1)]
    assert torch.equal(coarse(words), coarse(words))
    around = net.coarse["1"].around
    assert not any(module.training for module in around.modules())
    assert not any(p.requires_grad for p in around.parameters())
    assert around.network.blocks[0] is None


def test_it_is_saved_copied_and_pickled(tmp_path: Any) -> None:
    model, net, words = made(True)
    net.save(tmp_path / "net")
    for other in (
        load(tmp_path / "net", model).eval(),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
    ):
        assert torch.equal(other(words), net(words))


def test_stems_and_heads_look_at_no_coarse_network() -> None:
    _, net, _ = made(True)
    functions = [
        operation.target
        for part in net._emission.propagators.values()
        for segment in getattr(part, "segments", ())
        for operation in segment.operations
        if isinstance(operation.target, OutsideBlocks)
    ]
    assert functions
    for function in functions:
        assert not {path.partition(".")[0] for path in function.outside(net)} & set(ADDED)


def test_it_is_calibrated() -> None:
    model, net, _ = made(True)
    words = torch.randint(0, WORDS, (60, 7))
    net.calibrate(words, epochs=2, batch=15, progress=False)
    assert net.plan.calibration is not None
    with torch.no_grad():
        same = net(words).argmax(-1) == model(words).argmax(-1)
    assert same.float().mean() > 0.5
