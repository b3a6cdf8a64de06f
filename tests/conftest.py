"""One thread, no garbage in what is imported, and examples that are the same in every run."""

import gc
import re
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_configure(config: pytest.Config) -> None:
    """Examples that are the same in every run.

    Neither this nor torch is imported at the top: the process that hands out the tests runs none.
    """
    if config.getoption("numprocesses") and not hasattr(config, "workerinput"):
        return
    from hypothesis import HealthCheck, Phase, settings  # noqa: PLC0415

    settings.register_profile(
        "pararealize",
        deadline=None,  # the first compile of a process imports half of torch
        derandomize=True,
        max_examples=20,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("pararealize")


#: Checks of one launch of ranks, which the first of them makes.
LAUNCH = re.compile(r"test_ranks\.py::test_ranks_do_what_one_process_does\[(\d)-")


#: Tests of one process, whose findings all of them read, or of one kernel.
PROCESSES = ("tests/cli/test_extras.py", "tests/test_notebooks.py")


class Groups(LoadScopeScheduling):
    """What stays with one worker: checks of one launch or process, every other test by itself.

    Marks cannot say it: pytest-xdist 3.8 writes them where pytest 9.2 does not look any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        launch = LAUNCH.search(nodeid)
        if launch is not None:
            return f"launch on {launch[1]} ranks"
        return next((name for name in PROCESSES if nodeid.startswith(name)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups of tests for the workers, the largest first."""
    return Groups(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks of a few units lose more by threads than they gain."""
    import torch  # noqa: PLC0415

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
    from networks import seed_all  # noqa: PLC0415

    seed_all(0)
