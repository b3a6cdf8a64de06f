"""The laws of parareal networks, each on random networks, cuts, guesses and sweeps.

In float64. Weights keep the size of their inputs (see `networks`), so that a state, its jumps and
its gradients are of the order of one and tolerances are multiples of the rounding unit 1e-16.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example as for_example
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from networks import (
    Case,
    Network,
    Recipe,
    assert_equal_steps,
    build,
    cases,
    compiled,
    example,
    gradients,
    legal_interfaces,
    methods,
    recipes,
    recorded,
    relative,
    seeded,
    step,
)
from pararealize import Parareal
from pararealize.errors import CoarseError, ScheduleError
from pararealize.ir.chain import Partition
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target
from pararealize.ir.task import Role, Task
from pararealize.network import ParallelNetwork
from pararealize.runtime.values.combine import combine
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import place
from sampling import examples

#: Sums of a few dozen terms of the order of ten (guesses), each rounded to 1e-16.
ROUNDING = 1e-12
#: As above, then through corrections at a jump that is zero but for rounding: there BatchNorm
#: divides by sqrt(eps) = 0.1, ten times for each of its layers that a correction passes.
CORRECTED_ROUNDING = 1e-10
#: One quantity computed by the same operations in the same order.
EXACT = 0.0

METHODS = [
    Parareal(coarse=coarse, correction=correction, guess=guess)
    for coarse, correction, guess in product(
        ("network", "fine", "identity", "rediscretized"),
        ("residual", "difference"),
        ("network", "coarse"),
    )
]


def name_of(method: Parareal) -> str:
    return f"{method.coarse}-{method.correction}-{method.guess}"


every_method = pytest.mark.parametrize("method", METHODS, ids=name_of)
every_correction = pytest.mark.parametrize("correction", ["residual", "difference"])
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def compiled_or_rejected(case: Case, *, reuse: bool = True) -> ParallelNetwork:
    """The network; the example does not count where no such coarse network exists."""
    try:
        return case.compile(reuse=reuse, verify=False)  # laws 1 to 3 compile the same networks
    except CoarseError:
        reject()


def sweeping_to(case: Case, iterations: int) -> Case:
    return replace(case, method=replace(case.method, iterations=iterations))


@st.composite
def residual_cases(
    draw: st.DrawFn, *, norms: tuple[str, ...] = ("", "batch"), dropouts: tuple[str, ...] = ("",)
) -> Case:
    """Residual networks in pieces of two or three layers and more: every coarse kind exists."""
    n, run = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    chains = recipes(
        "residual", "resconv", least=n * run, most=n * run, norms=norms, dropouts=dropouts
    )
    kinds = ("network", "fine", "identity", "rediscretized")
    method = draw(methods(coarse=kinds, most=n))
    interfaces = tuple(f"layers.{run * j - 1}" for j in range(1, n))
    recipe = replace(draw(chains), head=True)
    return Case(recipe, n, method, interfaces, draw(st.booleans()))


# Law 1


@given(cases(recipes(), methods(coarse=("network", "fine", "identity"))))
def test_law_1_one_subnetwork_is_the_original(case: Case) -> None:
    """n = 1 is the original function."""
    case = replace(case, n=1, interfaces=None)
    net, model = case.compile(), case.model()
    for seed in range(2):  # the second step starts from moved statistics
        assert_equal_steps(step(net, model, case.x, seed), step(model, model, case.x, seed), EXACT)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that compiling could change: identities and values, flags, hooks, attributes."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path} flags"] = (id(module), module.training, sorted(module.__dict__))
        hooks = [v for k, v in module.__dict__.items() if k.endswith("_hooks")]
        found[f"{path} hooks"] = [list(h.items()) for h in hooks]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        place = (id(tensor), tensor.data_ptr(), tensor._version)
        found[name] = (*place, tensor.tolist(), tensor.requires_grad, tensor.grad is None)
    return found


def leaves(model: nn.Module) -> list[nn.Module]:
    """Layers of torch's own, which are called as they are."""
    modules = (m for m in model.modules() if not list(m.children()))
    return [m for m in modules if type(m).__module__.startswith("torch.nn")]


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())


