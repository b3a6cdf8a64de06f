"""Chains and partitions: specs, costs, states and pieces."""

import pytest
import torch
from torch import nn

from pararealize.chain.interfaces import build_chain
from pararealize.cost.inputs import infer_profile
from pararealize.ir.chain import Chain, Cost, Partition, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.tracing.trace import trace


@pytest.fixture
def chain() -> Chain:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine()))


def test_specs_count_bytes() -> None:
    assert TensorSpec((2, 3, 4)).bytes == 96
    assert TensorSpec((2, 3), torch.float64).bytes == 48
    assert TensorSpec(()).bytes == 4
    assert TensorSpec((0, 3)).bytes == 0
    assert str(TensorSpec((2, 3), torch.int64)) == "[2, 3] int64"


def test_costs_add() -> None:
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)


def test_states_and_costs_of_layers(chain: Chain) -> None:
    assert len(chain.layers) == 4
    assert [chain.state(i) for i in range(5)] == [
        (),
        (TensorSpec((2, 8)),),
        (TensorSpec((2, 8)),),
        (TensorSpec((2, 8)),),
        (),
    ]
    assert chain.cost(0, 4).flops == 2 * 2 * (4 * 8 + 8 * 8 + 8 * 2)
    assert chain.cost(1, 2).flops == 0
    assert chain.cost(2, 2) == Cost()


def test_interfaces_know_their_size_and_name(chain: Chain) -> None:
    assert [i.bytes for i in chain.interfaces] == [64, 64, 64]
    assert [str(i) for i in chain.interfaces] == ["0", "1", "2"]


def test_segments_join(chain: Chain) -> None:
    for i in range(1, 4):
        left = chain.segment(0, i, training=True)
        right = chain.segment(i, 4, training=True)
        assert left.results == right.state
        assert right.results is None


def test_partitions_know_pieces_and_head(chain: Chain) -> None:
    partition = Partition(chain, (0, 1, 3))
    assert partition.n == 2
    assert partition.has_head
    assert [partition.piece(j) for j in (1, 2)] == [(0, 1), (1, 3)]
    assert partition.interface(1) is chain.interfaces[0]
    assert not Partition(chain, (0, 1, 4)).has_head
