"""Plans: what is counted for every subnetwork, and the time that is predicted."""

from typing import Any

import pytest
import torch
from torch import nn

from pararealize import Machine, ParallelNetwork, Parareal, pararealize
from pararealize.cost.predict import predict
from pararealize.models import odenet, resnet
from pararealize.schedule.place import place

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def compiled(n: int = 3, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    return pararealize(resnet(47, width=4), n, method=Parareal(**options))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def net() -> ParallelNetwork:
    return compiled()


def test_pieces_and_head_share_the_parameters_out(net: ParallelNetwork) -> None:
    plan = net.plan
    head = count(net.bn) + count(net.fc)
    assert plan.head == "bn … fc"
    assert sum(p.parameters for p in plan.pieces) + head == plan.parameters
    assert plan.parameters == count(net.to_serial())
    assert plan.added_parameters == count(net.coarse) + count(net.guess)


def test_pieces_and_head_share_the_time_out(net: ParallelNetwork) -> None:
    plan = net.plan
    assert sum(p.seconds for p in plan.pieces) + plan.head_seconds == pytest.approx(
        plan.serial_seconds
    )


def test_pieces_know_their_coarse_and_guess_networks(net: ParallelNetwork) -> None:
    first, *others = net.plan.pieces
    assert (first.coarse, first.guess) == ("none", "none")
    for piece in others:
        assert piece.coarse_parameters == count(net.coarse[str(piece.index)])
        assert piece.guess_parameters == count(net.guess[str(piece.index - 1)])
        assert piece.coarse_seconds > 0
        assert piece.guess_seconds > 0


def test_pieces_know_what_they_send(net: ParallelNetwork) -> None:
    first, second, last = net.plan.pieces
    assert first.state == ("[2, 16, 32, 32] float32",)
    assert first.interface_bytes == 2 * 16 * 32 * 32 * 4
    assert second.interface_bytes > 0
    assert (last.interface_bytes, last.state, last.after, last.module) == (0, (), "", "")
    assert net.plan.cuts == (f"%{first.after}", f"%{second.after}")


def test_layers_are_named_and_counted(net: ParallelNetwork) -> None:
    pieces = net.plan.pieces
    assert pieces[0].layers[0] == "conv1"
    assert pieces[-1].layers[1] == "layer3.4"
    assert all(p.depth >= 1 for p in pieces)
    assert all(p.memory > p.interface_bytes for p in pieces)
    assert all(p.flops > 0 for p in pieces)


def test_the_predicted_time_is_the_simulated_schedules(net: ParallelNetwork) -> None:
    timeline = predict(net.plan, place(net.schedule, 3, 3))
    assert net.plan.parallel_seconds == timeline.makespan
    assert net.plan.critical_coarse_seconds == timeline.critical_coarse_seconds
    heaviest = max(p.seconds for p in net.plan.pieces)
    assert heaviest <= net.plan.parallel_seconds <= net.plan.serial_seconds


def test_one_piece_is_predicted_to_take_the_serial_time() -> None:
    plan = compiled(1).plan
    assert plan.parallel_seconds == pytest.approx(plan.serial_seconds)
    assert (plan.critical_coarse_seconds, plan.head, plan.speedup) == (0, "", pytest.approx(1))


def test_residual_corrections_that_lose_zero_are_paid_twice() -> None:
    torch.manual_seed(0)
    seconds = [
        pararealize(odenet(12, width=64), 2, method=Parareal(coarse="rediscretized", correction=c))
        .plan.pieces[1]
        .coarse_seconds
        for c in ("residual", "difference")
    ]
    assert seconds[0] == pytest.approx(2 * seconds[1])


def test_more_sweeps_take_longer() -> None:
    seconds = [compiled(4, iterations=k).plan.parallel_seconds for k in (1, 2, 3)]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_the_machine_decides() -> None:
    model = odenet(24, width=64)
    slow = pararealize(model, 3, machine=Machine(link_latency=1.0)).plan
    fast = pararealize(model, 3, machine=Machine(flops_per_second=1e6)).plan
    assert slow.speedup < 0.1
    assert fast.speedup > 2
    assert slow.machine.link_latency == 1.0
