"""BatchNorm folded into convolutions: what is folded, and that changes are followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Rehearsal, capture, pararealize
from pararealize.errors import MethodError
from pararealize.propagators.folded import Folds

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: γ (w * x + b - μ) / σ + β in another order of the same sums, in float64.
ROUNDING: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}


class Block(nn.Module):
    """Convolution, normalisation, and a convolution that something else reads as well."""

    def __init__(self, *, affine: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.one, self.other = nn.Conv1d(4, 4, 3, padding=1, bias=bias), nn.Conv1d(4, 4, 1)
        self.norm = nn.BatchNorm1d(4, affine=affine)
        self.apart = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(torch.relu(self.norm(self.one(x))))
        return x + y + torch.tanh(self.apart(y))


def network(**options: Any) -> tuple[ParallelNetwork, Tensor]:
    torch.manual_seed(0)
    blocks = [Block(), Block(affine=False, bias=True), Block(), Block()]
    model, x = nn.Sequential(*blocks).double(), torch.randn(2, 4, 5).double()
    for _ in range(3):
        model(x)  # statistics of their own
    return pararealize(model, 2, example_inputs=(x,), **options).eval(), x


def of(net: ParallelNetwork, j: int) -> Any:
    part: Any = net.propagators[f"fine.{j}"]
    return Folds().of(part.segment, part.root)


def test_what_something_else_reads_or_is_hooked_or_trains_is_not_folded() -> None:
    net, _ = network()
    segment, standing = of(net, 1)
    assert sorted(standing) == ["0.one", "1.one"]
    assert [o.target for o in segment.operations if o.kind == "module"][:2] == ["0.one", "0.other"]
    net.get_submodule("0.norm").train()
    assert sorted(of(net, 1)[1]) == ["1.one"]
    net.get_submodule("1.one").register_forward_hook(lambda *_: None)
    assert sorted(of(net, 1)[1]) == []
    assert of(net.train(), 2)[1] == {}


def test_the_fold_is_the_pair_whatever_changes() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, stride=2, padding=1).double(), nn.BatchNorm2d(4).double()
    model, x = nn.Sequential(conv, norm, nn.ReLU(), nn.Identity()), torch.randn(2, 3, 8, 8).double()
    model(x)
    net, folds = pararealize(model, 1, example_inputs=(x,)).eval(), Folds()
    part: Any = next(p for name, p in net.propagators.items() if name.startswith("fine"))
    standing = folds.of(part.segment, part.root)[1]
    (fold,) = standing.values()
    layers = net.get_submodule("0"), net.get_submodule("1")

    def same() -> bool:
        folds.refresh()
        with torch.no_grad():
            return torch.allclose(fold(x), layers[1](layers[0](x)), rtol=1e-12, atol=1e-12)

    assert same()
    assert fold.weight.data_ptr() == fold.weight.data_ptr()
    place = fold.weight.data_ptr()
    for module in layers:
        for tensor in (*module.parameters(), *module.buffers()):
            with torch.no_grad():
                tensor.add_(1)
            assert same()
    layers[0].weight = nn.Parameter(torch.ones_like(layers[0].weight))
    assert same()
    assert fold.weight.data_ptr() == place
    layers[0].weight.data.mul_(2)  # past autograd, which counts nothing
    assert not same()
    folds.refresh(anew=True)
    assert same()


@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]])
def test_captured_answers_follow_weights_and_statistics(devices: Any) -> None:
    net, x = network(devices=devices)
    fast = net.capture((x,), device=Rehearsal("latest"), fold_norms=True)
    assert fast.pieces.folds is not None
    assert len(fast.pieces.folds) >= 4
    step = net.capture_step(
        Tensor.mean, device=Rehearsal(), optimizer=torch.optim.SGD(net.parameters(), lr=0.5)
    )
    for k in range(4):
        torch.testing.assert_close(fast(x + k), net(x + k).detach(), **ROUNDING)
        net.train()
        step(x + k)  # moves both
        torch.testing.assert_close(fast(x), net(x).detach(), **ROUNDING)
        net.eval()
    with torch.no_grad():
        net.get_parameter("0.norm.weight").mul_(3)
    torch.testing.assert_close(fast(x), net(x).detach(), **ROUNDING)
    net.get_submodule("2.norm").register_buffer("running_mean", torch.ones(4).double())
    torch.testing.assert_close(fast(x), net(x).detach(), **ROUNDING)


def test_folded_graphs_have_fewer_kernels() -> None:
    net, x = network()
    counts = []
    for fold in (False, True):
        fast = net.capture((x,), device=Rehearsal(), fold_norms=fold)
        (kept,) = fast.cache._kept.values()
        counts.append(str(kept.call.recording.tape).count("batch_norm"))  # type: ignore[attr-defined]
    assert counts[0] - counts[1] >= 4
    assert counts[1]


def test_a_module_that_was_not_compiled_has_no_pieces_to_fold_in() -> None:
    model, x = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)), torch.randn(2, 4, 5)
    with pytest.raises(MethodError, match="fuse_conv_bn_eval"):
        capture(model, (x,), device=Rehearsal(), fold_norms=True)
