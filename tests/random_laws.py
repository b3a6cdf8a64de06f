"""The laws on one random network; run as a program, on many.

python tests/random_laws.py --count 1000 --seed 0 --features functions,states

On ranks: `programs/random_ranks.py`.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from networks import cotangent, relative, seeded
from pararealize import Parareal, pararealize
from pararealize.emit.adoption import is_added
from pararealize.errors import CoarseError, CutError, PararealizeError, StaleError
from pararealize.network import ParallelNetwork
from pararealize.runtime.values.combine import combine
from random_features import FEATURES, SOUND, change_attributes
from random_networks import RandomNetwork, Sample, build, inputs, perturb

#: The tests' own bound for corrections at jumps that are zero but for rounding.
ROUNDING = 1e-10
CORRECTIONS, GUESSES = ("residual", "difference"), ("network", "coarse")


@dataclass
class Outcome:
    """What became of a network; ``refusals`` are the errors of the compiler, by kind."""

    kind: str
    n: int = 0
    refusals: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True)
class Answer:
    """What one call gives, and the shape of the nest it comes in."""

    structure: Any
    tensors: dict[str, Tensor]


def answer(
    module: nn.Module, names: nn.Module, call: tuple[list[Tensor], dict[str, Tensor]], seed: int = 0
) -> Answer:
    """Outputs, gradients and buffers; the names are those of the model."""
    args, kwargs = tree_map(lambda t: t.clone().requires_grad_(t.is_floating_point()), call)
    given = [leaf for leaf in tree_leaves((args, kwargs)) if leaf.requires_grad]
    with drawn_from(seed):  # copies, because the network may write on its inputs
        args, kwargs = tree_map(torch.clone, (args, kwargs))
        leaves, structure = tree_flatten(module(*args, **kwargs))
    wanted = {name: module.get_parameter(name) for name, _ in names.named_parameters()}
    wanted |= {f"input {i}": leaf for i, leaf in enumerate(given)}
    loss = sum(((leaf * cotangent(leaf)).sum() for leaf in leaves), torch.zeros(()))
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    found = {f"output {i}": leaf.detach() for i, leaf in enumerate(leaves)}
    for (name, tensor), grad in zip(wanted.items(), grads, strict=True):
        found[f"gradient {name}"] = torch.zeros_like(tensor) if grad is None else grad
    found |= {
        f"buffer {name}": module.get_buffer(name).clone() for name, _ in names.named_buffers()
    }
    return Answer(structure, found)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """A block with all generators seeded, torch's, Python's and NumPy's."""
    before = random.getstate(), np.random.get_state()
    with seeded(seed):
        random.seed(seed)
        np.random.seed(seed)
        yield
    random.setstate(before[0])
    np.random.set_state(before[1])


def assert_same(found: Answer, wanted: Answer, tolerance: float, law: str) -> None:
    assert found.structure == wanted.structure, f"{law}: another nest of outputs"
    for kind in ("output", "buffer", "gradient"):
        a, b = (
            {k: v for k, v in side.tensors.items() if k.startswith(kind)}
            for side in (found, wanted)
        )
        error = relative(a, b)
        worst = max(b, key=lambda k: float((a[k] - b[k]).abs().max()), default="")
        assert error <= tolerance, f"{law}: {kind}s differ by {error:.1e}, most {worst}"


def compiled(model: nn.Module, n: int, method: Parareal, call: Any) -> ParallelNetwork:
    """As a user compiles; nothing of the model, of its modes or of the random numbers changes."""
    args, kwargs = tree_map(torch.clone, call)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    numbers = (torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = pararealize(model, n, method=method, example_inputs=args, example_kwargs=kwargs)
    assert numbers == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )
    assert modes == [m.training for m in model.modules()], "law 1: modes"
    now = model.state_dict()
    assert all(torch.equal(before[k], now[k]) for k in before | now), "law 1: the model's state"
    assert {k for k in net.state_dict() if not is_added(k)} == set(before), "state_dict keys"
    return net


def largest(
    model: nn.Module, n: int, method: Parareal, call: Any, refusals: list[str]
) -> ParallelNetwork:
    """The network in as many subnetworks, up to ``n``, as it can be cut into."""
    while True:
        try:
            return compiled(model, n, method, call)
        except CutError as error:
            refusals.append(summary(error))
            n -= 1


def check_laws(sample: Sample) -> Outcome:
    """Compile a network by three methods, and hold the results against the serial one.

    Raises:
        AssertionError: a law does not hold.

    """
    model, rng = build(sample), sample.random("method")
    call = inputs(sample, model)
    try:
        for mode, seed in ((True, 0), (True, 1), (False, 0)):  # what runs may be drawn
            found = answer(copy.deepcopy(model).train(mode), model, call, seed).tensors.values()
            if not all(tensor.isfinite().all() for tensor in found):
                return Outcome("no network", refusals=["serial: infinite or no numbers"])
    except RuntimeError as error:  # two layers that write on what autograd needs
        return Outcome("no network", refusals=[f"serial: {str(error)[:60]}"])
    refusals: list[str] = []
    exact = Parareal(coarse="fine", correction="difference", guess=rng.choice(GUESSES))
    try:
        net = largest(model, rng.randint(1, 6), exact, call, refusals)
    except PararealizeError as error:
        return Outcome("refused", refusals=[summary(error)])
    n = net.plan.n
    refusals += compare(model, net, exact, call)
    full = Parareal(iterations=n, guess=exact.guess, correction=rng.choice(CORRECTIONS))
    for method, check in ((full, compare), (drawn(rng), check_corrections)):
        try:
            refusals += check(model, compiled(model, n, method, call), method, call)
        except CoarseError as error:
            refusals.append(summary(error))
    return Outcome("compiled", n, refusals)


