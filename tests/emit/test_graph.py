"""Lowering: one node a task, under its name, in its order."""

import pytest
import torch
from torch import Tensor, fx, nn

from pararealize.emit.graph import lower
from pararealize.ir.methods import Parareal
from pararealize.ir.program import Operation
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Kind
from pararealize.propagators.registered import Registered
from pararealize.runtime.values.combine import combine
from pararealize.schedule.parareal import parareal_schedule

ARGUMENTS = (Operation("x_1", "input", "x"), Operation("scale", "input", "scale", (2.0,)))


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, state: Tensor, *extra: float) -> Tensor:
        return self.factor * state + sum(extra)


def lowered(n: int, method: Parareal) -> tuple[fx.GraphModule, Schedule]:
    """Linear maps v -> j v, reading the input where they are the first ones."""
    schedule = parareal_schedule(n, method, head=False)
    parts = {}
    for task in schedule:
        if task.target is not None:
            j = task.target.number
            registry = nn.ModuleDict({str(j): Scaled(float(j))})
            inputs = ("x_1",) if task.target.kind is Kind.GUESS or j == 1 else ()
            parts[task.target] = Registered(
                registry, str(j), str(task.target), leaves=0 if inputs else 1, inputs=inputs
            )
    return lower(schedule, ARGUMENTS, parts), schedule


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("correction", ["residual", "difference"])
def test_nodes_are_tasks(n: int, correction: str) -> None:
    module, schedule = lowered(n, Parareal(correction=correction, iterations=2))
    nodes = [node for node in module.graph.nodes if node.op.startswith("call")]
    assert [node.meta["task"] for node in nodes] == [str(task) for task in schedule]
    assert [node.name for node in nodes] == [t.value.replace(".", "_") for t in schedule]
    assert {node.target for node in nodes if node.op == "call_function"} <= {combine}
    module.graph.lint()


def test_arguments_keep_names_and_defaults() -> None:
    module, _ = lowered(2, Parareal())
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    assert [(node.target, node.args) for node in placeholders] == [("x", ()), ("scale", (2.0,))]
    assert "def forward(self, x, scale = 2.0)" in module.code


def test_values_by_hand() -> None:
    # v1 = 1 x; u1 = 1 x; v2 = 2 u1; the jump v1 - u1 is zero.
    module, _ = lowered(2, Parareal())
    output, watched = module(torch.tensor([3.0]))
    assert output.item() == 6.0
    (new, old) = watched[0]
    assert (new.item(), old.item()) == (3.0, 3.0)


def test_values_of_three_by_hand() -> None:
    # u1 = x, u2 = 2 x; v1 = x, v2 = 2 x, v3 = 3 (2 x); no jumps.
    module, _ = lowered(3, Parareal())
    output, watched = module(torch.tensor([1.0]))
    assert output.item() == 6.0
    assert len(watched) == 2


def test_quiet_tasks_pass_the_flag() -> None:
    module, schedule = lowered(3, Parareal(iterations=2))
    quiet = {t.value.replace(".", "_") for t in schedule if not t.commits}
    flags = {n.name for n in module.graph.nodes if n.kwargs == {"commits": False}}
    assert flags == quiet != set()


def test_the_code_runs_alone() -> None:
    module, _ = lowered(2, Parareal())
    assert "combine('+-', v1_0, u1_0)" in module.code
    compile(module.code, "lowered", "exec")
