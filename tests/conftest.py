"""One thread, no garbage in what is imported, and examples that are the same in every run."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from networks import seed_all

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


@pytest.fixture(autouse=True, scope="session")
def frozen() -> Iterator[None]:
    """Collections, one in every compile on ranks, do not look through all of torch again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and inputs that no other test's order can change."""
    seed_all(0)