def drawn(rng: Random) -> Parareal:
    """A random method."""
    return Parareal(
        coarse=rng.choice(("network", "fine", "identity", "rediscretized", "auto")),
        correction=rng.choice(CORRECTIONS),
        iterations=rng.randint(1, 3),
        guess=rng.choice(GUESSES),
    )


def compare(model: RandomNetwork, net: ParallelNetwork, method: Parareal, call: Any) -> list[str]:
    """Two steps of training and one evaluation, with other weights than compiled, beside serial.

    A network that refuses other attributes than it was compiled with is compiled again, as the
    error says.
    """
    n, refusals = net.plan.n, list[str]()
    law = f"n={n}, {method.coarse}, {method.correction}, {method.guess}, {method.iterations}"
    serial = copy.deepcopy(model)
    with seeded(1):
        perturb(serial)
    net.load_state_dict(serial.state_dict())
    tolerance = 0.0 if n == 1 else ROUNDING
    for seed in range(2):
        found, wanted = answer(net, model, call, seed), answer(serial, model, call, seed)
        assert_same(found, wanted, tolerance, f"{law}, train")
    changed = [change_attributes(each) for each in (net, serial)]
    try:
        found = answer(net, model, call)
    except StaleError as error:
        assert all(changed)
        refusals.append(summary(error))
        net = compiled(cast(RandomNetwork, net.to_serial()), n, method, call)
        found = answer(net, model, call)
    wanted = answer(serial, model, call)
    assert_same(found, wanted, tolerance, f"{law}, train with other attributes")
    found = answer(net.eval(), model, call)
    assert_same(found, answer(serial.eval(), model, call), tolerance, f"{law}, eval")
    again = net.to_serial()
    assert type(again) is type(model)
    assert_same(answer(again, model, call), found, tolerance, f"{law}, to_serial")
    return refusals


def check_corrections(
    model: RandomNetwork, net: ParallelNetwork, method: Parareal, call: Any
) -> list[str]:
    """Zero jump, zero correction; statistics move once a step; outputs nest as the serial ones."""
    seen: dict[str, Any] = {}
    for name, part in net.propagators.items():
        if name.startswith("coarse."):
            part.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args}))
    found, serial = answer(net, model, call), answer(copy.deepcopy(model), model, call)
    assert found.structure == serial.structure
    counts = {k for k in serial.tensors if k.endswith("num_batches_tracked")}
    assert all(torch.equal(found.tensors[k], serial.tensors[k]) for k in counts), "law 10"
    for name, (state, *given) in seen.items():
        part = net.propagators[name]
        if method.correction == "residual":
            result = part(tree_map(torch.zeros_like, state), *given, commits=False)
        else:
            new, old = (part(state, *given, commits=False) for _ in range(2))
            result = combine("+-", new, old)
        floats = [leaf for leaf in tree_leaves(result) if leaf.is_floating_point()]
        assert not any(leaf.any() for leaf in floats), f"law 5: {name} of {method}"
    return []


def summary(error: Exception) -> str:
    """The kind of an error: its class and message without names and numbers."""
    text = re.sub(r"'[^']*'|%?\b\w*\d[\w.]*", "…", str(error))
    return f"{type(error).__name__}: {text[:90]}"


def run(sample: Sample) -> Outcome:
    """The outcome, failures as well."""
    try:
        return check_laws(sample)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
        return Outcome("failed", failure=text)


def features_of(text: str) -> frozenset[str]:
    """Features by name.

    Raises:
        ArgumentTypeError: there is none of a name.

    """
    found = frozenset(FEATURES if text == "all" else filter(None, text.split(",")))
    if not found <= set(FEATURES):
        raise argparse.ArgumentTypeError(f"{sorted(found - set(FEATURES))}: know {FEATURES}")
    return found


def main() -> int:
    """Check so many networks; 1 if a law fails on one of them."""
    parser = argparse.ArgumentParser(description="The laws on random networks.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--depth", type=int, help="layers of every network")
    parser.add_argument(
        "--features",
        type=features_of,
        default=SOUND,
        help=f"all, or some of {','.join(FEATURES)}; {','.join(sorted(SOUND))} if left out",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds, refusals = Counter[str](), Counter[str]()
    for seed in range(options.seed, options.seed + options.count):
        outcome = run(Sample(seed, options.depth or 3 + seed % 12, options.features))
        kinds[outcome.kind if outcome.kind != "compiled" else f"compiled, n = {outcome.n}"] += 1
        refusals.update(outcome.refusals)
        if outcome.failure:
            print(f"seed {seed}: {outcome.failure}", flush=True)
        if (seed - options.seed) % 50 == 49:
            print(f"{seed - options.seed + 1} networks, {kinds['failed']} failed", flush=True)
    for title, table in (("networks", kinds), ("refusals", refusals)):
        print(f"\n{title}")
        for name, count in sorted(table.items()):
            print(f"{count:6}  {name}")
    return 1 if kinds["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
