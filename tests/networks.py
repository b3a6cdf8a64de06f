"""Random chains, their compilation, and one training step of either to compare."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.chain.interfaces import build_chain, find_interface
from pararealize.coarse.registry import asked
from pararealize.cost.inputs import infer_profile
from pararealize.cost.profile import profile
from pararealize.cut.cut import Weights, cut, cut_at
from pararealize.cut.wide_states import with_wide_states
from pararealize.errors import SlowerThanSerialWarning
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet, vgg11
from pararealize.network import ParallelNetwork
from pararealize.schedule import parareal
from pararealize.tracing.trace import trace

BATCH, FEATURES, CHANNELS, SIDE = 6, 3, 2, 4
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Recipe:
    """What a random chain is made of.

    ``family`` is dense, conv, residual (dense), resconv, or skip: dense with connections over
    three layers, so that most interfaces carry two tensors. Where it ``branches``, the graphs of
    its train and eval modes differ.
    """

    family: str = "dense"
    depth: int = 4
    width: int = 4
    activation: str = "tanh"
    inplace: bool = False
    norm: str = ""
    dropout: str = ""
    bias: bool = True
    head: bool = True
    branches: bool = False
    seed: int = 0

    @property
    def convolves(self) -> bool:
        return self.family in {"conv", "resconv"}

    @property
    def residual(self) -> bool:
        return self.family in {"residual", "resconv"}


class FunctionalNorm(nn.Module):
    """Batch normalisation whose forward is traced through, statistics as plain buffers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.mean, self.var, self.weight, self.bias, self.training, 0.1, 1e-2
        )


class Layer(nn.Module):
    """Weights, normalisation, activation and dropout; plus the state where it is residual."""

    def __init__(self, recipe: Recipe, source: int) -> None:
        super().__init__()
        self.residual = recipe.residual and source == recipe.width
        self.map = _map(recipe, source, recipe.width)
        if recipe.norm:
            self.norm = _norm(recipe)
        activation = ACTIVATIONS[recipe.activation]
        self.act = nn.ReLU(recipe.inplace) if activation is nn.ReLU else activation()
        self.dropout = recipe.dropout
        if recipe.dropout == "module":
            self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        y = self.norm(y) if hasattr(self, "norm") else y
        y = self.act(y)
        if self.dropout == "module":
            y = self.drop(y)
        elif self.dropout == "functional":
            y = functional.dropout(y, 0.3, training=self.training)
        return x + y if self.residual else y


class Skip(nn.Module):
    """Layers one after another, with the state before the first added to that after the last."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y


class UNet(nn.Module):
    """Skips from the way down to the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.middle = nn.Linear(4, 4)
        self.up2, self.up1 = nn.Linear(8, 4), nn.Linear(8, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(a)
        c = self.middle(b)
        d = self.up2(torch.cat([b, c], 1))
        e = self.up1(torch.cat([a, d], 1))
        return self.last(e)


class Block(nn.Module):
    """Attention under a mask; looks at numbers, so that it is called whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.kind = "full"

    def forward(self, x: Tensor, mask: Tensor, *, scale: float = 1.0) -> tuple[Tensor]:
        y = self.norm(x)
        y, _ = self.attention(y, y, y, attn_mask=mask, need_weights=False)
        return (x + scale * y if bool(x.isfinite().all()) else x,)


class TanhBlock(nn.Module):
    """x + tanh(W x + b) of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.fc(x))


class Language(nn.Module):
    """A language model whose forward branches, loops and ties its weights."""

    def __init__(self, layers: int = 4, width: int = 8, vocabulary: int = 13) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(9, width))
        self.drop = nn.Dropout(0.1)
        self.trunk = nn.ModuleDict({"blocks": nn.ModuleList(Block(width) for _ in range(layers))})
        self.out = nn.Linear(width, vocabulary, bias=False)
        self.out.weight = self.tokens.weight

    def forward(
        self, tokens: Tensor, weights: Tensor | None = None, labels: bool = False
    ) -> dict[str, Tensor]:
        length = tokens.shape[1]
        if length > 9 or int(tokens.max()) >= 13:
            raise ValueError("too long")
        x = self.drop(self.tokens(tokens) + self.positions[:length])
        if weights is not None:
            x = x * weights[..., None]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
        for block in self.trunk["blocks"]:
            x = block(x, mask, scale=0.5 if block.kind == "full" else 0.0)[0]
        logits = self.out(x)
        return {"labels": logits.argmax(-1)} if labels else {"logits": logits, "hidden": x}