@given(
    case=cases(recipes(), methods(coarse=("network", "fine", "identity", "auto"), least=0)),
    cost=st.sampled_from(("predicted", "measured")),
    n=st.integers(1, 6),
    modules=st.randoms(use_true_random=False),
)
def test_law_1_compiling_changes_nothing_of_the_model(
    case: Case, cost: str, n: int, modules: random.Random
) -> None:
    """The caller's model, its graph, its buffers and its RNG are never changed by compiling."""
    model = case.model()
    for module in model.modules():
        module.training = modules.random() < 0.5
    for layer in leaves(model):  # a container with hooks is one layer
        layer.register_forward_hook(lambda *_: None)
        layer.register_full_backward_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.requires_grad_(modules.random() < 0.5)
    before, randoms = fingerprint(model), random_states()
    n = min(n, len(legal_interfaces(case.recipe)) + 1)
    try:
        net = compiled(model, n, case.method, case.x, cost=cost)
    except CoarseError:
        reject()
    assert random_states() == randoms
    assert fingerprint(model) == before
    assert {k: v.training for k, v in model.named_modules() if k} == {
        k: v.training for k, v in net.named_modules() if k and not k.startswith(("coarse", "guess"))
    }
    assert_shares_nothing(net, model)


def assert_shares_nothing(net: nn.Module, model: nn.Module) -> None:
    """Training the net cannot reach the caller's model."""
    for a, b in ((net.parameters(), model.parameters()), (net.buffers(), model.buffers())):
        places = {tensor.data_ptr() for tensor in b}
        assert not places & {tensor.data_ptr() for tensor in a}


def test_law_1_a_call_changes_nothing_of_the_model() -> None:
    """The caller's model, its graph, its buffers and its RNG are never changed by compiling."""
    case = Case(Recipe("resconv", 6, norm="batch"), 3, Parareal())
    model = case.model()
    before = fingerprint(model)
    net = case.compile(model)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(case.x).sum().backward()
    optimizer.step()
    assert fingerprint(model) == before


def test_law_1_hooks_of_layers_do_not_fire_while_compiling() -> None:
    """The caller's model … never changed by compiling."""
    calls = []
    case = Case(Recipe("residual", 6, norm="batch", dropout="module"), 3, Parareal())
    model = case.model()
    for layer in leaves(model):
        layer.register_forward_hook(lambda *_: calls.append(1))
        layer.register_full_backward_hook(lambda *_: calls.append(1))
    case.compile(model)
    assert not calls


# Laws 2 and 3


@given(
    case=cases(
        recipes(activations=("linear",), norms=("",), dropouts=("",), bias=False),
        methods(coarse=("fine",)),
    ),
    data=st.data(),
)
def test_law_2_linear_networks_are_exact(case: Case, data: st.DataObject) -> None:
    """Linear network, F_j = Φ_{j+1}: output, and gradients, equal serial for any guesses."""
    case = sweeping_to(case, data.draw(st.integers(1, case.n)))
    model = case.model()
    found, wanted = step(case.compile(), model, case.x), step(model, model, case.x)
    # ROUNDING is the law's own 1e-12; guesses are up to a few dozen times the state.
    assert_equal_steps(found, wanted, ROUNDING)


@given(cases(recipes(activations=("linear",), norms=("",), bias=True), methods(coarse=("fine",))))
def test_law_2_holds_with_biases_and_masks(case: Case) -> None:
    """A correction is the linear part of Φ, so affine networks are exact too, masks given."""
    model = case.model()
    found, wanted = step(case.compile(), model, case.x), step(model, model, case.x)
    assert_equal_steps(found, wanted, ROUNDING)


@given(cases(recipes(), methods(coarse=("fine",), corrections=("difference",), most=1)))
def test_law_3_one_sweep_with_the_fine_propagator_is_exact(case: Case) -> None:
    """Any network, difference correction, G = Φ: one sweep is exact."""
    net, model = case.compile(), case.model()
    for seed in range(2):
        found, wanted = step(net, model, case.x, seed), step(model, model, case.x, seed)
        assert_equal_steps(found, wanted, ROUNDING)


