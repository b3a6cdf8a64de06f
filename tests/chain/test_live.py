"""Live values: what crosses every position of a program."""

import torch
from torch import Tensor, nn

from networks import UNet
from pararealize.chain.interfaces import live_values
from pararealize.ir.program import AMBIENT
from pararealize.tracing.trace import trace


class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 * (i + 1), 4) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer in self.layers:
            values.append(layer(torch.cat(values, 1)))
        return torch.cat(values, 1)


def test_live_sets_of_a_network_with_skips() -> None:
    program = trace(UNet()).train
    live = {program.operations[i - 1].name: v for i, v in live_values(program, 9).items()}
    assert live == {
        "down1": ("down1",),
        "down2": ("down2", "down1"),
        "middle": ("down2", "middle", "down1"),
        "cat": ("cat", "down1"),
        "up2": ("down1", "up2"),  # both are read last by one operation
        "cat_1": ("cat_1",),
        "up1": ("up1",),
        "last": ("last",),
    }


def test_inputs_read_late_do_not_count() -> None:
    live = live_values(trace(Dense()).train, 9)
    assert min(len(values) for values in live.values()) == 1
    assert all("x" not in values for values in live.values())


def test_data_flow_leaves_out_what_is_ambient() -> None:
    for program in (trace(UNet()).train, trace(Dense()).train):
        live = live_values(program, 9)
        assert {program[n].kind for values in live.values() for n in values}.isdisjoint(AMBIENT)
        computing = [i for i, o in enumerate(program) if o.kind not in AMBIENT | {"output"}]
        assert set(live) == {i + 1 for i in computing}
