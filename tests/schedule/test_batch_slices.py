"""Chunking: corrections in slices of the batch, which compute what whole ones do."""

from __future__ import annotations

import threading
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from local_transport import LocalGroup
from networks import compiled
from pararealize import Parareal
from pararealize.decide.parareal_passes import is_separable
from pararealize.errors import MethodError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.schedule import Schedule
from pararealize.ir.task import Task
from pararealize.runtime.values.combine import combine, cut, join
from pararealize.schedule.batch_slices import chunk
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import owner, place

GOLDEN = """\
step  rank 0                    rank 1
   0  v1.0 = fine.1(x)          u1.0 = guess.1(x)
   1  v1.0[0] = slice 1/2 of v1.0  v2.0 = fine.2(u1.0)
   2  send v1.0[0] → 1          u1.0[0] = slice 1/2 of u1.0
   3  v1.0[1] = slice 2/2 of v1.0  v1.0[0] ← 0
   4  send v1.0[1] → 1          r1.0[0] = v1.0[0] - u1.0[0]
   5                            c2.0[0] = coarse.2(r1.0[0], quiet)
   6                            v2.0[0] = slice 1/2 of v2.0
   7                            u2.1[0] = v2.0[0] + c2.0[0]
   8                            u1.0[1] = slice 2/2 of u1.0
   9                            v1.0[1] ← 0
  10                            r1.0[1] = v1.0[1] - u1.0[1]
  11                            c2.0[1] = coarse.2(r1.0[1])
  12                            v2.0[1] = slice 2/2 of v2.0
  13                            u2.1[1] = v2.0[1] + c2.0[1]
  14                            u2.1+2 = join(u2.1[0], u2.1[1])
  15                            out = head(u2.1+2)"""


def chunked(n: int, ranks: int, method: Parareal, parts: int, **options: bool) -> Schedule:
    schedule = parareal_schedule(n, method, **options)
    return chunk(schedule, parts, lambda piece: owner(piece, n, ranks))


def methods() -> st.SearchStrategy[Parareal]:
    return st.builds(
        Parareal,
        iterations=st.integers(1, 3),
        correction=st.sampled_from(["residual", "difference"]),
        coarse=st.sampled_from(["network", "fine"]),
        guess=st.sampled_from(["network", "coarse"]),
        levels=st.sampled_from([2, 3, 4]),
    )


def evaluate(schedule: Schedule, x: Tensor) -> dict[str, Tensor]:
    """Every value, with a different affine map of each sample for each propagator."""

    def apply(name: str, value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        size = value.shape[1]
        weight = torch.randn(size, size, dtype=x.dtype, generator=generator)
        return torch.tanh(value @ weight) + 0.1

    def do(task: Task) -> Tensor:
        reads = [values[name] for name in task.reads]
        match task.op:
            case "apply":
                return apply(task.propagator, *reads)
            case "combine":
                return combine(task.signs, *reads)
            case "slice":
                return cut(reads[0], task.parts)[task.part]
            case "join":
                return join(reads)
        raise AssertionError(task)

    values = {"x": x}
    for task in schedule:
        if task.op not in {"send", "recv"}:
            values[task.value] = do(task)
    return values


def squeezed(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_schedule_of_two_ranks_in_two_slices() -> None:
    text = place(chunked(2, 2, Parareal(), 2), 2, 2).text()
    assert squeezed(text) == squeezed(GOLDEN)


@given(st.data(), methods(), st.integers(2, 4), st.booleans(), st.booleans())
def test_chunked_schedules_verify_and_stay_on_their_ranks(
    data: st.DataObject, method: Parareal, parts: int, head: bool, deliver: bool
) -> None:
    n = data.draw(st.integers(1, 6))
    ranks = data.draw(st.integers(1, n))
    schedule = chunked(n, ranks, method, parts, head=head)
    assert schedule.verify() is schedule
    placed = place(schedule, n, ranks, deliver=deliver)
    assert {task.rank for task in placed} == set(range(ranks))
    neighbours = {
        (t.rank, t.peer) for t in placed if t.op == "send" and t.reads[0] != placed.output
    }
    assert neighbours == {(r, r + 1) for r in range(ranks - 1)}


@given(st.data(), methods(), st.integers(2, 4), st.booleans())
def test_slices_compute_what_the_whole_batch_does(
    data: st.DataObject, method: Parareal, parts: int, head: bool
) -> None:
    n = data.draw(st.integers(1, 6))
    ranks = data.draw(st.integers(1, n))
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = parareal_schedule(n, method, head=head)
    after = chunked(n, ranks, method, parts, head=head)
    wanted, found = evaluate(before, x), evaluate(after, x)
    torch.testing.assert_close(found[after.output], wanted[before.output])
    for i, watch in enumerate(before.watches):
        pieces = after.watches[i * parts : (i + 1) * parts]
        assert {(w.sweep, w.interface) for w in pieces} <= {(watch.sweep, watch.interface)}
        for side in ("new", "old"):
            joined = torch.cat([found[getattr(w, side)] for w in pieces])
            torch.testing.assert_close(joined, wanted[getattr(watch, side)])


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_statistics_move_with_the_last_slice_only(parts: int) -> None:
    for correction, guess in product(["residual", "difference"], ["network", "coarse"]):
        method = Parareal(correction=correction, guess=guess, iterations=2)
        schedule = chunked(4, 4, method, parts)
        commits = [t.propagator for t in schedule if t.op == "apply" and t.commits]
        assert len(commits) == len(set(commits))
        applied = {t.propagator for t in schedule if t.op == "apply"}
        assert {name.replace("guess", "coarse") for name in applied} == {
            name.replace("guess", "coarse") for name in commits
        }
        corrections = [t for t in schedule if t.op == "apply" and t.value.endswith("]")]
        assert all(t.value.endswith(f"[{parts - 1}]") for t in corrections if t.commits)


def test_fine_propagators_and_the_head_see_whole_batches() -> None:
    for task in chunked(4, 2, Parareal(iterations=2), 3):
        if task.propagator.startswith(("fine.", "guess.", "head")):
            assert task.parts == 1
            assert not any(name.endswith("]") for name in task.reads)


def test_one_slice_is_the_schedule_itself() -> None:
    schedule = parareal_schedule(3, Parareal())
    assert chunk(schedule, 1, lambda piece: piece) is schedule


def test_a_state_that_crosses_ranks_is_sent_in_slices_only() -> None:
    placed = place(chunked(3, 3, Parareal(), 2), 3, 3)
    sends = [[t.reads[0] for t in placed if t.op == "send" and t.rank == r] for r in range(3)]
    assert sends == [["v1.0[0]", "v1.0[1]"], ["u2.1[0]", "u2.1[1]"], []]


@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_nothing_is_sent_both_whole_and_in_slices(correction: str) -> None:
    method = Parareal(correction=correction, iterations=3)
    sends = [t for t in place(chunked(5, 5, method, 2), 5, 5) if t.op == "send"]
    sliced = {(t.rank, t.reads[0].partition("[")[0]) for t in sends if "[" in t.reads[0]}
    assert sliced
    assert not sliced & {(t.rank, t.reads[0]) for t in sends if t.reads[0] != "out"}


# which networks treat every sample by itself


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Two(nn.Module):
    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * y, y.sum(0).expand_as(y) if self.mixes else y


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, -1)


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, training=self.training)


