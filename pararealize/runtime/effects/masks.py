"""Masks: draw random numbers once a step, and the same ones at every further evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.values.pytree import tensors_of


class Masks:
    """The random state at a propagator's first evaluation in a step.

    ``own_stream`` propagators leave the main random stream as they found it, so that the serial
    network's draws come in the serial network's order. Where ``start`` is given, they draw from
    there, whenever in the step that is.
    """

    def __init__(self, *, own_stream: bool) -> None:
        self.own_stream = own_stream
        self.states: list[tuple[torch.device, Tensor]] = []
        self.start: dict[torch.device, Tensor] = {}

    def begin_step(self) -> None:
        """Forget the last step's draws."""
        self.states, self.start = [], {}

    @contextmanager
    def drawn(self, values: tuple[Any, ...]) -> Iterator[None]:
        """Run with this step's random numbers: new ones at first, later the same again."""
        before = random_states(values)
        first = not self.states
        if first:
            self.states = [(device, self.start.get(device, state)) for device, state in before]
        for device, state in self.states:
            _set_state(device, state)
        try:
            yield
        finally:
            if self.own_stream or not first:
                for device, state in before:
                    _set_state(device, state)


def random_states(values: Any) -> list[tuple[torch.device, Tensor]]:
    """The random state of the CPU, and of the devices of the values."""
    devices = {tensor.device for tensor in tensors_of(values)}
    devices.add(torch.device("cpu"))
    return [(device, _get_state(device)) for device in sorted(devices, key=str)]


def _get_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
