"""Process groups: ranks that reach each other through torch.distributed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from pararealize.errors import PeerError, RankError
from pararealize.runtime.communication.transport import PATIENCE, TOGETHER, Transport


@final
class GroupTransport(Transport):
    """Messages over a torch.distributed process group (nccl, mpi), all whose ranks make one.

    What has failed stays so: these engines can neither wake a rank that waits, nor begin again.

    Raises:
        RankError: the group has been destroyed, or this process is none of its members.

    """

    def __init__(self, group: dist.ProcessGroup, patience: float = PATIENCE) -> None:
        rank, size, self._backend = place_in(group)
        super().__init__(rank, size, patience)
        self._group = group
        self._leaving: list[tuple[Any, Tensor]] = []
        self._before: list[tuple[Any, Tensor]] = []
        self.early = self._backend != "nccl"  # nccl runs the messages of a stream in their order

    @property
    def _device(self) -> torch.device:
        if self._backend == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        numbers = numbers.to(self._device)
        work = self._try(
            peer, lambda: dist.isend(numbers, group=self._group, group_dst=peer, tag=tag)
        )
        self._leaving.append((work, numbers))

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        same = numbers.device.type == self._device.type
        here = numbers if same else torch.empty_like(numbers, device=self._device)
        work = self._try(peer, lambda: dist.irecv(here, group=self._group, group_src=peer, tag=tag))

        def wait() -> None:
            self._try(peer, lambda: work.wait(timedelta(seconds=self.patience)))
            if here is not numbers:
                numbers.copy_(here)

        return wait

    def give_up(self, reason: str) -> None:
        """Nothing is cancelled: what was posted in vain has tags that come round much later."""

    def _announce(self, reason: str) -> None:
        """The others notice when this process ends, or when their patience does."""

    def _mend(self) -> list[int]:
        raise PeerError(
            f"{self.broken} Ranks over {self._backend} cannot go on after a failure: start anew."
        )

    def _try(self, peer: int, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except RuntimeError as error:
            who = f"rank {peer}" if peer >= 0 else "the other ranks"
            raise PeerError(
                f"rank {self.rank} of {self.size} lost {who}, which failed, ended or did not "
                f"answer for {self.patience:.0f} s; its own message says why."
            ) from error

    def begin_gather(
        self,
        numbers: Sequence[int],
        doing: str = TOGETHER,  # noqa: ARG002  nobody hears of it
    ) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers from every rank; the result waits for them."""
        mine = torch.tensor(list(numbers), dtype=torch.int64, device=self._device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        work = self._try(-1, lambda: dist.all_gather(every, mine, self._group, async_op=True))
        self._before, self._leaving = [*self._before, *self._leaving], []

        def wait() -> list[list[int]]:
            self._try(-1, work.wait)
            # All ranks have come to this gathering, and so received what was sent before it; gloo
            # does not tell that a message has left until it is waited for.
            for sent, _ in self._before:
                self._try(-1, sent.wait)
            self._before = []
            return [row.tolist() for row in every]

        return wait

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, by rank; all call it."""
        every: list[Any] = [None] * self.size
        self._try(-1, lambda: dist.all_gather_object(every, value, self._group))
        return every

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks; all call it."""
        total = tensor.detach().to(self._device).contiguous().clone()
        self._try(-1, lambda: dist.all_reduce(total, group=self._group))
        return total.to(tensor.device)


def place_in(group: dist.ProcessGroup) -> tuple[int, int, str]:
    """The rank of this process in a group, the group's size, and its engine.

    Raises:
        RankError: the group has been destroyed, or this process is none of its members.

    """
    try:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        backend = dist.get_backend(group)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unusable(str(error)) from error
    if rank < 0:
        raise _unusable("this process is none of its members")
    return rank, size, backend


def _unusable(reason: str) -> RankError:
    return RankError(
        f"the process group cannot be used ({reason}): pass one that is in use, for example "
        "pararealize(model, n, comm=torch.distributed.group.WORLD) after init_process_group."
    )
