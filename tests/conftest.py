"""One thread, and examples that are the same in every run."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "pararealize",
    deadline=None,  # the first compile of a process imports half of torch
    derandomize=True,
    max_examples=20,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("pararealize")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks of a few units lose more by threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and inputs that no other test's order can change."""
    torch.manual_seed(0)
