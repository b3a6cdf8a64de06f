"""What code writes on globals, in whatever file, is neither lost nor left by compiling."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize

pytest.importorskip("einops")

import elsewhere

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")

COUNT = 0
SEEN: tuple[int, ...] = ()
BEFORE: Any = None
LOG: list[int] = []


class Writing(nn.Module):
    """Writes on globals when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        self.write(x)
        return x.tanh()

    def write(self, x: Tensor) -> None:
        raise NotImplementedError


class Counting(Writing):
    def write(self, x: Tensor) -> None:
        global COUNT  # noqa: PLW0603
        COUNT += 1


class Remembering(Writing):
    def write(self, x: Tensor) -> None:
        global BEFORE  # noqa: PLW0603
        BEFORE = x.shape


class Seeing(Writing):
    def write(self, x: Tensor) -> None:
        global SEEN  # noqa: PLW0603
        SEEN = (*SEEN, x.dim())


class Logging(Writing):
    def write(self, x: Tensor) -> None:
        LOG.append(1)


class Helped(Writing):
    def write(self, x: Tensor) -> None:
        elsewhere.noted(x)


class Inheriting(elsewhere.Noting, Writing):
    def write(self, x: Tensor) -> None:
        self.note(x)


def left() -> tuple[Any, ...]:
    last = None if elsewhere.LAST is None else elsewhere.LAST.tolist()
    return COUNT, BEFORE, SEEN, len(LOG), list(elsewhere.WRITTEN), last


def forget() -> None:
    global COUNT, BEFORE, SEEN
    COUNT, BEFORE, SEEN, elsewhere.LAST = 0, None, (), None
    LOG.clear()
    elsewhere.WRITTEN.clear()


KINDS = (Counting, Remembering, Seeing, Logging, Helped, Inheriting)


@pytest.mark.parametrize("kind", KINDS)
def test_globals_are_written_as_by_the_network(kind: type[Writing]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), kind(), nn.Linear(4, 4), kind()).double()
    x = torch.randn(3, 4).double()
    forget()
    empty = left()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert left() == empty
    assert set(net.plan.tracing.found) == {"1", "3"}
    net(x)
    mine = left()
    forget()
    model(x)
    assert mine == left() != empty
