"""Around blocks, lists and dictionaries of tensors are inputs like tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from untraceable import WIDTH, looks, residuals

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Detector(nn.Module):
    """Images of different sizes, and boxes of which it wants that they are some."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = residuals(4), nn.Linear(WIDTH, 2)

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        x = torch.stack([looks(image).mean((-2, -1)) for image in images])
        for block in self.blocks:
            x = block(x)
        y = self.head(x)
        if targets is None:
            return {"scores": y}
        for target in targets:
            if target["boxes"].min() < 0:
                raise ValueError("a box is nowhere")
        return {"loss": sum((a * t["boxes"]).sum() for a, t in zip(y, targets, strict=True))}


class Overwriting(nn.Module):
    """Its blocks write on what they are given, the first of them on an image."""

    class Block(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(4))

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        x = looks(given["x"])
        for block in self.blocks:
            x = block(x)
        return x * given["scale"]


def images(count: int, side: int) -> list[Tensor]:
    return [torch.randn(WIDTH, side, side + i).double() for i in range(count)]


def boxes(count: int) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.rand(2).double()} for _ in range(count)]


def test_lists_of_images_and_boxes() -> None:
    torch.manual_seed(0)
    model = Detector().double().eval()
    given = {"images": images(2, 3), "targets": boxes(2)}
    net = pararealize(model, 3, method=EXACT, example_kwargs=given)
    assert net.plan.tracing.blocks == "blocks"
    for count, side in ((2, 3), (3, 3), (2, 5)):
        call = {"images": images(count, side), "targets": boxes(count)}
        wanted, found = model(**call)["loss"], net(**call)["loss"]
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    only = {"images": images(2, 3)}
    other = pararealize(model, 3, method=EXACT, example_kwargs=only)
    torch.testing.assert_close(other(**only), model(**only), rtol=1e-12, atol=1e-12)


def test_a_dictionary_on_which_blocks_write() -> None:
    torch.manual_seed(0)
    model = Overwriting().double().eval()

    def given() -> dict[str, Tensor]:
        torch.manual_seed(1)
        return {"x": torch.randn(3, WIDTH).double(), "scale": torch.randn(WIDTH).double()}

    net = pararealize(model, 3, method=EXACT, example_inputs=(given(),))
    torch.testing.assert_close(net(given()), model(given()), rtol=1e-12, atol=1e-12)
