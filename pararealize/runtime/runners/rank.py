"""Rank: run one rank's part of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import DisagreementError, PeerError
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.endpoint import Call, Endpoint
from pararealize.runtime.communication.fingerprint import is_compared
from pararealize.runtime.communication.occasions import READS, agree
from pararealize.runtime.communication.overflow import Overflow, is_half
from pararealize.runtime.communication.random_streams import Draw, RandomStreams
from pararealize.runtime.communication.readers import refuse_global_optimizers
from pararealize.runtime.communication.tied_parameters import Tie, Ties
from pararealize.runtime.communication.transport import Transport, stopped
from pararealize.runtime.monitoring.jumps import Jumps, summed_jumps
from pararealize.runtime.monitoring.measures import batch_of
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.runners.rank_programs import RankProgram
from pararealize.runtime.runners.rank_tasks import RankTasks
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import parameters_of, tensors_of

#: Seconds for which a rank that failed waits to hear what the others were called with.
MOST = 5.0

#: Shares of a sum over ranks, whose states may have other types on each.
WIDE = torch.float64

#: The order of jumps in a report.
PLACE = attrgetter("sweep", "interface")


@final
class RankRunner(Runner):
    """Runs one rank's part of a network; all ranks call it and get the same output.

    ``network`` holds this rank's parameters, and its mode; ``ties`` are those that others hold too;
    ``number`` tells it from other networks of the same ranks.
    """

    def __init__(
        self,
        program: RankProgram,
        propagators: Mapping[Target, Propagator],
        arguments: Arguments,
        draws: tuple[Draw, ...],
        transport: Transport,
        network: nn.Module,
        ties: tuple[Tie, ...] = (),
        number: int = 0,
        *,
        guarded: bool = True,
    ) -> None:
        super().__init__(None, program.solver)
        self._propagators = tuple(propagators.values())
        self._program, self._transport = program, transport
        self._arguments, self._network = arguments, network
        rank = transport.rank
        self._makes_output = any(
            t.rank == rank and t.value == program.schedule.output and t.op != "recv"
            for t in program.schedule
        )
        own_ties = Ties(ties, network, transport) if ties else None
        endpoint = Endpoint(
            transport, program.certain, own_ties, Overflow(network, transport), number
        )
        streams = RandomStreams(draws, transport)
        self._epoch = transport.epoch
        # Of all ranks, once they have asked for it; before a call there is nothing to ask for.
        self._known: Report | None = program.report if program.knows_part else None
        self._tasks = RankTasks(propagators, program.messages, endpoint, streams, guarded=guarded)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The network's output, the same on every rank; ``jumps`` are those of all ranks.

        Raises:
            DisagreementError: ranks were called with different inputs or in different modes.
            PeerError: another rank failed.

        """
        weights = [weight for weight in parameters_of(self._network) if weight.requires_grad]
        self._known = None
        inputs = self._bound(args, kwargs, weights)
        call = self._begun(inputs, weights, jumps)
        try:
            return self._answer(call, inputs, weights, jumps)
        except BaseException as error:
            self._tasks.streams.undo()
            if not isinstance(error, (PeerError, DisagreementError)):
                self._tell(call, error)
            raise
        finally:
            call.end()

    def _bound(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], weights: Sequence[Tensor]
    ) -> dict[str, Any]:
        """The inputs by name; the others hear where they cannot be, or nothing can be trained."""
        try:
            if weights and is_compared(self._tasks.endpoint.agreed + 1):
                refuse_global_optimizers()
            return dict(self._arguments(*args, **kwargs))
        except Exception as error:
            self._transport.refuse(error)
            raise

    def _begun(
        self, inputs: Mapping[str, Any], weights: Sequence[Tensor], jumps: Jumps | None
    ) -> Call:
        known = self._transport.steps
        try:
            call = self._tasks.endpoint.begin(
                inputs,
                training=self._network.training,
                trainable=bool(weights),
                jumps=jumps is not None,
                half=is_half([*tensors_of(inputs), *weights[:1]]),
            )
        except Exception as error:
            if self._transport.steps == known:
                self._transport.refuse(error)
            elif not isinstance(error, PeerError):
                self._transport.fail(stopped(self._transport, error))
            raise
        if self._epoch != self._transport.epoch:
            self._epoch = self._transport.epoch
            if self.solver is not None:
                self.solver.forget()  # what ranks know of calls before a failure may differ
        return call

    def _tell(self, call: Call, error: BaseException) -> None:
        """Let the other ranks know of this one's error, unless they do something else anyway."""
        error.add_note(f"on rank {self._transport.rank} of {self._transport.size}")
        reason = stopped(self._transport, error)
        if isinstance(error, Exception):
            with suppress(PeerError), self._transport.waiting_at_most(MOST, reason):
                call.settle()  # other inputs on another rank explain more than their effects
        self._transport.fail(reason)

    def _answer(
        self,
        call: Call,
        inputs: Mapping[str, Any],
        weights: Sequence[Tensor],
        jumps: Jumps | None,
    ) -> Any:
        here = self._tasks.begin(call, inputs, weights)
        name, seen, watches = self._program.advance(self._tasks, here, jumps=jumps is not None)
        call.settle()
        self._tasks.streams.end()
        output, made = here.values[name], self._makes_output
        if jumps is None:
            return self._tasks.end(here, output, made=made)[0]
        share = summed_jumps(seen, watches, batch_of(here.inputs)).to("cpu", WIDE)
        result, (penalty,) = self._tasks.end(here, output, made=made, shares=[share])
        jumps.keep(penalty, result)
        return result

    @property
    def report(self) -> Report:
        """What all ranks know of the last call; where each knows a part, all of them ask.

        Raises:
            DisagreementError: on ranks, one of them does something else.

        """
        known = self._known or self._program.report
        if self._known is None and self._program.knows_part and not self._transport.broken:
            agree(self._transport, READS)
            parts = self._transport.exchange(known.jumps)
            jumps = sorted((jump for part in parts for jump in part), key=PLACE)
            self._known = known = replace(known, jumps=tuple(jumps))
        return known

    @property
    def is_apart(self) -> bool:
        """Messages are no part of a graph."""
        return True

    @property
    def propagators(self) -> Iterable[Propagator]:
        """What this rank's tasks apply."""
        return self._propagators

    @property
    def code(self) -> str:
        """The tasks of this rank, a line each."""
        return "\n".join(str(task) for stage in self._program.stages for task in stage.tasks)

    @contextmanager
    def record(self) -> Iterator[Recorder]:
        """Record what this rank does in the block."""
        endpoint = self._tasks.endpoint
        endpoint.recorder = recorder = Recorder()
        try:
            yield recorder
        finally:
            endpoint.recorder = None