IMAGE, ROW = TensorSpec((4, 3, 5, 5), torch.float64), TensorSpec((4, 6), torch.float64)
SEPARABLE = [
    (nn.Conv2d(3, 2, 3), IMAGE),
    (nn.Linear(6, 2), ROW),
    (nn.ReLU(), ROW),
    (nn.ReLU(inplace=True), ROW),
    (nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Tanh()), IMAGE),
]
MIXING = [
    (nn.BatchNorm2d(3), IMAGE),
    (nn.BatchNorm1d(6), ROW),
    (nn.BatchNorm1d(6).eval(), ROW),
    (nn.Dropout(0.5), ROW),
    (nn.Dropout(0.5).eval(), ROW),
    (FunctionalDropout(), ROW),
    (Centred(), ROW),
    (FixedBatch(), ROW),
]


@pytest.mark.parametrize(("module", "spec"), SEPARABLE, ids=str)
def test_networks_that_treat_every_sample_by_itself(module: nn.Module, spec: TensorSpec) -> None:
    assert is_separable(module.double(), (spec,), 4)


@pytest.mark.parametrize(("module", "spec"), MIXING, ids=str)
def test_networks_that_mix_samples_in_training(module: nn.Module, spec: TensorSpec) -> None:
    assert not is_separable(module.double(), (spec,), 4)


@pytest.mark.parametrize("mixes", [False, True])
def test_every_tensor_of_a_state_counts(mixes: bool) -> None:
    assert is_separable(Two(mixes), (ROW, ROW), 4) is not mixes


def test_a_state_without_a_batch_axis_is_not_separable() -> None:
    assert not is_separable(nn.ReLU(), (ROW, TensorSpec((), torch.float64)), 4)
    assert not is_separable(nn.ReLU(), (TensorSpec((3, 6)),), 4)
    assert not is_separable(nn.ReLU(), (TensorSpec((1, 6)),), 1)


def test_looking_changes_neither_statistics_nor_random_numbers() -> None:
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)).double().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    is_separable(module, (ROW,), 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part.training for part in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


# the option


def dense(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [
            nn.Sequential(nn.Linear(4, 4), *([nn.BatchNorm1d(4)] if norm else []), nn.Tanh())
        ]
    return nn.Sequential(*layers).double()


X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def on_two_threads(
    model: nn.Module, chunks: int | None, method: Parareal | None = None
) -> list[nn.Module | Exception]:
    group = LocalGroup(2, patience=30)
    found: dict[int, nn.Module | Exception] = {}

    def work(rank: int) -> None:
        try:
            found[rank] = compiled(
                model, 3, method or Parareal(), X, comm=group.member(rank), chunks=chunks
            )
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(2)]


def test_slices_are_for_ranks() -> None:
    with pytest.raises(MethodError, match=r"chunks=2: .*for networks on ranks"):
        compiled(dense(), 2, Parareal(), X, chunks=2)


@pytest.mark.parametrize("chunks", [0, -1])
def test_there_is_at_least_one_slice(chunks: int) -> None:
    with pytest.raises(MethodError, match=rf"chunks={chunks}: expected a number of slices of 1"):
        compiled(dense(), 2, Parareal(), X, comm=LocalGroup(1).member(0), chunks=chunks)


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_the_number_of_slices_can_be_chosen(chunks: int) -> None:
    for net in on_two_threads(dense(), chunks):
        assert isinstance(net, nn.Module), net
        assert net.plan.chunks == chunks
        sliced = [task.parts for task in net.schedule if task.value.startswith("c2.0")]
        assert sliced == [chunks] * chunks


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_networks_that_mix_samples_are_not_sliced() -> None:
    method = Parareal(coarse="fine")
    for error in on_two_threads(dense(norm=True), 2, method):
        assert isinstance(error, MethodError)
        assert "chunks=2: the coarse network of subnetwork 2 does not treat every" in str(error)
    for net in on_two_threads(dense(norm=True), None, method):
        assert isinstance(net, nn.Module), net
        assert net.plan.chunks == 1
