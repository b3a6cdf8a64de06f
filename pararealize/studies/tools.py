"""Tools that cut networks: this package in its exact setting, and torch's own pipelining."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline
from torch.utils._pytree import tree_leaves

from pararealize.compiler import pararealize
from pararealize.errors import SlowerThanSerialWarning
from pararealize.ir.methods import Parareal
from pararealize.studies.check import Outcome, outcome
from pararealize.studies.processes import in_processes
from pararealize.studies.reach import Case, Tool, aliases
from pararealize.studies.variants import objective, start_gloo

#: The setting in which a parareal network has to equal the serial one.
EXACT = Parareal(coarse="fine", correction="difference")

#: Longest time for one step of a small network on ranks.
SECONDS = 60.0


def compiled(model: nn.Module, case: Case) -> nn.Module:
    """As many subnetworks as a pipeline has stages, cut where the compiler likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        inputs = tuple(case.inputs.values())
        return pararealize(model, len(case.splits) + 1, method=EXACT, example_inputs=inputs)


def piped(model: nn.Module, case: Case) -> nn.Module:
    """Stages traced by torch.export, with the whole batch as one microbatch."""
    splits = dict.fromkeys(case.splits, SplitPoint.BEGINNING)
    return pipeline(model, mb_args=tuple(case.inputs.values()), split_spec=splits)


def stages(pipe: Any) -> list[nn.Module]:
    """The modules of a pipeline."""
    return [pipe.get_stage_module(index) for index in range(pipe.num_stages)]


def gpipe(pipe: Any, case: Case) -> Outcome:
    """One GPipe step, each stage on its own rank over gloo."""
    names = {name: first for first, found in aliases(case.build()).items() for name in found}
    with TemporaryDirectory() as folder:
        ranks: list[Callable[[], Outcome]] = [
            partial(_rank, pipe, case, folder, rank) for rank in range(pipe.num_stages)
        ]
        parts = in_processes(ranks, SECONDS)
    gradients: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for part in parts:
        for name, gradient in part.gradients.items():
            gradients[names.get(name, name)] = gradients[names.get(name, name)] + gradient
    buffers = {name: buffer for part in parts for name, buffer in part.buffers.items()}
    return Outcome(parts[-1].outputs, gradients, buffers)


def _rank(pipe: Any, case: Case, folder: str, rank: int) -> Outcome:
    start_gloo(folder, rank, pipe.num_stages)
    stage = pipe.build_stage(rank, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, 1, loss_fn=lambda output, _target: objective(output))
    output = None
    if rank == 0:
        schedule.step(*case.inputs.values())
    else:
        last = rank == pipe.num_stages - 1
        target = {"target": torch.zeros(len(next(iter(case.inputs.values()))))} if last else {}
        output = schedule.step(**reused(stage, case), **target)
    dist.barrier()
    leaves = [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    module = pipe.get_stage_module(rank)
    return Outcome(
        {f"output {i}": leaf for i, leaf in enumerate(leaves)},
        {k: p.grad for k, p in module.named_parameters() if p.grad is not None},
        {k: b.detach() for k, b in module.named_buffers()},
    )


def reused(stage: Any, case: Case) -> dict[str, Tensor]:
    """Inputs of the network that a later stage uses too; its rank's caller has to give them."""
    wanted = {node.name for node in stage.node.args if node.op == "placeholder"}
    return {name: value for name, value in case.inputs.items() if name in wanted}


OURS = Tool("pararealize", compiled, lambda net: [net], lambda net, case: outcome(net, case.inputs))
PIPELINING = Tool("torch pipelining", piped, stages, gpipe)