class Transposed(nn.Module):
    """A mask over a state that lies in memory with exchanged axes, as an LSTM leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cells, self.last = nn.Linear(3, 4), nn.LSTM(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cells(self.first(x).transpose(0, 1))[0].transpose(0, 1)
        y = torch.sigmoid(torch.tanh(y))
        return self.last(functional.dropout(y, 0.3, training=self.training))


def test_law_3_masks_are_those_of_the_serial_states_layout() -> None:
    model, x = Transposed().double(), torch.randn(6, 5, 3, dtype=torch.float64)
    method = Parareal(coarse="fine", correction="difference")
    net = compiled(model, 3, method, x, ("%getitem", "%tanh"))
    assert_equal_steps(step(net, model, x), step(model, model, x), ROUNDING)  # type: ignore[arg-type]


def test_law_3_fails_without_the_sweep() -> None:
    """The guesses of these tests are far off: without corrections the network is wrong."""
    case = Case(
        Recipe("residual", 6), 3, Parareal(coarse="fine", correction="difference", iterations=0)
    )
    model = case.model()
    found, wanted = step(case.compile(), model, case.x), step(model, model, case.x)
    assert relative({"": found.output}, {"": wanted.output}) > 0.1


# Law 4

#: Every subnetwork writes on the state that it is given.
IN_PLACE = Case(
    Recipe("dense", 4, activation="relu", inplace=True),
    4,
    Parareal(),
    ("layers.0.map", "layers.1.map", "layers.2.map"),
)


@given(cases(recipes(), methods(coarse=("network", "fine", "identity"))))
def test_law_4_n_sweeps_are_exact(case: Case) -> None:
    """After N sweeps all are: outputs, gradients, BatchNorm buffers, dropout masks."""
    net, model = sweeping_to(case, case.n).compile(), case.model()
    for seed in range(2):
        found, wanted = step(net, model, case.x, seed), step(model, model, case.x, seed)
        assert_equal_steps(found, wanted, EXACT)


@settings(max_examples=examples(40))
@given(
    st.one_of(
        cases(recipes(), methods(coarse=("network", "fine", "identity"))),
        residual_cases(dropouts=("", "module", "functional")),
    )
)
@for_example(IN_PLACE)
def test_law_4_n_sweeps_are_exact_with_every_term_computed(case: Case) -> None:
    """After N sweeps all are, not because corrections are left out but because they vanish."""
    net, model = compiled_or_rejected(sweeping_to(case, case.n), reuse=False), case.model()
    for seed in range(2):
        found, wanted = step(net, model, case.x, seed), step(model, model, case.x, seed)
        assert_equal_steps(found, wanted, CORRECTED_ROUNDING)


def names_at(partition: Partition, j: int, case: Case) -> tuple[str, ...]:
    """Names of the values that cross interface j, in the model's own graph."""
    interface = partition.interface(j)
    return interface.values if case.training else interface.eval_values


STATE = re.compile(r"(?P<kind>[uvg])(?P<interface>\d+)_(?P<sweep>\d+)")


def known_exact(values: dict[str, Any], case: Case) -> Iterator[tuple[int, Any]]:
    """Interfaces j and their states after j sweeps or more: u_j^k, and Φ_j of an exact state."""
    fine = case.method.coarse == "fine"
    shared = fine and case.method.correction == "difference"
    from_start = fine and case.method.guess == "coarse"
    for name, value in values.items():
        match = STATE.fullmatch(name)
        if match and (match["kind"] != "g" or shared):
            j, sweeps = int(match["interface"]), int(match["sweep"]) + (match["kind"] != "u")
            if j < case.n and (j <= sweeps or from_start):
                yield j, value


@settings(max_examples=examples(40))
@given(
    case=st.one_of(
        cases(recipes(), methods(coarse=("network", "fine", "identity"))),
        residual_cases(dropouts=("", "module", "functional")),
    ),
    reuse=st.booleans(),
    data=st.data(),
)
def test_law_4_after_k_sweeps_the_first_k_interfaces_are_exact(
    case: Case, reuse: bool, data: st.DataObject
) -> None:
    """After k sweeps the first k interfaces are exact: states, gradients, buffers, masks."""
    k = data.draw(st.integers(1, case.n - 1), label="sweeps")
    case = sweeping_to(case, k)
    net, model = compiled_or_rejected(case, reuse=reuse), case.model()
    partition = case.partition()
    assert net.plan.cuts == tuple(f"%{partition.interface(j).name}" for j in range(1, case.n))
    found = recorded(net.graph_module, case.x)
    wanted = recorded(fx.symbolic_trace(model), case.x)
    checked = set()
    for j, state in known_exact(found, case):
        live = dict(zip(names_at(partition, j, case), tree_leaves(state), strict=True))
        checked.add(j)
        for name, leaf in live.items():
            assert relative({"": leaf}, {"": wanted[name]}) <= CORRECTED_ROUNDING, (j, name)
            assert gradients_differ(leaf, net, wanted[name], model) <= CORRECTED_ROUNDING
    assert checked >= set(range(1, k + 1))
    for j in range(1, k + 1):
        segment = partition.chain.segment(*partition.piece(j), training=True)
        read = {o.target for o in segment.operations}  # BatchNorm layers, or buffers themselves
        names = [name for name, _ in model.named_buffers()]
        buffers = [name for name in names if {name, name.rpartition(".")[0]} & read]
        moved = {b: net.get_buffer(b) for b in buffers}
        assert relative(moved, {b: model.get_buffer(b) for b in buffers}) <= CORRECTED_ROUNDING