class Network(nn.Module):
    """A stem, layers and a classifier, in float64."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        source = CHANNELS if recipe.convolves else FEATURES
        self.stem = Layer(replace(recipe, inplace=False), source)
        layers: list[nn.Module] = [Layer(recipe, recipe.width) for _ in range(recipe.depth)]
        if recipe.family == "skip":
            layers = [Skip(layers[i : i + 3]) for i in range(0, len(layers), 3)]
        self.layers = nn.Sequential(*layers)
        self.branches, self.drops = recipe.branches, recipe.dropout == "functional"
        self.pools = recipe.convolves and recipe.head
        if recipe.head:
            self.head = nn.Linear(recipe.width, 2, bias=recipe.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.branches and self.training:
            x = 1.5 * x
        x = self.layers(x)
        if self.drops:
            x = functional.dropout(x, 0.3, training=self.training)
        if self.pools:
            x = x.mean((2, 3))
        return self.head(x) if hasattr(self, "head") else x


def _map(recipe: Recipe, source: int, target: int) -> nn.Module:
    """Weights that keep the size of their input, so that depth does not hide errors."""
    layer: nn.Module
    if recipe.convolves:
        layer = nn.Conv2d(source, target, 3, padding=1, bias=recipe.bias)
    else:
        layer = nn.Linear(source, target, bias=recipe.bias)
    nn.init.orthogonal_(layer.weight, gain=0.5 if recipe.residual else 1.0)
    return layer


def _norm(recipe: Recipe) -> nn.Module:
    """Batch normalisation; the large eps bounds by 10 what it makes of rounding errors."""
    if recipe.norm == "functional":
        return FunctionalNorm(recipe.width)
    kind = nn.BatchNorm2d if recipe.convolves else nn.BatchNorm1d
    return kind(recipe.width, eps=1e-2, momentum=None if recipe.norm == "cumulative" else 0.1)


def seed_all(seed: int) -> None:
    """As ``torch.manual_seed``, which notes the stack for each kind of device that is not there."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        seed_all(seed)
        yield


def build(recipe: Recipe) -> Network:
    """The network, its statistics and normalisation weights random."""
    with seeded(recipe.seed):
        network = Network(recipe).double()
        for module in network.modules():
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, FunctionalNorm)):
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.is_floating_point():
                        tensor.data.uniform_(0.5, 1.5)
    return network


def example(recipe: Recipe, seed: int = 0) -> Tensor:
    """A batch for the network."""
    shape = (CHANNELS, SIDE, SIDE) if recipe.convolves else (FEATURES,)
    generator = torch.Generator().manual_seed(recipe.seed + 1000 * seed + 1)
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=generator)


def chains_of(model: nn.Module, x: Tensor) -> Callable[[int], Chain]:
    """The model's chain for states of so many values, by the compiler's passes."""
    traced = trace(model, {"x"})
    known = profile(traced.train, model, {"x": x}, Machine())
    return partial(build_chain, model, traced, known)


def chain_of(model: nn.Module, x: Tensor, width: int = 1) -> Chain:
    """The model's chain for states of one value, or of up to so many."""
    return chains_of(model, x)(width)


@lru_cache(maxsize=512)
def legal_interfaces(recipe: Recipe) -> tuple[str, ...]:
    """Names of the interfaces where the network may be cut."""
    return tuple(f"%{i.name}" for i in chain_of(build(recipe), example(recipe)).interfaces)


@dataclass(frozen=True)
class Case:
    """A network and how to compile it; ``interfaces`` of ``None`` are automatic cuts."""

    recipe: Recipe
    n: int
    method: Parareal
    interfaces: tuple[str, ...] | None = None
    training: bool = True
    guess_scale: float = 1.0

    @property
    def x(self) -> Tensor:
        return example(self.recipe)

    def model(self) -> Network:
        return build(self.recipe).train(self.training)

    def compile(
        self, model: nn.Module | None = None, *, reuse: bool = True, verify: bool = True
    ) -> ParallelNetwork:
        """The parallel network with random guesses; without ``reuse`` no term is left out."""
        model = self.model() if model is None else model
        schedule = partial(parareal.parareal_schedule, reuse=reuse)
        with patch.object(parareal, "parareal_schedule", schedule):
            net = compiled(model, self.n, self.method, self.x, self.interfaces, verify=verify)
        scramble(net, self.guess_scale, self.recipe.seed)
        return net

    def partition(self) -> Partition:
        """The cut chain."""
        return partition_of(self.model(), self.n, self.method, self.x, self.interfaces)


