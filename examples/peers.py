"""What happens to a network's modes, names and tied weights when it is cut, beside a peer.

Cuts the same networks with ``torch.distributed.pipelining.pipeline`` and with ``pararealize``, in
one process, and looks at what comes out:

    python examples/peers.py
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.pipelining import SplitPoint, pipeline

from pararealize import Parareal, pararealize
from pararealize.models import resnet

EXACT = Parareal(coarse="fine", correction="difference")


class Tied(nn.Module):
    """Token scores by the transposed embedding, through a few residual layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.scores = nn.Linear(16, 50, bias=False)
        self.scores.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, length]`` to ``[batch, length, 50]``."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        scores: Tensor = self.scores(x)
        return scores


@dataclass(frozen=True)
class Cut:
    """A cut network: how to call it, its mode switch, and its parameters by name."""

    call: Callable[[Tensor], Tensor]
    train: Callable[[bool], object]
    parameters: dict[str, Tensor]


def theirs(model: nn.Module, x: Tensor, at: str) -> Cut:
    """Two stages of torch's own pipelining, run one after the other."""
    pipe = pipeline(model, mb_args=(x,), split_spec={at: SplitPoint.BEGINNING})
    stages = [pipe.get_stage_module(i) for i in range(pipe.num_stages)]

    def call(value: Tensor) -> Tensor:
        for stage in stages:
            value = stage(value)
        return value

    def train(mode: bool) -> None:
        for stage in stages:
            stage.train(mode)

    names = {name: p for stage in stages for name, p in stage.named_parameters()}
    return Cut(call, train, names)


def ours(model: nn.Module, x: Tensor, _at: str) -> Cut:
    """Two subnetworks in the exact setting."""
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    own = {k: p for k, p in net.named_parameters() if not k.startswith(("guess.", "coarse."))}
    return Cut(net, net.train, own)


def try_to(action: Callable[[], str]) -> str:
    """The action's finding, or how it fails."""
    try:
        return action()
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error).splitlines()[0][:60]}"


def seconds_to_cut(cut: Callable[..., Cut]) -> str:
    """Median of three cuts of a ResNet-101."""
    spent = []
    for _ in range(3):
        model = resnet(101)
        begin = time.perf_counter()
        cut(model, torch.randn(2, 3, 32, 32), "layer2.4")
        spent.append(time.perf_counter() - begin)
    return f"{statistics.median(spent):.2f} s"


def follows_eval(cut: Callable[..., Cut]) -> str:
    """Whether the cut network answers as the original does after ``eval()``."""
    model, x = resnet(20), torch.randn(4, 3, 32, 32)
    made = cut(model.train(), x, "layer2.0")
    made.train(False)
    with torch.no_grad():
        gap = (made.call(x) - model.eval()(x)).abs().max().item()
    return "yes" if gap < 1e-4 else f"no: off by {gap:.2g}"


def keeps_names(cut: Callable[..., Cut]) -> str:
    """Whether parameters have the original's names."""
    model = resnet(20)
    made = cut(model, torch.randn(4, 3, 32, 32), "layer2.0")
    return "yes" if set(made.parameters) == {n for n, _ in model.named_parameters()} else "no"


def keeps_ties(cut: Callable[..., Cut]) -> str:
    """Whether a weight used at both ends is still one parameter."""
    made = cut(Tied(), torch.randint(50, (4, 6)), "layers.2")
    shared = [p for p in made.parameters.values() if p.shape == (50, 16)]
    same = len({p.data_ptr() for p in shared}) == 1
    return "yes" if same else f"no: {len(shared)} copies"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    table = Table(title=f"cut in two, one process, {torch.get_num_threads()} threads")
    table.add_column("")
    for column in ("torch.distributed.pipelining", "pararealize"):
        table.add_column(column)
    questions = {
        "time to cut ResNet-101": seconds_to_cut,
        "follows .eval()": follows_eval,
        "parameter names kept": keeps_names,
        "tied weights stay one": keeps_ties,
    }
    for text, question in questions.items():
        row = [try_to(lambda q=question, c=cut: q(c)) for cut in (theirs, ours)]  # type: ignore[misc]
        table.add_row(text, *row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
