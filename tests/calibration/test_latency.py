"""What is timed of a network, and where it stands in the plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from networks import Recipe, build, compiled
from pararealize import Parareal
from pararealize.calibration import latency

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def test_coarse_networks_are_timed_in_turns_with_the_subnetworks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[int] = []

    def clock(*functions: Callable[[], object], runs: int) -> list[float]:
        """The i-th function of the k-th turns takes 100 k + i seconds."""
        assert runs > 1
        turns.append(len(functions))
        for function in functions:
            function()
        return [100.0 * len(turns) + i for i in range(len(functions))]

    monkeypatch.setattr(latency, "medians", clock)
    images = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    method = Parareal("thinned", "difference", guess="coarse")
    net = compiled(build(Recipe("residual", 8)), 4, method, images[:6])
    net.calibrate(images, epochs=0, batch=10, progress=False)
    pieces, head = net.plan.pieces, int(net.plan.head_seconds > 0)
    assert turns == [4 + head, 8]
    assert [piece.seconds for piece in pieces] == [100, 101, 102, 103]
    assert [piece.coarse_seconds for piece in pieces] == [204, 205, 206, 207]
    assert net.plan.serial_seconds == 100 + 101 + 102 + 103 + net.plan.head_seconds
