"""Connect: the transport of whatever communicator the user brings."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from pararealize.errors import RankError
from pararealize.runtime.communication.mpi import MPITransport
from pararealize.runtime.communication.process_group import GroupTransport
from pararealize.runtime.communication.transport import Transport


def connect(comm: Any) -> Transport:
    """A transport over an mpi4py communicator or a torch.distributed process group.

    Raises:
        RankError: it is neither, or can no longer be used.

    """
    if isinstance(comm, Transport):
        return comm
    if type(comm).__module__.partition(".")[0] == "mpi4py":
        return MPITransport(comm)
    if dist.is_available():
        outsider: Any = dist.GroupMember.NON_GROUP_MEMBER  # what new_group gives to non-members
        if isinstance(comm, dist.ProcessGroup) or comm is outsider:
            return GroupTransport(comm)
    raise RankError(
        f"comm={comm!r}: expected an mpi4py communicator (comm=MPI.COMM_WORLD) or a "
        "torch.distributed process group (comm=torch.distributed.group.WORLD)."
    )
