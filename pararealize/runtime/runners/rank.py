"""Rank: run one rank's part of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import DisagreementError, PeerError
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.endpoint import Call, Endpoint
from pararealize.runtime.communication.fingerprint import is_compared
from pararealize.runtime.communication.overflow import Overflow, is_half
from pararealize.runtime.communication.random_streams import Draw, RandomStreams
from pararealize.runtime.communication.readers import refuse_global_optimizers
from pararealize.runtime.communication.tied_parameters import Tie, Ties
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.monitoring.jumps import Jumps, summed_jumps
from pararealize.runtime.monitoring.measures import batch_of
from pararealize.runtime.monitoring.report import Report
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.runners.rank_programs import RankProgram
from pararealize.runtime.runners.rank_tasks import RankTasks
from pararealize.runtime.runners.runner import Runner
from pararealize.runtime.values.arguments import Arguments
from pararealize.runtime.values.pytree import parameters_of, tensors_of

#: Shares of a sum over ranks, whose states may have other types on each.
WIDE = torch.float64


@final
class RankRunner(Runner):
    """Runs one rank's part of a network; all ranks call it and get the same output.

    ``network`` holds this rank's parameters, and its mode; ``ties`` are those that others hold too.
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
    ) -> None:
        super().__init__(None, program.solver)
        self._program, self._transport = program, transport
        self._arguments, self._network = arguments, network
        rank = transport.rank
        self._makes_output = any(
            t.rank == rank and t.value == program.schedule.output and t.op != "recv"
            for t in program.schedule
        )
        own_ties = Ties(ties, network, transport) if ties else None
        overflow = Overflow(network, transport)
        endpoint = Endpoint(transport, program.certain, own_ties, overflow)
        streams = RandomStreams(draws, transport)
        self._tasks = RankTasks(propagators, program.messages, endpoint, streams)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any], jumps: Jumps | None) -> Any:
        """The network's output, the same on every rank; ``jumps`` are those of all ranks.

        Raises:
            DisagreementError: ranks were called with different inputs or in different modes.
            PeerError: another rank failed.

        """
        inputs = self._arguments(*args, **kwargs)
        weights = [weight for weight in parameters_of(self._network) if weight.requires_grad]
        training, asked = self._network.training, jumps is not None
        endpoint = self._tasks.endpoint
        if weights and is_compared(endpoint.agreed + 1):
            refuse_global_optimizers()
        half = is_half([*tensors_of(inputs), *weights[:1]])
        call = endpoint.begin(
            inputs, training=training, trainable=bool(weights), jumps=asked, half=half
        )
        try:
            return self._answer(call, inputs, weights, jumps)
        except (PeerError, DisagreementError):
            raise
        except BaseException as error:
            if isinstance(error, Exception):
                with suppress(PeerError):
                    call.settle()  # other inputs on another rank explain more than their effects
            who = f"rank {self._transport.rank} of {self._transport.size}"
            error.add_note(f"on {who}")
            self._transport.fail(f"{who} stopped; its own message says why.")
            raise

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
        """What this rank knows of the last call."""
        return self._program.report

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