def gradients_differ(found: Tensor, net: nn.Module, wanted: Tensor, model: Network) -> float:
    """Relative difference of two states' gradients by the model's parameters."""
    names = [name for name, _ in model.named_parameters()]
    return relative(
        gradients(found, {name: net.get_parameter(name) for name in names}),
        gradients(wanted, {name: model.get_parameter(name) for name in names}),
    )


@every_correction
def test_law_4_is_sharp(correction: str) -> None:
    """After k sweeps the first k interfaces are exact, and the next one is not."""
    case = Case(Recipe("residual", 8), 4, Parareal(correction=correction, iterations=2))
    partition = case.partition()
    found = recorded(case.compile(reuse=False).graph_module, case.x)
    wanted = recorded(fx.symbolic_trace(case.model()), case.x)[partition.interface(3).values[0]]
    assert relative({"": found["u3_2"]}, {"": wanted}) > 1e-3


# Law 5


def zeros_at(partition: Partition, j: int) -> Any:
    """A zero jump at the interface before subnetwork j."""
    state = partition.interface(j - 1).state
    leaves = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in state)
    return leaves if len(leaves) > 1 else leaves[0]


def retrained(net: ParallelNetwork) -> ParallelNetwork:
    """Other weights and statistics: what is zero when fresh may not stay so."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return net


def corrections(case: Case, net: ParallelNetwork) -> dict[int, nn.Module]:
    """Coarse propagators by subnetwork, as the schedule applies them."""
    shared = case.method.coarse == "fine" and case.method.correction == "difference"
    kind = "fine" if shared else "coarse"
    names = Counter(task.propagator for task in net.schedule)
    # A propagator applied once keeps no mask: its new and old state are one value.
    least = 1 if case.method.correction == "residual" else 2
    found = {j: f"{kind}.{j}" for j in range(2, case.n + 1)}
    return {j: net.graph_module.get_submodule(f) for j, f in found.items() if names[f] >= least}


@given(
    case=st.one_of(
        cases(recipes(), methods(coarse=("network", "fine", "identity"))),
        residual_cases(dropouts=("", "functional"), norms=("", "batch", "functional")),
    ),
    trained=st.booleans(),
)
def test_law_5_zero_jump_gives_zero_correction(case: Case, trained: bool) -> None:
    """Zero jump ⇒ zero correction, in both forms."""
    case = sweeping_to(case, 1)
    net = compiled_or_rejected(case, reuse=False)
    net = retrained(net) if trained else net
    partition = case.partition()
    for j, coarse in corrections(case, net).items():
        jump = zeros_at(partition, j)
        inputs = (case.x,) * len(coarse.inputs)
        if case.method.correction == "residual":
            correction = coarse(jump, *inputs)
        else:
            with seeded(j):  # masks begin where those of the subnetwork before ended
                old = [torch.randn_like(leaf) for leaf in tree_leaves(jump)]
            state = tuple(old) if isinstance(jump, tuple) else old[0]
            new, before = (coarse(state, *inputs, commits=False) for _ in range(2))
            correction = combine("+-", new, before)
        assert all(not leaf.any() for leaf in tree_leaves(correction)), j


class Constant(nn.Module):
    """A guess that is known."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def forward(self, *_: Tensor) -> Any:
        return self.state


@given(
    case=st.one_of(
        cases(recipes(), methods(guesses=("network",))),
        residual_cases(dropouts=("", "functional")),
    ),
    every_term=st.booleans(),
)
def test_law_5_exact_guesses_are_not_corrected(case: Case, every_term: bool) -> None:
    """Zero jump ⇒ zero correction: the serial states stay, and no jump is reported."""
    method = replace(case.method, guess="network", iterations=1)
    case = replace(case, method=method)
    net, model = compiled_or_rejected(case, reuse=not every_term), case.model()
    partition = case.partition()
    values = recorded(fx.symbolic_trace(case.model()), case.x)
    for j in range(1, case.n):
        live = tuple(values[name].detach() for name in names_at(partition, j, case))
        net.get_submodule("guess")[str(j)] = Constant(live if len(live) > 1 else live[0])
    with seeded(0):
        output = net(case.x)
    assert relative({"": output.detach()}, {"": step(model, model, case.x).output}) <= ROUNDING
    # Of the difference form, (v - g) + g is rounded; of the residual form every term is zero.
    most = ROUNDING if method.correction == "difference" else EXACT
    assert max(jump.relative for jump in net.report.jumps) <= most


