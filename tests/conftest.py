"""One thread, no garbage in what is imported, and examples that are the same in every run.

``pytest`` runs a sample, the same in every run, and ``pytest --all`` everything:

- of a product of parameters, cases in which every value of each occurs; of a list of more than
  eight cases every fifth (``sampling.py`` chooses);
- of random networks, for which laws hold, a quarter of the examples;
- not what is marked ``rest``: the same once more on another number of ranks, over another engine,
  or on another network of a zoo; and tests of whole programs that take a quarter of a minute or
  more: the walk of the first ten minutes, notebooks, a library without its extras.

Tolerances are the same, and no test function is left out that has no mark. Where tests are named,
by ``-k`` or ``::``, all of their cases run.
"""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from sampling import sampled

#: Examples of a law, in a sample and in all.
FEW, MANY = 5, 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every case, and not a sample of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the sample."""
    named = config.option.keyword or any("::" in argument for argument in config.args)
    if config.option.all or named:
        return
    kept = sampled(items)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


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
        max_examples=MANY if config.option.all else FEW,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    settings.load_profile("pararealize")


#: Checks of launches of ranks, which the first of as many ranks makes. One launch after another:
#: each has more ranks than there are cores.
LAUNCHES = "tests/test_ranks.py::test_ranks_do_what_one_process_does"

#: Tests that share findings, a deep network, a kernel or large imports: the longest start first.
FILES = (
    "tests/studies/test_plain_line.py",
    "tests/studies/test_coverage.py",
    "tests/cli/test_extras.py",
    "tests/test_compiler.py",
    "tests/test_notebooks.py",
)


class Groups(LoadScopeScheduling):
    """What stays with one worker: checks of launches, such files, every other test by itself.

    Marks cannot say it: pytest-xdist 3.8 writes them where pytest 9.2 does not look any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in (LAUNCHES, *FILES) if nodeid.startswith(group)), nodeid)


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
    """Collections, one in every compile on ranks, do not look through all of torch again.

    Of that the first compile imports half.
    """

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and inputs that no other test's order can change."""
    from networks import seed_all  # noqa: PLC0415

    seed_all(0)