def compiled(
    model: nn.Module,
    n: int,
    method: Parareal,
    x: Tensor,
    interfaces: tuple[str, ...] | None = None,
    **options: Any,
) -> ParallelNetwork:
    """As a user compiles, though nothing so small can be faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        return pararealize(
            model, n, method=method, example_inputs=(x,), interfaces=interfaces, **options
        )


def partition_of(
    model: nn.Module, n: int, method: Parareal, x: Tensor, interfaces: tuple[str, ...] | None
) -> Partition:
    """The cut chain, by the compiler's passes."""
    chains = chains_of(model, x)
    wide, takes_tuples = partial(chains, 8), asked(method).takes_tuples
    chain = with_wide_states(chains(1), wide, n, interfaces, takes_tuples=takes_tuples)
    if interfaces is not None:
        return cut_at(chain, interfaces, n)
    return cut(Weights(chain, model, method, Machine()), n)


def scramble(net: nn.Module, scale: float, seed: int) -> None:
    """Make the guess networks' weights random, of the given size."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if name.startswith("guess."):
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            parameter.data.copy_(scale * noise)


@dataclass
class Step:
    """What one step gives: the output, gradients (``input`` is the input's) and buffers."""

    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor] = field(default_factory=dict)


def cotangent(like: Tensor) -> Tensor:
    """A fixed random tensor to pair an output with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def gradients(output: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the output's product with a fixed random tensor; zero where nothing depends."""
    loss = (output * cotangent(output)).sum()
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(wanted.items(), found, strict=True)
    }


def step(module: nn.Module, names: Network, x: Tensor, seed: int = 0) -> Step:
    """One step of ``module`` under the seed; ``names`` is the model whose names are asked for."""
    x = x.clone().requires_grad_()
    with seeded(seed):
        output = module(x)
    wanted = {name: module.get_parameter(name) for name, _ in names.named_parameters()}
    return Step(
        output.detach(),
        gradients(output, {"input": x, **wanted}),
        {name: module.get_buffer(name).clone() for name, _ in names.named_buffers()},
    )


def one_step(net: nn.Module, case: Case) -> Step:
    """One step of a compiled network, as a user takes it: what has a gradient here has one."""
    x = case.x.clone().requires_grad_()
    output = net(x)
    (output * cotangent(output)).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    return Step(output.detach(), {"input": x.grad, **gradients}, buffers)


def share_of(step: Step, other: Step) -> Step:
    """Of a step in one process what a rank has of it in its own."""
    return Step(
        step.output,
        {name: step.gradients[name] for name in other.gradients},
        {name: step.buffers[name] for name in other.buffers},
    )