@modes
def test_law_5_holds_for_a_users_network_whose_biases_are_zero_at_first(training: bool) -> None:
    """Zero jump ⇒ zero correction, after training as before it."""

    def factory(_fine: nn.Module, before: Any, after: Any) -> nn.Module:
        linear = nn.Linear(before.shape[-1], after.shape[-1])
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear, nn.BatchNorm1d(after.shape[-1]))

    case = Case(Recipe("dense", 6, norm="batch"), 3, Parareal(coarse=factory))
    net = retrained(case.compile()).train(training)
    for j, coarse in corrections(case, net).items():
        assert not coarse(zeros_at(case.partition(), j)).any()


# Law 9


def as_function(net: ParallelNetwork) -> tuple[Callable[..., Tensor], Tensor]:
    """The network as a function of x and all its weights: no statistics move, masks stay."""
    parameters = dict(net.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def function(x: Tensor, weights: Tensor) -> Tensor:
        parts = zip(parameters.items(), weights.split(sizes), strict=True)
        state = {name: part.view_as(parameter) for (name, parameter), part in parts}
        state |= {name: buffer.clone() for name, buffer in net.named_buffers()}
        with seeded(0):
            return functional_call(net, state, (x,))

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    return function, flat.requires_grad_()


@every_method
def test_law_9_the_gradient_is_the_derivative(method: Parareal) -> None:
    """The parareal network's gradient is its own derivative (gradcheck, twice)."""
    family = "resconv" if method.guess == "network" else "residual"
    recipe = Recipe(family, 6, 3, "tanh", norm="batch", dropout="functional")
    training = (method.correction == "residual") == (method.coarse in {"network", "identity"})
    case = Case(recipe, 3, method, ("layers.1", "layers.3"), training)
    function, weights = as_function(case.compile())
    x = case.x[:3].requires_grad_()
    # Central differences of step 1e-6 err by 1e-12 / 1e-6 of curvature and rounding; gradcheck's
    # own 1e-5 and 1e-3 are for them. The fast mode compares random projections of the Jacobian.
    assert gradcheck(function, (x, weights), fast_mode=True)
    assert gradgradcheck(function, (x, weights), fast_mode=True)


@every_correction
def test_law_9_two_sweeps_entry_by_entry(correction: str) -> None:
    """The parareal network's gradient is its own derivative: the whole Jacobian."""
    case = Case(Recipe("dense", 4, 3, "tanh"), 3, Parareal(correction=correction, iterations=2))
    function, weights = as_function(case.compile())
    assert gradcheck(function, (case.x[:2].requires_grad_(), weights))
    assert gradgradcheck(function, (case.x[:2].requires_grad_(), weights), fast_mode=True)


@every_method
def test_law_9_every_parameter_takes_part(method: Parareal) -> None:
    """No parameter of the network is without a gradient, whatever the number of sweeps."""
    for iterations in range(1, 4):
        case = Case(
            Recipe("residual", 8),
            4,
            replace(method, iterations=iterations),
            ("layers.1", "layers.3", "layers.5"),
        )
        net = case.compile()
        net(case.x).sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []


# Law 10


def counts(net: nn.Module) -> dict[str, int]:
    return {k: int(b) for k, b in net.named_buffers() if k.endswith("num_batches_tracked")}


def averages(net: nn.Module) -> Iterator[tuple[Tensor, float]]:
    """Running means, and the share of the batch's mean in the last move of each."""
    for name, buffer in net.named_buffers():
        if name.endswith("mean"):
            owner = net.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, nn.modules.batchnorm._BatchNorm):
                yield buffer, owner.momentum or 1 / max(1, int(owner.num_batches_tracked))
            else:
                yield buffer, 0.1  # as FunctionalNorm, and what is made from it


