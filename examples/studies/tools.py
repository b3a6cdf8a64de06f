"""Tools that cut networks: this package in its exact setting, and torch's own pipelining."""

from __future__ import annotations

import warnings
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline
from torch.utils._pytree import tree_leaves

from pararealize.cli.differences import StepOutcome, outcome
from pararealize.cli.variants import objective, start_gloo
from pararealize.compiler import pararealize
from pararealize.errors import SlowerThanSerialWarning
from pararealize.ir.methods import Parareal
from studies.processes import in_processes
from studies.reach import Case, Tool

#: The setting in which a parareal network has to equal the serial one.
EXACT = Parareal(coarse="fine", correction="difference")

#: Longest time for one step of a small network on ranks.
SECONDS = 60.0


def compiled(model: nn.Module, case: Case) -> nn.Module:
    """As many subnetworks as a pipeline has stages, cut where the compiler likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        inputs = tuple(case.inputs.values())
        return pararealize(model, case.pieces, method=EXACT, example_inputs=inputs)


def alone(net: nn.Module, case: Case) -> list[StepOutcome]:
    """One step in this process."""
    return [outcome(net, case.inputs)]


def piped(model: nn.Module, case: Case) -> nn.Module:
    """Stages traced by torch.export, with the whole batch as one microbatch."""
    splits = dict.fromkeys(case.splits, SplitPoint.BEGINNING)
    return pipeline(model, mb_args=tuple(case.inputs.values()), split_spec=splits)


def stages(pipe: Any) -> list[nn.Module]:
    """The modules of a pipeline."""
    return [pipe.get_stage_module(index) for index in range(pipe.num_stages)]


def gpipe(pipe: Any, case: Case) -> list[StepOutcome]:
    """One GPipe step, each stage on its own rank over gloo."""
    with TemporaryDirectory() as folder:
        ranks = range(pipe.num_stages)
        return in_processes([partial(_rank, pipe, case, folder, rank) for rank in ranks], SECONDS)


def _rank(pipe: Any, case: Case, folder: str, rank: int) -> StepOutcome:
    start_gloo(folder, rank, pipe.num_stages)
    stage = pipe.build_stage(rank, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 1, loss_fn=lambda output, _target: objective(output))
    inputs = tuple(case.inputs.values()) if rank == 0 else ()
    # Without a target there would be no loss, and nothing to go back from.
    output = schedule.step(*inputs, target=torch.zeros(1) if stage.is_last else None)
    leaves = [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return StepOutcome(
        {f"output {i}": leaf for i, leaf in enumerate(leaves)},
        {k: p.grad for k, p in stage.submod.named_parameters() if p.grad is not None},
        {k: buffer.detach() for k, buffer in stage.submod.named_buffers()},
    )


#: The tools that are compared.
OURS = Tool("pararealize", compiled, lambda net: [net], alone)
PIPELINING = Tool("pipeline()", piped, stages, gpipe)
