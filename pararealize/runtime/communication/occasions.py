"""Occasions: what all ranks come together for; one that does something else is named at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pararealize.errors import DisagreementError
from pararealize.runtime.communication.agreement import digest
from pararealize.runtime.communication.transport import Transport

#: How the text of a call of the network begins; what follows is its signature.
CALLS = "calls the network with "


def begin(
    transport: Transport, text: str, first: int = 0, second: int = 0
) -> Callable[[], list[tuple[int, int]]]:
    """Start to tell all ranks what this one does, in words, and two numbers of its own.

    What begins so is of one size whatever it is, so that ranks which do different things hear of
    each other. The result waits for the numbers of all ranks.
    """
    answer = transport.begin_gather([digest(text), first, second])

    def wait() -> list[tuple[int, int]]:
        rows = answer()
        if len({row[0] for row in rows}) > 1:
            raise _disagreement(transport, text)
        return [(one, other) for _, one, other in rows]

    return wait


def agree(
    transport: Transport | None, text: str, first: int = 0, second: int = 0
) -> list[tuple[int, int]]:
    """Go on when all ranks have come to do what ``text`` says; their numbers, by rank.

    Raises:
        DisagreementError: one of them does something else; all raise it.

    """
    return [(first, second)] if transport is None else begin(transport, text, first, second)()


def _disagreement(transport: Transport, text: str) -> DisagreementError:
    """The error of ranks that do different things; they count calls alike from here on."""
    rows = transport.gather((text, transport.steps))
    transport.steps = max(steps for _, steps in rows)
    texts = [said for said, _ in rows]
    if all(said.startswith(CALLS) for said in texts):
        words = _listed([said.removeprefix(CALLS) for said in texts], ": ")
        return DisagreementError(
            f"ranks were called with different inputs or in different modes ({words}): call "
            "the network on every rank with the same batch."
        )
    return DisagreementError(
        f"ranks do different things ({_listed(texts, ' ')}): every rank has to call the network, "
        "its backward pass, and whatever concerns all of it (save, to_serial, clip_grad_norm_, "
        "calibrate), equally often and in the same order. Write net.save(path) without "
        "`if rank == 0:`, and loss.backward() on every rank."
    )


def _listed(texts: Sequence[str], between: str) -> str:
    return "; ".join(f"rank {rank}{between}{text}" for rank, text in enumerate(texts))