@settings(max_examples=examples(40))
@given(
    case=st.one_of(
        cases(
            recipes(norms=("batch", "cumulative", "functional")),
            methods(coarse=("network", "fine", "identity"), most=8),
        ),
        residual_cases(norms=("batch", "cumulative", "functional")),
    ),
    steps=st.integers(1, 3),
)
def test_law_10_statistics_move_once_a_step(case: Case, steps: int) -> None:
    """BatchNorm statistics move once per training step."""
    net, far = compiled_or_rejected(replace(case, training=True)), 1e6
    for _ in range(steps):
        before = counts(net)
        for mean, _share in averages(net):
            mean.fill_(far)
        net(case.x).sum().backward()
        assert counts(net) == {name: count + 1 for name, count in before.items()}
        for mean, share in averages(net):
            # From so far, batch means of the order of one do not hide how often it has moved.
            assert torch.allclose(mean / far, torch.full_like(mean, 1 - share), rtol=0, atol=1e-3)


@every_correction
@pytest.mark.parametrize("guess", ["network", "coarse"])
def test_law_10_holds_for_a_users_coarse_network(correction: str, guess: str) -> None:
    """BatchNorm statistics move once per training step, those of coarse networks as well."""

    def factory(_fine: nn.Module, before: Any, after: Any) -> nn.Module:
        width = after.shape[-1]
        return nn.Sequential(nn.Linear(before.shape[-1], width), nn.BatchNorm1d(width))

    for iterations in range(1, 4):
        method = Parareal(factory, correction, iterations, guess)
        net = Case(Recipe("dense", 8, norm="batch"), 4, method).compile()
        net(example(Recipe("dense")))
        assert set(counts(net).values()) == {1}


@settings(max_examples=examples(15))
@given(
    case=cases(
        recipes(norms=("batch", "cumulative", "functional")),
        methods(coarse=("network", "auto", "identity")),
    ),
    cost=st.sampled_from(("predicted", "measured")),
)
def test_law_10_probes_and_eval_move_nothing(case: Case, cost: str) -> None:
    """Evaluations inside sweeps, probes and profiling never move them."""
    model = case.model()
    try:
        net = compiled(model, case.n, case.method, case.x, case.interfaces, cost=cost)
    except CoarseError:
        reject()
    for name, buffer in model.named_buffers():
        assert torch.equal(net.get_buffer(name), buffer), name
    before = {k: b.clone() for k, b in net.eval().state_dict().items()}
    net(case.x).sum().backward()
    assert all(torch.equal(before[k], b) for k, b in net.state_dict().items())


class Draws(TorchDispatchMode):
    """The masks drawn, whoever draws them."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if "bernoulli" in str(func) or "native_dropout" in str(func):
            self.masks.append(tree_leaves(result)[0].clone())
        return result


class OneDropout(nn.Module):
    """A chain with dropout after one of its layers only."""

    def __init__(self, at: int, functional: bool) -> None:
        super().__init__()
        recipe = Recipe("dense", width=8, dropout="functional" if functional else "module")
        layers = [build(replace(recipe, depth=1)).layers[0] for _ in range(6)]
        for i, layer in enumerate(layers):
            layer.dropout = layer.dropout if i == at else ""
        self.stem = nn.Linear(3, 8)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.stem(x))


@pytest.mark.parametrize("functional", [True, False], ids=["functional", "module"])
@pytest.mark.parametrize("coarse", ["network", "fine", "identity"])
@every_correction
def test_law_10_a_mask_is_drawn_once_a_step(correction: str, coarse: str, functional: bool) -> None:
    """A mask is drawn once per step and reused across sweeps."""
    model = OneDropout(2, functional).double()
    x = example(Recipe("dense"))
    method = Parareal(coarse, correction, iterations=2)
    net = compiled(model, 3, method, x, ("layers.1", "layers.3"))
    steps = []
    for _ in range(3):
        with Draws() as draws:
            net(x)
        assert len(draws.masks) > 1
        assert all(torch.equal(mask, draws.masks[0]) for mask in draws.masks)
        steps.append(draws.masks[0])
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[1], steps[2])


@every_method
def test_law_10_layers_see_one_mask_in_all_sweeps(method: Parareal) -> None:
    """A mask is drawn once per step and reused across sweeps, by every propagator."""
    recipe = Recipe("residual", 8, 8, "tanh", dropout="module")
    method = replace(method, iterations=2)
    case = Case(recipe, 4, method, ("layers.1", "layers.3", "layers.5"))
    net, patterns = case.compile(), {}

    def see(layer: str) -> Callable[..., None]:
        return lambda _m, _i, output: patterns.setdefault(layer, []).append((output == 0).tolist())

    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(see(name))
    net(case.x)
    # A rediscretised layer is another function, with a mask of its own; twice the zero state
    # of a correction gives zeros everywhere.
    most = 3 if method.coarse == "rediscretized" else 2 if method.coarse == "fine" else 1
    assert any(len(seen) > 1 for seen in patterns.values())
    assert all(len({str(p) for p in seen}) <= most for seen in patterns.values())


@contextmanager
def modes_follow(net: nn.Module, model: nn.Module) -> Iterator[None]:
    """Modes of all of the model's modules agree afterwards."""
    yield
    for name, module in model.named_modules():
        assert net.get_submodule(name).training == module.training, name