def relative(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """2-norm of the difference over the 2-norm, all tensors together."""
    assert found.keys() == wanted.keys()
    error = sum(_square(found[k].detach() - wanted[k].detach()) for k in wanted)
    size = sum(_square(wanted[k].detach()) for k in wanted)
    return (error / size) ** 0.5 if size else error**0.5


def _square(tensor: Tensor) -> float:
    return float(tensor.double().pow(2).sum())


def assert_equal_steps(found: Step, wanted: Step, tolerance: float) -> None:
    """Outputs, gradients and buffers agree; counts exactly."""
    assert relative({"": found.output}, {"": wanted.output}) <= tolerance
    assert relative(found.gradients, wanted.gradients) <= tolerance
    assert relative(found.buffers, wanted.buffers) <= tolerance
    for name, buffer in wanted.buffers.items():
        if not buffer.is_floating_point():
            assert torch.equal(found.buffers[name], buffer), name


class Recorder(fx.Interpreter):
    """Runs a graph and keeps a copy of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n.name] = result.clone() if isinstance(result, Tensor) else result
        return result


def recorded(module: fx.GraphModule, x: Tensor, seed: int = 0) -> dict[str, Any]:
    """Every value of one run under the seed."""
    recorder = Recorder(module)
    with seeded(seed):
        recorder.run(x)
    return recorder.values


def recipes(
    *families: str,
    activations: tuple[str, ...] = ("relu", "tanh", "sigmoid"),
    norms: tuple[str, ...] = ("", "batch", "cumulative", "functional"),
    dropouts: tuple[str, ...] = ("", "module", "functional"),
    least: int = 2,
    most: int = 8,
    bias: bool | None = None,
) -> st.SearchStrategy[Recipe]:
    """Random chains of the given families."""
    return st.builds(
        Recipe,
        family=st.sampled_from(families or ("dense", "conv", "residual", "resconv", "skip")),
        depth=st.integers(least, most),
        width=st.integers(3, 5),
        activation=st.sampled_from(activations),
        inplace=st.booleans(),
        norm=st.sampled_from(norms),
        dropout=st.sampled_from(dropouts),
        bias=st.booleans() if bias is None else st.just(bias),
        head=st.booleans(),
        branches=st.booleans(),
        seed=st.integers(0, 10_000),
    )


def methods(
    *,
    coarse: tuple[str, ...] = ("network", "fine"),
    corrections: tuple[str, ...] = ("residual", "difference"),
    guesses: tuple[str, ...] = ("network", "coarse"),
    least: int = 1,
    most: int = 4,
) -> st.SearchStrategy[Parareal]:
    """Random options of parareal."""
    return st.builds(
        Parareal,
        coarse=st.sampled_from(coarse),
        correction=st.sampled_from(corrections),
        guess=st.sampled_from(guesses),
        iterations=st.integers(least, most),
        coarse_depth=st.integers(0, 1),
        coarse_budget=st.sampled_from((0.25, 1.0)),
        seed=st.integers(0, 100),
        levels=st.sampled_from((2, 2, 3, 4)),
    )


@st.composite
def cases(
    draw: st.DrawFn,
    chains: st.SearchStrategy[Recipe],
    options: st.SearchStrategy[Parareal],
    *,
    most: int = 8,
    scales: tuple[float, ...] = (0.5, 3.0),
) -> Case:
    """A random network, cut at random legal interfaces or automatically."""
    recipe, method = draw(chains), draw(options)
    names = legal_interfaces(recipe)
    n = draw(st.integers(2, min(most, len(names) + 1)))
    named = st.permutations(names).map(lambda p: tuple(p[: n - 1]))
    interfaces = draw(st.one_of(st.none(), named))
    return Case(recipe, n, method, interfaces, draw(st.booleans()), draw(st.sampled_from(scales)))


@lru_cache
def small_chain(name: str) -> tuple[Chain, nn.Module]:
    """The chain of a small network, by name, and the network."""
    model: nn.Module = {
        "resnet": lambda: resnet(47, width=4),
        "vgg": lambda: vgg11(head="small", width=4, classes=10, batch_norm=True),
        "ode": lambda: odenet(6, width=8, in_features=5),
    }[name]()
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine())), model


def span(name: str, after: str, until: str) -> tuple[int, int]:
    """The layers after one interface up to another."""
    chain, _ = small_chain(name)
    return find_interface(chain, after) + 1, find_interface(chain, until) + 1


def layer_names(name: str, layers: list[int]) -> list[str]:
    """Names of some layers."""
    chain, _ = small_chain(name)
    return [chain.layers[i].name for i in layers]


class BlocksAround(nn.Module):
    """Three blocks, something in the middle, and three blocks again."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.ModuleList(TanhBlock() for _ in range(3))
        self.after = nn.ModuleList(TanhBlock() for _ in range(3))

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for block in self.before:
            x = block(x)
        x = self.middle(x)
        for block in self.after:
            x = block(x)
        return x


class StatisticsBlock(nn.Module):
    """A residual block with statistics, and a weight of its own."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.parts = nn.Sequential(*copy.deepcopy(parts))
        self.scale = nn.Parameter(torch.full((6,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(self.parts(self.norm(self.linear(x))))


def assert_looked_into(kind: type[nn.Module]) -> None:
    """A network over four numbers is cut everywhere, and is the original for any batch."""
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 4).double()
    exact = Parareal(coarse="fine", correction="difference")
    net = pararealize(model, 4, method=exact, example_inputs=(x,))
    assert not net.plan.tracing.found
    assert not net.plan.tracing.blocks
    for inputs in (x, torch.randn(5, 4).double()):
        torch.testing.assert_close(net(inputs), model(inputs), rtol=1e-12, atol=1e-12)


def serial_states(step: nn.Module, x: Tensor, hidden: Tensor) -> Tensor:
    """All states of a recurrence, one step after another: ``[batch, length, width]``."""
    states = []
    for t in range(x.shape[1]):
        hidden = step(hidden, x[:, t])
        states.append(hidden)
    return torch.stack(states, 1)
