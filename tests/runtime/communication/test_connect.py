"""Connecting: which communicators become transports."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from local_transport import LocalGroup
from pararealize.errors import RankError
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.gloo import GlooTransport


@pytest.fixture
def world(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path / uuid.uuid4().hex), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield dist.group.WORLD
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_transport_passes_through() -> None:
    member = LocalGroup(2).member(1)
    assert connect(member) is member


@pytest.mark.parametrize(
    "comm",
    [None, 2, "world", object(), dist, SimpleNamespace(rank=0, size=2)],
    ids=lambda comm: type(comm).__name__,  # the same in every process
)
def test_what_is_no_communicator_is_refused(comm: Any) -> None:
    with pytest.raises(RankError, match=r"comm=.*expected an mpi4py communicator") as error:
        connect(comm)
    assert str(error.value).startswith(f"comm={comm!r}")
    assert "torch.distributed.group.WORLD" in str(error.value)


def test_a_process_group_becomes_a_transport(world: dist.ProcessGroup) -> None:
    transport = connect(world)
    assert isinstance(transport, GlooTransport)
    assert (transport.rank, transport.size) == (0, 1)
    assert transport.gather({"a": 1}) == [{"a": 1}]
    mine = torch.ones(2, dtype=torch.float64)
    assert torch.equal(transport.sum(mine), mine)


def test_a_group_without_this_process_is_refused() -> None:
    with pytest.raises(RankError, match="the process group cannot be used"):
        connect(dist.GroupMember.NON_GROUP_MEMBER)


def test_a_group_that_was_destroyed_is_refused(world: dist.ProcessGroup) -> None:
    dist.destroy_process_group()
    with pytest.raises(RankError, match="the process group cannot be used"):
        connect(world)


def test_networks_of_one_group_have_one_transport(world: dist.ProcessGroup) -> None:
    assert connect(world) is connect(world)


def test_patience_is_an_argument(world: dist.ProcessGroup) -> None:
    assert connect(world).patience == 600
    assert connect(world, patience=7).patience == 7
    assert connect(world).patience == 7  # of all networks of the communicator
    member = LocalGroup(2).member(0)
    assert connect(member, patience=3) is member
    assert member.patience == 3


@pytest.mark.parametrize("patience", [0, -1, math.nan])
def test_patience_is_a_time(patience: float) -> None:
    with pytest.raises(RankError, match=r"patience=.*expected seconds"):
        connect(LocalGroup(2).member(0), patience=patience)
