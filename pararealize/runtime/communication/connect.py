"""Connect: the transport of whatever communicator the user brings."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch.distributed as dist

from pararealize.errors import RankError
from pararealize.runtime.communication.gloo import GlooTransport
from pararealize.runtime.communication.mpi import MPITransport
from pararealize.runtime.communication.process_group import GroupTransport, place_in
from pararealize.runtime.communication.transport import Transport


def connect(comm: Any, patience: float | None = None) -> Transport:
    """A transport over an mpi4py communicator or a torch.distributed process group.

    All networks of one communicator have one: ranks that call them in another order find out.
    ``comm=connect(MPI.COMM_WORLD, patience=60)`` sets how many seconds a rank waits for another.

    Args:
        comm: the communicator, all of whose ranks call this; a transport is given back as it is.
        patience: seconds to wait for a message, by default 600 or what was set before.

    Raises:
        RankError: it is neither, or can no longer be used; or the patience is no time.

    """
    if patience is not None and not patience > 0:
        raise RankError(f"patience={patience!r}: expected seconds to wait, as patience=60.")
    transport = _transport(comm)
    if patience is not None:
        transport.patience = float(patience)
    return transport


def _transport(comm: Any) -> Transport:
    if isinstance(comm, Transport):
        return comm
    if type(comm).__module__.partition(".")[0] == "mpi4py":
        return _over_mpi(comm)
    if dist.is_available():
        outsider: Any = dist.GroupMember.NON_GROUP_MEMBER  # what new_group gives to non-members
        if isinstance(comm, dist.ProcessGroup) or comm is outsider:
            place_in(comm)
            return _over_group(comm)
    raise RankError(
        f"comm={comm!r}: expected an mpi4py communicator (comm=MPI.COMM_WORLD) or a "
        "torch.distributed process group (comm=torch.distributed.group.WORLD)."
    )


def _over_mpi(comm: Any) -> Transport:
    """The transport that the communicator carries as an attribute, or a new one."""
    from mpi4py import MPI  # noqa: PLC0415  only those who bring a communicator need it

    found = None if comm == MPI.COMM_NULL else comm.Get_attr(_attribute())
    if found is None:
        found = MPITransport(comm)
        comm.Set_attr(_attribute(), found)
    transport: Transport = found
    return transport


@cache
def _attribute() -> int:
    """What MPI knows the attribute by."""
    from mpi4py import MPI  # noqa: PLC0415

    key: int = MPI.Comm.Create_keyval()
    return key


@cache
def _over_group(group: dist.ProcessGroup) -> Transport:
    """The group's transport; torch has no attributes of groups to keep it in."""
    transport = GroupTransport if dist.get_backend(group) == "nccl" else GlooTransport
    return transport(group)
