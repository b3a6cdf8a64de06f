"""GPU, foretold: what networks are predicted to take on one device, captured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from pararealize import SlowerThanSerialWarning, one_gpu, pararealize
from pararealize.explain.table import Table

#: What builds a network, an input of one call, and more that is not looked at.
Built = tuple[Callable[[], nn.Module], Callable[[], Tensor], Any, Any]


def foretold(networks: Mapping[str, Built], device: str = "h200") -> Table:
    """The fastest number of subnetworks of each network, and what it takes beside a serial graph.

    With the size of the groups that corrections run in, where they run in levels. No device is
    needed: times are those of the model of one.
    """
    rows = [_row(name, build(), batch(), device) for name, (build, batch, *_) in networks.items()]
    counted = ("network", "kernels", "serial graph ms", "n", "groups of")
    columns = (*counted, "on streams ms", "times faster")
    return Table(f"foretold: inference on one {device}, captured", columns, rows, left=("network",))


def _row(name: str, model: nn.Module, x: Tensor, device: str) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # the row says so
        machine = one_gpu(device)
        plan = pararealize(model.eval(), example_inputs=(x,), machine=machine, verify=False).plan
    kernels = sum(piece.launches for piece in plan.pieces) + plan.head_launches
    serial, ours = plan.serial_seconds * 1e3, plan.parallel_seconds * 1e3
    groups = f"{plan.groups[0].last}" if plan.groups else "–"
    counted = (f"{kernels:,}", f"{serial:.2f}", f"{plan.n}", groups)
    return name, *counted, f"{ours:.2f}", f"{serial / ours:.1f}"