@given(cases(recipes(), methods()))
def test_law_10_modes_behave_as_on_the_original(case: Case) -> None:
    """train() → eval() → train() behaves as on the original."""
    net, model = sweeping_to(case, case.n).compile(), case.model()
    for seed, training in enumerate((True, False, True, False)):
        with modes_follow(net, model):
            net.train(training)
            model.train(training)
        found, wanted = step(net, model, case.x, seed), step(model, model, case.x, seed)
        assert_equal_steps(found, wanted, EXACT)


@given(
    case=cases(recipes(norms=("batch", "cumulative", "functional")), methods()),
    compiled_first=st.booleans(),
    every_term=st.booleans(),
    data=st.data(),
)
def test_law_10_frozen_layers_stay_frozen(
    case: Case, compiled_first: bool, every_term: bool, data: st.DataObject
) -> None:
    """A part put in eval mode normalises by, and keeps, its statistics, and drops nothing."""
    # Two graphs, one for each mode of the root, hold flags of functions as they were in each.
    recipe = replace(case.recipe, branches=False)
    names = legal_interfaces(recipe)
    interfaces = None if case.interfaces is None else names[: case.n - 1]
    case = replace(case, recipe=recipe, interfaces=interfaces, training=True)
    model = case.model()
    names = [name for name, m in model.named_modules() if name and not name.startswith("head")]
    frozen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4), label="frozen")
    net = None
    if compiled_first:
        net = compiled_or_rejected(sweeping_to(case, case.n), reuse=not every_term)
    for name in frozen:
        for module in (model, net) if net else (model,):
            module.get_submodule(name).eval()
    if net is None:
        net = sweeping_to(case, case.n).compile(model)
    found, wanted = step(net, model, case.x), step(model, model, case.x)
    assert_equal_steps(found, wanted, CORRECTED_ROUNDING)


# Law 11

SCHEDULES = st.builds(
    parareal_schedule,
    st.integers(1, 8),
    methods(coarse=("network", "fine", "identity", "rediscretized"), least=0, most=9),
    head=st.booleans(),
    reuse=st.booleans(),
)


def pieces(schedule: Schedule) -> int:
    return max(task.piece for task in schedule)


@settings(max_examples=examples(100))
@given(SCHEDULES)
def test_law_11_every_schedule_verifies_on_every_number_of_ranks(schedule: Schedule) -> None:
    """Every schedule verifies before it runs: single assignment, acyclic, sends received."""
    schedule.verify()
    for ranks in range(1, pieces(schedule) + 1):
        placed = place(schedule, pieces(schedule), ranks)
        placed.verify()
        computing = [t for t in placed if t.op in {"apply", "combine"}]
        assert [replace(t, rank=0) for t in computing] == list(schedule)
        assert {t.rank for t in placed} <= set(range(ranks))


def test_law_11_ranks_without_neighbours_send_nothing() -> None:
    """Each send has its receive; one rank needs neither."""
    schedule = parareal_schedule(4, Parareal())
    assert list(place(schedule, 4, 1)) == list(schedule)
    placed = place(schedule, 4, 4)
    sent, received = ([t for t in placed if t.op == op] for op in ("send", "recv"))
    assert len(sent) == len(received) > 0
    with pytest.raises(ScheduleError, match="not on 5"):
        place(schedule, 4, 5)


def tampered(schedule: Schedule, *tasks: Task) -> Schedule:
    return replace(schedule, tasks=tasks)


PLACED = SCHEDULES.flatmap(
    lambda s: st.integers(1, pieces(s)).map(lambda ranks: place(s, pieces(s), ranks))
)


@given(PLACED, st.data())
def test_law_11_a_dropped_task_is_found(schedule: Schedule, data: st.DataObject) -> None:
    """No use before definition; each send has its receive."""
    i = data.draw(st.integers(0, len(schedule.tasks) - 1))
    dropped = schedule.tasks[i]
    name = dropped.reads[0] if dropped.op == "send" else dropped.value
    with pytest.raises(ScheduleError, match=re.escape(name)):
        tampered(schedule, *schedule.tasks[:i], *schedule.tasks[i + 1 :]).verify()


