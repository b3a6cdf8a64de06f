"""Calls are timed in graphs, which a rehearsal records as a CUDA device does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import CaptureWarning, Rehearsal, pararealize
from pararealize.cost.captured import REPEATS, capturing
from pararealize.cost.measure import captured_seconds, measured
from pararealize.models import resnet


def test_a_call_is_recorded_several_times_in_a_row() -> None:
    x, calls = torch.zeros(3), []

    def call() -> Tensor:
        calls.append(1)
        return x.add_(1)

    (seconds,) = captured_seconds([call], Rehearsal(), runs=3)
    assert seconds > 0
    assert len(calls) == 2 * REPEATS  # to warm up, and to record; replays call nothing
    assert x.max() >= 4 * REPEATS


def test_what_cannot_be_recorded_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Rehearsal()

    def refuse(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(type(device.recording()), "capture", refuse)
    with pytest.warns(CaptureWarning, match="timed without a graph: operation not permitted"):
        (seconds,) = captured_seconds([lambda: torch.ones(3).add_(1)], device, runs=3)
    assert seconds > 0


def test_only_cuda_devices_record() -> None:
    assert capturing(torch.device("cpu")) is None


def test_layers_of_one_kind_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = resnet(29, width=4).eval(), torch.randn(2, 3, 8, 8)
    net = pararealize(model, 1, example_inputs=(x,))
    chain = net._emission.decisions.partition.chain
    before = {name: value.clone() for name, value in model.state_dict().items()}
    times = iter(range(1, 100))
    monkeypatch.setattr(
        "pararealize.cost.measure.captured_seconds", lambda *_, **__: [float(next(times))]
    )
    found = measured(chain, model, {"x": x}, 0, Rehearsal())
    seconds = {}
    for i, (layer, old) in enumerate(zip(found.layers, chain.layers, strict=True)):
        key = old.signature, chain.interfaces[i - 1].state if i else ()
        assert seconds.setdefault(key, layer.cost.seconds) == layer.cost.seconds
    assert len(set(seconds.values())) == len(seconds) < len(chain.layers)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_layers_are_timed_in_a_rehearsal() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    x = torch.randn(2, 8)
    chain = pararealize(model, 1, example_inputs=(x,))._emission.decisions.partition.chain
    found = measured(chain, model, {chain.train.inputs[0].target: x}, 0, Rehearsal())
    assert all(layer.cost.seconds > 0 for layer in found.layers)
