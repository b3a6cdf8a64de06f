"""Zoos: one small network of every family of timm, and torchvision's networks for other tasks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli.specs import load_model
from pararealize.cli.zoos import import_torchvision
from studies.subjects import Inputs, Style, another_batch, another_size

#: What small networks are called, the smallest first.
SMALL = (
    *("test_", "atto", "femto", "pico", "nano", "xxs", "xxt", "micro", "mini", "tiny", "xs"),
    *("small", "_s", "_t"),
)
#: Sides of images that are tried, before the one that the network is made for.
SIDES = (64, 96, 84)
#: Blocks that families have whose smallest network has hundreds of millions of weights.
DEPTHS: Mapping[str, int] = {"deepseek_vit": 8, "gemma4_vit": 8}


@dataclass(frozen=True)
class OfTimm:
    """A network of timm, of so many blocks if not its own, and the smallest image it takes."""

    name: str
    depth: int | None = None
    dtype: torch.dtype = torch.float32

    def build(self) -> tuple[nn.Module, Inputs]:
        """In the dtype that is the default."""
        torch.manual_seed(0)
        model = self._network().to(torch.get_default_dtype())
        known: Any = model.default_cfg
        own = int(known.get("input_size", (3, 224, 224))[-1])
        name = next(iter(_parameters(model)))
        for side in SIDES:
            try:
                with torch.no_grad():
                    model.eval()(torch.zeros(2, 3, side, side))
            except Exception:  # it takes larger ones
                continue
            return model.train(), {name: torch.randn(2, 3, side, side)}
        return model.train(), {name: torch.randn(2, 3, own, own)}

    def _network(self) -> nn.Module:
        if self.depth is None:
            return load_model(f"timm:{self.name}")
        import timm

        made: nn.Module = timm.create_model(self.name, depth=self.depth)
        return made

    def others(self, given: Inputs) -> Mapping[str, Inputs]:
        """One image more, and larger ones."""
        return {"batch": another_batch(given), "size": another_size(given)}

    def options(self) -> Inputs:
        """Nothing."""
        return {}


def _parameters(model: nn.Module) -> Iterator[str]:
    return iter(inspect.signature(model.forward).parameters)


def _smallness(name: str) -> tuple[float, ...]:
    known = [i for i, word in enumerate(SMALL) if word in name]
    number = re.search(r"\d+", name)
    return (min(known, default=len(SMALL)), float(number[0]) if number else 0.0, len(name))


def timm_families() -> dict[str, OfTimm]:
    """Of every family, the network whose name sounds smallest."""
    import_torchvision()  # timm imports it, and cannot where its operators do not fit
    import timm

    found = {}
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names:
            name = min(names, key=lambda n: (*_smallness(n), n))
            found[family] = OfTimm(name, DEPTHS.get(family))
    return found


def _image(batch: int, side: int) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, 3, side, side)}


def _video(batch: int, side: int) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, 3, 16 if side > 100 else 8, side, side)}


def _detected(batch: int, side: int) -> dict[str, Any]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 28.0], [10.0, 8.0, 44.0, 40.0]])
    masks = torch.zeros(2, side, side, dtype=torch.uint8)
    masks[0, 4:28, 4:30] = masks[1, 8:40, 10:44] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    images = [torch.rand(3, side, side) for _ in range(batch)]
    return {"images": images, "targets": [dict(target) for _ in range(batch)]}


def _flows(batch: int, side: int) -> dict[str, Tensor]:
    return {"image1": torch.rand(batch, 3, side, side), "image2": torch.rand(batch, 3, side, side)}


def _style(
    folder: str,
    name: str,
    inputs: Callable[[int, int], dict[str, Any]],
    size: int,
    other: int | None,
    **options: Any,
) -> Style:
    def network() -> nn.Module:
        models = import_torchvision()
        if folder == "detection":
            _with_suppression()
        made: nn.Module = getattr(getattr(models, folder), name)(weights=None, **options)
        return made

    return Style(network, inputs, size, other, torch.float32)


def _suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that no better one overlaps, as torchvision's operator gives them."""
    from torchvision.ops import box_iou

    left, kept = scores.argsort(descending=True, stable=True), []
    while left.numel():
        kept.append(left[0])
        overlaps = box_iou(boxes[left[:1]], boxes[left[1:]])[0]
        left = left[1:][overlaps <= threshold]
    return torch.stack(kept) if kept else left


def _with_suppression() -> None:
    """Let detectors run where torchvision's compiled operators do not load."""
    from torchvision.extension import _has_ops
    from torchvision.ops import boxes

    if not _has_ops() and boxes.nms is not _suppressed:
        boxes.nms = _suppressed


#: Nothing is fetched for their backbones either.
BARE = {"weights_backbone": None, "num_classes": 5}
DETECTORS = {**BARE, "min_size": 64, "max_size": 96}

TORCHVISION: Mapping[str, Style] = {
    **{
        name: _style("segmentation", name, _image, 64, 96, **BARE)
        for name in (
            *("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"),
            "lraspp_mobilenet_v3_large",
        )
    },
    **{
        name: _style("detection", name, _detected, 64, 80, **DETECTORS)
        for name in (
            *("fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn"),
            *("fcos_resnet50_fpn", "retinanet_resnet50_fpn"),
        )
    },
    **{
        name: _style("detection", name, _detected, 64, 80, **BARE)
        for name in ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
    },
    **{
        name: _style("video", name, _video, 32, 48, num_classes=5)
        for name in ("r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t")
    },
    "s3d": _style("video", "s3d", _video, 224, None, num_classes=5),
    "mvit_v2_s": _style("video", "mvit_v2_s", _video, 224, None, num_classes=5),
    "raft_small": _style("optical_flow", "raft_small", _flows, 128, 136),
}
