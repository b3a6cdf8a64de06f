"""Results by shapes are those that torch gives on the meta device, of any layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pararealize.propagators.quick_shapes import LIKE, NORMALISED, QuickShapes

LAYERS: tuple[nn.Module, ...] = (
    *(nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.ReLU6()),
    *(nn.ELU(), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False).eval()),
    nn.BatchNorm2d(4, track_running_stats=False),
)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(2, 3),
    "with gaps": lambda x: x[:, :, ::2],
    "expanded": lambda x: x[:, :, :1].expand(-1, -1, 6, -1),
}


def form(value: Tensor) -> tuple[object, ...]:
    return value.shape, value.dtype, value.stride(), value.device


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer).replace("-", ""))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_torchs(layer: nn.Module, layout: str, dtype: torch.dtype) -> None:
    layer = layer.to("meta", dtype)
    x = LAYOUTS[layout](torch.empty(2, 4, 6, 8, device="meta", dtype=dtype))
    with torch.no_grad():
        wanted = layer(x)
        with QuickShapes():
            result = layer(x)
    assert form(result) == form(wanted)


class Operators(TorchDispatchMode):
    """Notes the operators that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def test_all_are_made_room_for_without_running() -> None:
    """Of each operator in the lists a layer above; none of them is run."""
    with Operators() as every, torch.no_grad():
        for layer in LAYERS:
            layer.to("meta", torch.float32)(torch.empty(2, 4, 6, 8, device="meta"))
    assert every.seen >= LIKE | NORMALISED
    with Operators() as left, QuickShapes(), torch.no_grad():
        for layer in LAYERS:
            layer(torch.empty(2, 4, 6, 8, device="meta"))
    assert not left.seen & (LIKE | NORMALISED)


def test_numbers_are_computed_and_mistakes_are_found() -> None:
    x = torch.randn(2, 4, 6, 8)
    with QuickShapes():
        assert torch.equal(torch.relu(x), x.clamp(min=0))
        with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 3"):
            nn.BatchNorm2d(3, device="meta").eval()(x.to("meta"))
