"""Devices: subnetworks on several devices of one process, and the states that move between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.emit.emission import Emission
from pararealize.emit.ranks import both, homes, inner_of, spread
from pararealize.errors import RankError
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.propagators.fine import Fine
from pararealize.propagators.paths import modules_of
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered
from pararealize.runtime.values.pytree import map_tensors


def on_devices(emission: Emission, devices: Sequence[torch.device]) -> Emission:
    """The network with the subnetworks of rank r, of a placed schedule, on the r-th device.

    Raises:
        RankError: two devices would hold the same weights.

    """
    everything = [task for stage in emission.decisions.stages for task in stage]
    found = homes(everything, emission.propagators)
    for _, names in spread(found, emission.serial):
        raise RankError(
            f"the weights {both(names)} are the same and would lie on two devices: choose "
            "interfaces= so that layers which share weights lie together, or give each device a "
            "rank of its own (comm=), which sums their gradients."
        )
    for path, ranks in found.items():
        for rank in ranks:
            _move(emission.serial, path, devices[rank])
    for task in everything:
        part = None if task.target is None else inner_of(emission.propagators[task.target])
        if isinstance(part, Registered):
            part.module.to(devices[task.rank])
    return emission


def _move(root: nn.Module, path: str, device: torch.device) -> None:
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    value = getattr(module, name)
    if isinstance(value, nn.Module):
        value.to(device)
    elif isinstance(value, nn.Parameter):
        value.data = value.data.to(device)
    elif isinstance(value, Tensor):
        setattr(module, name, value.to(device))


@final
class Move(nn.Module):
    """Brings a value to where a propagator's weights are, today."""

    propagator: Fine

    def __init__(self, propagator: Fine) -> None:
        super().__init__()
        object.__setattr__(self, "propagator", propagator)

    def forward(self, value: Any) -> Any:
        """The value on the propagator's device."""
        device = device_of(self.propagator)
        if device is None:
            return value
        return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), value)


def device_of(part: Fine) -> torch.device | None:
    """Where a subnetwork's weights are; ``None`` if it has none."""
    modules = (part.root.get_submodule(path) for path in modules_of(part.segments[0]))
    weights = (p for module in modules for p in (*module.parameters(), *module.buffers()))
    return next((weight.device for weight in weights), None)


def movers(schedule: Schedule, parts: Mapping[Target, Propagator]) -> dict[int, Move]:
    """What brings values to each rank's device: to a subnetwork of it that has weights."""
    found: dict[int, Move] = {}
    for task in schedule:
        if task.target is None or task.rank in found:
            continue
        part = parts[task.target]
        if isinstance(part, Fine) and device_of(part) is not None:
            found[task.rank] = Move(part)
    return found
