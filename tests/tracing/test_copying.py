"""Copies of module trees: shared inside, nothing shared with the original."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from pararealize.models import odenet, resnet, vgg11
from pararealize.tracing.copying import collection_paused, copy_tree


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.settings = {"sizes": [1, 2], "module": self.second}
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.again(self.first(x)))


class Counted(nn.Module):
    copies = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "Counted":
        type(self).copies += 1
        return Counted()


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    "model",
    [
        resnet(11, width=4),
        vgg11(head="small", width=4, batch_norm=True),
        odenet(3, width=4, kind="conv"),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.LSTM(3, 4),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_copy_is_equal_and_apart(model: nn.Module) -> None:
    twin = copy_tree(model)
    assert type(twin) is type(model)
    assert same(twin, model)
    assert not {id(m) for m in twin.modules()} & {id(m) for m in model.modules()}
    pointers = {t.data_ptr() for t in model.state_dict().values()}
    assert not pointers & {t.data_ptr() for t in twin.state_dict().values()}


def test_sharing_inside_is_kept() -> None:
    twin = copy_tree(Tied())
    assert isinstance(twin, Tied)
    assert twin.first is twin.again
    assert twin.first.weight is twin.second.weight
    assert twin.settings["module"] is twin.second
    assert "steps" not in twin.state_dict()


def test_settings_are_not_shared() -> None:
    model = Tied()
    twin = copy_tree(model)
    assert isinstance(twin, Tied)
    twin.settings["sizes"].append(3)  # type: ignore[union-attr]
    assert model.settings["sizes"] == [1, 2]


def test_a_module_may_copy_itself() -> None:
    Counted.copies = 0
    copy_tree(nn.Sequential(nn.Linear(2, 2), Counted()))
    assert Counted.copies == 1


def test_gradients_flags_and_modes_are_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    model[0].weight.requires_grad_(False)
    twin = copy_tree(model)
    assert not twin.training
    assert [p.requires_grad for p in twin.parameters()] == [False, True, True, True]
    assert copy.deepcopy(twin).training is False


def test_garbage_collection_is_restored() -> None:
    def fail() -> None:
        with collection_paused():
            assert not gc.isenabled()
            raise KeyError

    assert gc.isenabled()
    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()
