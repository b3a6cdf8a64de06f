"""Training steps of recurrent networks in turns, and their table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from studies.recurrent_steps import step_times, steps_table


@dataclass
class Ranks:
    """As many as there are barriers, for one process."""

    rank: int
    barriers: int = 0

    def Barrier(self) -> None:
        self.barriers += 1


def nets() -> dict[str, nn.Module]:
    return {name: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)) for name in ("one", "other")}


@pytest.mark.parametrize(("rank", "timed"), [(0, ["one", "other"]), (1, ["other"])])
def test_ranks_run_what_they_share_and_rank_0_the_rest(rank: int, timed: list[str]) -> None:
    ranks = Ranks(rank)
    x, labels = torch.randn(4, 3, 2), torch.randint(3, (4,))
    found = step_times(nets(), x, labels, 2, ["other"], ranks)
    assert {name: len(times) for name, times in found.items()} == {
        name: 2 * (name in timed) for name in ("one", "other")
    }
    assert ranks.barriers == 6  # before each of two networks, in three rounds


def test_one_process_times_all_and_leaves_the_first_round_out() -> None:
    compared = nets()
    found = step_times(compared, torch.randn(4, 3, 2), torch.randint(3, (4,)), 3)
    assert all(len(times) == 3 and min(times) >= 0 for times in found.values())
    assert all(p.grad is not None for net in compared.values() for p in net.parameters())


def test_the_table_has_least_times_and_medians_of_ratios() -> None:
    times = {"one": [4.0, 6.0, 2.0], "other": [2.0, 1.0, 4.0]}
    text = str(steps_table(times, "one", torch.zeros(8, 128, 6)))
    assert "8 series of 128" in text
    assert [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["other"]] == [
        ["1.0", "2.00"]
    ]