@given(PLACED, st.data())
def test_law_11_a_task_written_twice_is_found(schedule: Schedule, data: st.DataObject) -> None:
    """Single assignment."""
    i = data.draw(st.integers(0, len(schedule.tasks) - 1))
    j = data.draw(st.integers(i + 1, len(schedule.tasks)))
    twice = schedule.tasks[i]
    with pytest.raises(ScheduleError, match=f"assigns {re.escape(twice.value)} twice"):
        tampered(schedule, *schedule.tasks[:j], twice, *schedule.tasks[j:]).verify()


@given(PLACED, st.data())
def test_law_11_a_use_before_the_definition_is_found(
    schedule: Schedule, data: st.DataObject
) -> None:
    """No use before definition."""
    made = {(t.rank, t.value): i for i, t in enumerate(schedule) if t.op != "send"}
    uses = [
        (made[t.rank, name], i)
        for i, t in enumerate(schedule)
        for name in t.reads
        if (t.rank, name) in made
    ]
    if not uses:
        reject()
    maker, user = data.draw(st.sampled_from(uses))
    tasks = list(schedule.tasks)
    tasks.insert(user, tasks.pop(maker))  # the maker now follows its user
    late = schedule.tasks[maker].value
    with pytest.raises(ScheduleError, match=f"uses {re.escape(late)} before it is defined"):
        tampered(schedule, *tasks).verify()


@pytest.mark.parametrize(("op", "lacks"), [("send", "send"), ("recv", "before it is defined")])
def test_law_11_a_lost_message_is_found(op: str, lacks: str) -> None:
    """Each send has its receive, and each receive its send."""
    schedule = place(parareal_schedule(4, Parareal()), 4, 4)
    for i, task in enumerate(schedule):
        if task.op == op:
            name = re.escape(task.reads[0] if op == "send" else task.value)
            with pytest.raises(ScheduleError, match=f"{name}.*{lacks}"):
                tampered(schedule, *schedule.tasks[:i], *schedule.tasks[i + 1 :]).verify()


def test_law_11_an_unread_message_is_found() -> None:
    """Each send has its receive."""
    schedule = place(parareal_schedule(2, Parareal()), 2, 2)
    extra = Task("v1.0→1 again", "send", Role.MESSAGE, ("u1.0",), rank=1, peer=0)
    with pytest.raises(ScheduleError, match=r"message u1\.0 from rank 1 to 0 has no receive"):
        tampered(schedule, *schedule.tasks, extra).verify()


def test_law_11_a_deadlock_is_found() -> None:
    """Per-rank order free of deadlock: rank 0 waits for what rank 1 makes of rank 0's value."""
    tasks = (
        Task("b", "recv", Role.MESSAGE, rank=0, peer=1),
        Task("a", "apply", Role.FINE, ("x",), Target.fine(1), rank=0),
        Task("a→1", "send", Role.MESSAGE, ("a",), rank=0, peer=1),
        Task("a", "recv", Role.MESSAGE, rank=1, peer=0),
        Task("b", "apply", Role.FINE, ("a",), Target.fine(2), rank=1),
        Task("b→0", "send", Role.MESSAGE, ("b",), rank=1, peer=0),
        Task("out", "combine", Role.CORRECTION, ("a", "b"), signs="++", rank=0),
    )
    schedule = Schedule(tasks, "out", inputs=("x",), ranks=2)
    with pytest.raises(ScheduleError, match=r"wait for each other.*\[rank 1\] b = fine\.2\(a\)"):
        schedule.verify()
    tampered(schedule, *tasks[1:6], tasks[0], tasks[6]).verify()


def test_law_11_a_wrong_rank_is_found() -> None:
    """A value is used on the rank that has it."""
    schedule = place(parareal_schedule(3, Parareal()), 3, 3)
    moved = [replace(t, rank=(t.rank + 1) % 3) if t.value == "out" else t for t in schedule]
    with pytest.raises(ScheduleError, match="out = head"):
        tampered(schedule, *moved).verify()
    with pytest.raises(ScheduleError, match="rank 3 of 3"):
        tampered(
            schedule, *schedule.tasks, Task("y", "apply", Role.FINE, ("x",), Target.fine(1), rank=3)
        ).verify()
