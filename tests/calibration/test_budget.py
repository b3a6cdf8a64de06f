"""A budget of time: what ends with it, what is left out for it, and what its ranks agree on."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import nn

from local_ranks import all_of
from networks import Recipe, build, compiled
from pararealize import Calibration, Parareal
from pararealize.calibration import latency
from pararealize.calibration.budget import Budget
from pararealize.errors import CalibrationError, MethodError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_shares_of_a_budget() -> None:
    clock = Clock()
    budget = Budget(2.0, clock=clock)
    assert budget.is_limited
    assert budget.note == "2:00 left"
    clock.now += 30
    assert budget.until(0.5) == 30
    assert budget.part(0.75, 2) == 0.5
    assert not budget.is_over(0.5)
    clock.now += 35.5
    assert budget.is_over(0.5)
    assert budget.until(0.5) == 0
    assert budget.note == "0:54 left"


def test_without_a_budget_nothing_ends() -> None:
    clock = Clock()
    budget = Budget(None, clock=clock)
    clock.now += 1e9
    assert not budget.is_limited
    assert not budget.is_over(0.01)
    assert budget.until(0.01) == float("inf")
    assert budget.note == ""
    assert budget.part(0.5, 3) == 0.5


def test_what_is_over_on_one_rank_is_over_on_all() -> None:
    def ask(transport: Any) -> list[bool]:
        clock = Clock()
        budget = Budget(1.0, transport, clock)
        answers = [budget.is_over(0.5)]
        clock.now += 40 if transport.rank == 1 else 0
        return [*answers, budget.is_over(0.5)]

    assert all_of(3, ask) == [[False, True]] * 3


def calibrated(depth: int = 12, coarse: str = "auto", **options: Any) -> Calibration:
    model = build(Recipe("residual", depth))
    x = torch.randn(120, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    method = Parareal(coarse=coarse, correction="difference", guess="coarse")
    net = compiled(model, 3, method, x[:4])
    return net.calibrate(x, batch=12, progress=False, **options)


def test_every_kind_that_is_recommended_is_tried_in_time() -> None:
    begun = time.monotonic()
    found = calibrated(minutes=0.1, agreement=0.5, epochs=1000)
    assert time.monotonic() - begun < 30  # the limit is 6 s, and 1,000 epochs take minutes
    tried = {candidate.kind for candidate in found.candidates}
    assert {"stepped 1", "thinned 1"} <= tried | found.left_out.keys()
    assert not tried & found.left_out.keys()
    needed = found.required
    assert needed is not None
    assert needed > 0.5
    fastest = min(
        row.seconds for c in found.candidates for row in c.certified if row.agreement >= needed
    )
    assert found.reached.seconds == fastest
    for kind, reason in found.left_out.items():
        assert kind
        assert reason in {"no time was left", "even one sweep takes longer"}


def test_no_time_at_all_still_gives_one() -> None:
    found = calibrated(minutes=1e-6, best=True, agreement=1.0)
    assert len(found.candidates) == 1
    assert (found.samples, found.held_out) == (12, 12)  # a batch of either, and no more
    assert set(found.left_out.values()) == {"no time was left"}
    assert "stepped 1" in {found.kind, *found.left_out}


def test_without_a_limit_every_kind_is_tried() -> None:
    found = calibrated(epochs=1, best=True, agreement=1.0)
    assert not found.left_out
    assert {"stepped 1", "stepped 3", "thinned 1", "generic"} <= {c.kind for c in found.candidates}


def test_what_can_only_lose_is_said_before_it_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse networks that take as long as subnetworks, whatever else the machine does."""
    monkeypatch.setattr(latency, "medians", lambda *parts, **_options: [1e-5] * len(parts))
    with pytest.raises(CalibrationError, match="no coarse network can make") as raised:
        calibrated(depth=3, faster=True)
    assert "What would win: " in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [{"minutes": 0}, {"minutes": "five"}, {"confidence": 0.4}, {"confidence": 1.0}],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(options))):
        calibrated(depth=3, **options)


def test_a_fit_ends_with_its_seconds_and_keeps_the_best() -> None:
    begun = time.monotonic()
    found = calibrated(coarse="thinned", minutes=0.02, epochs=100_000, agreement=None)
    assert time.monotonic() - begun < 20
    errors = [fit.contraction for fit in found.chosen.fits if fit.contraction is not None]
    assert errors
    assert all(map(math.isfinite, errors))


def test_layers_are_timed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    forward = nn.Linear.forward

    def noted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    try:
        calibrated(depth=3, coarse="thinned", epochs=1)
        assert set(seen) == {1, 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
