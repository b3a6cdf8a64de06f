"""Occasions: what all ranks come together for; one that does something else is named at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from pararealize.errors import DisagreementError
from pararealize.runtime.communication.agreement import digest
from pararealize.runtime.communication.transport import Transport

#: How the text of a call of the network begins; what follows is its signature.
CALLS = "calls the network with "

#: What a rank does that looks at the report of a call.
READS = "reads net.report"

#: Numbers that tell apart what ranks do in the same words, by what they count.
Numbers = Mapping[str, int]
NONE: Numbers = MappingProxyType({})


def begin(
    transport: Transport, text: str, first: int = 0, second: int = 0, numbers: Numbers = NONE
) -> Callable[[], list[tuple[int, int]]]:
    """Start to tell all ranks what this one does, in words, and two numbers of its own.

    What begins so is of one size whatever it is, so that ranks which do different things hear of
    each other. The result waits for the numbers of all ranks.
    """
    key = digest(f"{text} {dict(numbers)}")
    answer = transport.begin_gather([key, first, second], text)

    def wait() -> list[tuple[int, int]]:
        rows = answer()
        if len({row[0] for row in rows}) > 1:
            raise differ(transport, text, numbers)
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


def differ(transport: Transport, text: str, numbers: Numbers = NONE) -> DisagreementError:
    """The error of ranks that do different things, which all of them have seen.

    They count calls alike from here on, and go on with nothing that is under way.
    """
    rows = transport.gather((text, dict(numbers), transport.steps))
    transport.steps = max(steps for _, _, steps in rows)
    error = _disagreement([said for said, _, _ in rows], [found for _, found, _ in rows])
    transport.give_up(str(error))
    return error


def _disagreement(texts: Sequence[str], numbers: Sequence[Numbers]) -> DisagreementError:
    """What to say of ranks that do this each."""
    if all(said.startswith(CALLS) for said in texts):
        apart = [key for key in numbers[0] if len({found[key] for found in numbers}) > 1]
        said = [
            ", ".join([*(f"{key} {found[key]}" for key in apart), text.removeprefix(CALLS)])
            for text, found in zip(texts, numbers, strict=True)
        ]
        order = " Networks are counted as they are compiled, and called in one order."
        return DisagreementError(
            f"ranks were called with different inputs or in different modes ({_listed(said, ': ')})"
            f": call the network on every rank with the same batch.{order * ('network' in apart)}"
        )
    if READS in texts:
        return DisagreementError(
            f"ranks do different things ({_listed(texts, ' ')}): each rank knows the jumps of its "
            "own interfaces, and asks the others for theirs. Write report = net.report on every "
            "rank, and then `if rank == 0: print(report)`."
        )
    return DisagreementError(
        f"ranks do different things ({_listed(texts, ' ')}): every rank has to call the network, "
        "its backward pass, and whatever concerns all of it (save, to_serial, clip_grad_norm_, "
        "calibrate), equally often and in the same order. Write net.save(path) without "
        "`if rank == 0:`, and loss.backward() on every rank."
    )


def _listed(texts: Sequence[str], between: str) -> str:
    return "; ".join(f"rank {rank}{between}{text}" for rank, text in enumerate(texts))
