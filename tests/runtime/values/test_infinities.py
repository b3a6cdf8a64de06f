"""Infinities: equal values make no jump, whatever they are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pararealize.runtime.values.combine import combine, difference
from pararealize.runtime.values.infinities import finite_part, without_infinities

INF, NAN = torch.inf, torch.nan
CASES = [(1.0, 3.0), (INF, INF), (-INF, -INF), (NAN, NAN), (INF, 2.0), (2.0, -INF)]
JUMPS = [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def columns(*rows: tuple[float, ...]) -> list[Tensor]:
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("guarded", [False, True])
def test_equal_values_make_no_jump(guarded: bool) -> None:
    new, old = columns(*CASES)
    assert combine("+-", new, old, guarded=guarded).tolist() == JUMPS


def test_a_number_that_is_none_on_one_side_stays_seen() -> None:
    """Else a network that diverged would look as if it had not."""
    jump = combine("+-", torch.tensor([NAN, 1.0]), torch.tensor([1.0, NAN]))
    assert jump.isnan().all()


def test_jumps_that_cannot_be_corrected_are_measured() -> None:
    new, old = columns(*CASES)
    assert difference(new, old).tolist() == [-2.0, 0.0, 0.0, 0.0, INF, INF]
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])).tolist() == [0.0, INF]


@pytest.mark.parametrize(
    ("coarse", "fine", "old", "wanted"),
    [
        *[(3.0, INF, INF, 3.0), (INF, 5.0, INF, 5.0), (INF, INF, INF, INF), (-INF, 2.0, -INF, 2.0)],
        *[(1.0, INF, 2.0, INF), (1.0, 4.0, 2.0, 3.0), (NAN, 1.0, 1.0, NAN), (-INF, 2.0, 2.0, -INF)],
    ],
)
def test_corrections_keep_what_is_exact(
    coarse: float, fine: float, old: float, wanted: float
) -> None:
    """G(new) + v - G(old) is G(new) where v = G(old), and v where G(new) = G(old)."""
    terms = [torch.tensor([value, 1.0]) for value in (coarse, fine, old)]
    found = combine("++-", *terms)
    assert torch.equal(found.nan_to_num(7), torch.tensor([wanted, 1.0]).nan_to_num(7))


def test_opposite_infinities_keep_the_first() -> None:
    found = combine("++", torch.tensor([INF, 1.0]), torch.tensor([-INF, 2.0]))
    assert found.tolist() == [INF, 3.0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int32])
def test_whole_numbers_are_those_of_the_exact_side(dtype: torch.dtype) -> None:
    first, fine, old = (torch.tensor(row, dtype=dtype) for row in ([5, 6], [1, 2], [1, 3]))
    assert combine("++-", first, fine, old).tolist() == [5, 2]
    assert combine("++-", 5, 2, 3) == 2
    assert combine("++-", 5, 2, 2) == 5


def test_the_derivative_is_that_of_the_sum() -> None:
    """Finite positions keep theirs where values happen to be equal, infinite ones have none."""
    terms = [torch.tensor([1.0, INF, 0.0], requires_grad=True) for _ in range(3)]
    combine("++-", *terms).masked_fill(torch.tensor([False, True, False]), 0).sum().backward()
    assert [t.grad.tolist() for t in terms if t.grad is not None] == [
        [1.0, 0.0, 1.0],
        [1.0, 0.0, 1.0],
        [-1.0, 0.0, -1.0],
    ]


def test_infinite_parts_are_left_out() -> None:
    x = torch.tensor([1.0, INF, -INF])
    assert finite_part((x,))[0].tolist() == [1.0, 0.0, 0.0]
    assert without_infinities(x, guarded=False).tolist() == [1.0, 0.0, 0.0]
    assert without_infinities(x[:1], guarded=True) is not None
    mask = torch.tensor([True])
    assert without_infinities(mask, guarded=True) is mask


STEEP: dict[str, Callable[[Tensor], Tensor]] = {
    "pole": lambda x: 1 / x,
    "negative pole": lambda x: -1 / x.abs(),
    "none": lambda x: x / x,
}


@pytest.mark.parametrize("steep", STEEP.values(), ids=list(STEEP))
def test_what_cancels_has_no_adjoint(steep: Callable[[Tensor], Tensor]) -> None:
    """First + v - v has the adjoint of the first where v is no number.

    Elsewhere v has one of zeros, so that every weight takes part (law 9).
    """
    first, guess = (torch.tensor([v], requires_grad=True) for v in (3.0, 0.0))
    value = steep(guess)
    found = combine("++-", first * 2, value, value)
    found.sum().backward()
    assert found.tolist() == [6.0]
    assert first.grad is not None
    assert first.grad.tolist() == [2.0]
    assert guess.grad is None or guess.grad.tolist() == [0.0]


@pytest.mark.parametrize("guarded", [False, True])
def test_what_cancels_has_none_where_another_leaf_hides_why(guarded: bool) -> None:
    """Tanh(∞) is finite, and its derivative times a weight's, 0 · ∞, is none.

    With ``guarded``, no leaf has to show it.
    """
    first, guess = (torch.tensor([v], requires_grad=True) for v in (3.0, 0.0))
    value = 1 / guess
    hidden = (value * guess.cos()).tanh()
    v, first_state = ((hidden,), (first * 2,)) if guarded else ((hidden, value), (first * 2,) * 2)
    found = combine("++-", first_state, v, v, guarded=guarded)
    found[0].sum().backward()
    assert found[0].tolist() == [6.0]
    assert first.grad is not None
    assert first.grad.tolist() == [2.0]
    assert guess.grad is None


def test_what_cancels_can_be_transformed() -> None:
    first = torch.tensor([3.0, 4.0])

    def same(x: Tensor) -> Tensor:
        y = x / 3
        return combine("++-", x * 2, y, y)

    assert torch.func.vmap(same)(first).tolist() == [6.0, 8.0]
    assert torch.func.grad(lambda x: same(x).sum())(first).tolist() == [2.0, 2.0]
    assert torch.func.jvp(same, (first,), (torch.ones(2),))[1].tolist() == [2.0, 2.0]
