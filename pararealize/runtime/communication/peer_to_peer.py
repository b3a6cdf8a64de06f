"""Peer to peer: what all ranks share, by messages between every two of them."""

from __future__ import annotations

import pickle
from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.communication.occasions import differ
from pararealize.runtime.communication.transport import TOGETHER, Transport

#: Tags: numbers that begin whatever all do together, then objects, and sums.
ROW, OBJECT, SUM = (2**27 + i for i in range(1, 4))

#: What a row of numbers begins: an occasion, or an exchange of objects; its length.
NUMBERS, OBJECTS, LENGTH = 1, 2, 4

#: Numbers by a rank below which a sum takes one message between two ranks, however many there are.
FEW = 4096

#: Types too narrow to be added in.
NARROW = (torch.bfloat16, torch.float16)


class PeerToPeer(Transport, ABC):
    """Collects and sums by messages of its own, which unlike those of an engine can be given up.

    Every such step begins with a row of numbers of one length, whatever it is: ranks that take
    different steps find out, and say so, all of them.
    """

    def _start(self, numbers: Tensor, tag: int) -> Callable[[], list[Tensor]]:
        """Start to collect as many numbers of every rank, by rank; the result waits for them."""
        rows = {peer: torch.empty_like(numbers) for peer in self.others}
        waits = [self.receive(row, peer, tag) for peer, row in rows.items()]
        for peer in self.others:
            self._send(numbers, peer, tag)

        def wait() -> list[Tensor]:
            for each in waits:
                each()
            return [rows.get(rank, numbers) for rank in range(self.size)]

        return wait

    def begin_gather(
        self, numbers: Sequence[int], doing: str = TOGETHER
    ) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers, at most three, from every rank; the result waits."""
        count, wait = len(numbers), self._row(NUMBERS, numbers, doing)
        return lambda: [row[:count] for row in wait()]

    def _row(self, kind: int, numbers: Sequence[int], doing: str) -> Callable[[], list[list[int]]]:
        self.mend()
        padding = (0,) * (LENGTH - 1 - len(numbers))
        wait = self._start(torch.tensor([kind, *numbers, *padding]), ROW)

        def rows() -> list[list[int]]:
            self.task = f"what all ranks do together; here, it {doing}"
            found = [row.tolist() for row in wait()]
            if len({first for first, *_ in found}) > 1:
                raise differ(self, doing)
            return [rest for _, *rest in found]

        return rows

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, by rank; all call it."""
        content = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        lengths = self._row(OBJECTS, [content.numel()], TOGETHER)()
        self.task = "a value of every rank"
        parts = {p: torch.empty(lengths[p][0], dtype=torch.uint8) for p in self.others}
        waits = [self.receive(part, peer, OBJECT) for peer, part in parts.items()]
        for peer in self.others:
            self._send(content, peer, OBJECT)
        for each in waits:
            each()
        every = [parts.get(rank, content) for rank in range(self.size)]
        return [pickle.loads(part.numpy().tobytes()) for part in every]

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks, in their order; all call it."""
        self.check()
        self.task = "a sum over all ranks"
        wide = torch.float32 if tensor.dtype in NARROW else tensor.dtype
        mine = tensor.detach().to("cpu", wide).contiguous().view(-1)
        if self.size > 2 and mine.numel() >= FEW * self.size:
            total = self._sum_by_shares(mine)
        else:
            total = added(self._start(mine, SUM)())
        return total.view(tensor.shape).to(tensor.device, tensor.dtype)

    def _sum_by_shares(self, mine: Tensor) -> Tensor:
        """Each rank adds up one share of the numbers, and gives it to all."""
        shares = [share.contiguous() for share in mine.tensor_split(self.size)]
        own = shares[self.rank]
        parts = {peer: torch.empty_like(own) for peer in self.others}
        waits = [self.receive(part, peer, SUM) for peer, part in parts.items()]
        for peer in self.others:
            self._send(shares[peer], peer, SUM)
        for each in waits:
            each()
        total = added([parts.get(rank, own) for rank in range(self.size)])
        sums = {peer: torch.empty_like(shares[peer]) for peer in self.others}
        waits = [self.receive(share, peer, SUM) for peer, share in sums.items()]
        for peer in self.others:
            self._send(total, peer, SUM)
        for each in waits:
            each()
        return torch.cat([sums.get(rank, total) for rank in range(self.size)])


def added(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, in their order; a new tensor."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total
