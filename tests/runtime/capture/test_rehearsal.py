"""The device that records on the CPU: it orders as a CUDA device does, and sees what races."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, Rehearsal, pararealize
from pararealize.errors import MethodError
from pararealize.runtime.capture import rehearsal
from pararealize.runtime.capture.rehearsal import RehearsedGraph
from pararealize.runtime.capture.tape import Operation

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
]


def operations(graph: RehearsedGraph) -> list[Operation]:
    return [entry for entry in graph.tape.entries if isinstance(entry, Operation)]


def two_lanes(device: Rehearsal, x: Tensor, *, waits: bool, reads: bool = True) -> Any:
    """A product on lane 1, read on lane 2, with an event between them or without."""

    def step() -> Tensor:
        streams = device.streams
        start = streams.mark()
        with streams.on(1):
            streams.wait(start)
            made = x * 2
            event = streams.mark()
        with streams.on(2):
            streams.wait(start)
            if waits:
                streams.wait(event)
            other = (made if reads else x) + 1
            end = streams.mark()
        streams.wait(event)
        streams.wait(end)
        return other + made

    return step


@pytest.mark.parametrize("order", ["host", "latest"])
def test_a_replay_reads_what_lies_there_now(order: Any) -> None:
    device, x = Rehearsal(order), torch.ones(3)
    graph = device.recording()
    result = graph.capture(two_lanes(device, x, waits=True))
    x.fill_(5)
    graph.replay()
    assert result.tolist() == [21.0] * 3
    assert device.races == []
    assert {entry.lane for entry in graph.tape.entries} == {0, 1, 2}
    assert str(graph.tape).splitlines()[:3] == [
        "   0  event 1",
        "   1  wait for 1",
        "   1  aten.mul.Tensor",
    ]


def test_without_an_event_the_order_shows() -> None:
    device, x = Rehearsal("latest"), torch.ones(3)
    graph = device.recording()
    result = graph.capture(two_lanes(device, x, waits=False))
    assert [str(race) for race in device.races] == [
        "aten.add.Tensor on lane 2 reads what lane 1 may still use"
    ]
    x.fill_(5)
    graph.replay()
    assert result.tolist() == [13.0] * 3  # 2 + 1 of the numbers before, and 10
    free = Rehearsal("latest")
    free.recording().capture(two_lanes(free, x, waits=False, reads=False))
    assert free.races == []  # what is not read may run at any time


def test_writing_under_a_reader_is_a_race() -> None:
    device, x = Rehearsal(), torch.ones(3)

    def step() -> None:
        start = device.streams.mark()
        for lane in (1, 2):
            with device.streams.on(lane):
                device.streams.wait(start)
                x.mul_(2) if lane == 2 else x.sum()

    device.recording().capture(step)
    assert [race.writes for race in device.races] == [True]


def test_running_means_are_written_in_train_mode_alone() -> None:
    norm, x = nn.BatchNorm1d(3), torch.randn(4, 3)
    for training, races in [(True, True), (False, False)]:
        norm.train(training)
        device = Rehearsal()

        def step(device: Rehearsal = device) -> None:
            start = device.streams.mark()
            for lane in (1, 2):
                with device.streams.on(lane), torch.no_grad():
                    device.streams.wait(start)
                    norm(x)

        device.recording().capture(step)
        assert bool(device.races) is races


def network() -> Any:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()) for _ in range(6)]
    x = torch.randn(5, 6).double()
    model = nn.Sequential(*layers).double()
    method = Parareal(correction="difference")
    return pararealize(model, 3, method=method, example_inputs=(x,)), x


def captured(device: Rehearsal) -> RehearsedGraph:
    net, x = network()
    step = net.capture_step(lambda out: out.square().mean(), (x,), device=device)
    (kept,) = step.cache._kept.values()
    graph = kept.call.recording
    assert isinstance(graph, RehearsedGraph)
    return graph


def test_backward_operations_run_where_their_forward_ones_did() -> None:
    device = Rehearsal("latest")
    graph = captured(device)
    forward, backward = (
        Counter(o.lane for o in operations(graph) if str(o.function) == f"aten.{name}.default")
        for name in ("native_batch_norm", "native_batch_norm_backward")
    )
    assert forward == backward
    assert len(forward) > 2
    assert device.races == []


def test_backward_passes_that_do_not_wait_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal._Recorder, "_follow", lambda *_, is_node: is_node)
    device = Rehearsal("latest")
    captured(device)
    assert device.races


@pytest.mark.parametrize("function", [torch.nonzero, torch.Tensor.item, torch.unique, bool])
def test_what_depends_on_numbers_is_refused(function: Any) -> None:
    x = torch.ones(1)
    with pytest.raises(MethodError, match="a graph cannot record"):
        Rehearsal().recording().capture(lambda: function(x))


def test_random_numbers_are_new_in_every_replay() -> None:
    device, x = Rehearsal(), torch.ones(20)
    graph = device.recording()
    result = graph.capture(lambda: nn.functional.dropout(x, 0.5))
    found = []
    for _ in range(2):
        graph.replay()
        found.append(result.clone())
    assert not torch.equal(*found)
