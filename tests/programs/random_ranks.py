"""Under mpiexec: random networks on ranks beside the serial ones (law 8).

mpiexec -n 2 python -m mpi4py tests/programs/random_ranks.py --count 50 --features states
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from mpi4py import MPI
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

sys.path.insert(0, str(Path(__file__).parents[1]))

from networks import cotangent
from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.emit.adoption import is_added
from pararealize.errors import CutError, PararealizeError, PeerError, RankError, StaleError
from random_features import SOUND, change_attributes
from random_laws import (
    GUESSES,
    ROUNDING,
    Answer,
    answer,
    assert_same,
    drawn_from,
    features_of,
    summary,
)
from random_networks import Sample, build, inputs, perturb

WORLD = MPI.COMM_WORLD

#: Networks of a check of the suite.
COUNT = 6 if "--all" in sys.argv else 3

#: Seconds after which a network hangs: every rank says where, and ends.
LIMIT = 120.0


def stepped(module: nn.Module, call: Any, seed: int = 0) -> Answer:
    """Outputs, gradients and buffers of a step that ends with ``backward``; of a rank, its own."""
    module.zero_grad()
    args, kwargs = tree_map(lambda t: t.clone().requires_grad_(t.is_floating_point()), call)
    given = [leaf for leaf in tree_leaves((args, kwargs)) if leaf.requires_grad]
    with drawn_from(seed):  # copies, because the network may write on its inputs
        args, kwargs = tree_map(torch.clone, (args, kwargs))
        leaves, structure = tree_flatten(module(*args, **kwargs))
    loss = sum(((leaf * cotangent(leaf)).sum() for leaf in leaves), torch.zeros(()))
    if loss.requires_grad:
        loss.backward()
    every = module.named_parameters(remove_duplicate=False)  # a rank has one name or another
    named = {name: p for name, p in every if not is_added(name)}
    named |= {f"input {i}": leaf for i, leaf in enumerate(given)}
    found = {f"output {i}": leaf.detach() for i, leaf in enumerate(leaves)}
    for name, tensor in named.items():
        grad = tensor.grad
        found[f"gradient {name}"] = torch.zeros_like(tensor) if grad is None else grad
    for name, buffer in module.named_buffers():
        if not is_added(name):
            found[f"buffer {name}"] = buffer.clone()
    return Answer(structure, found)


def compiled(model: nn.Module, n: int, method: Parareal, call: Any, comm: Any) -> ParallelNetwork:
    """The network on all ranks, in as many subnetworks, up to ``n``, as it can be cut into."""
    args, kwargs = tree_map(torch.clone, call)
    while True:
        try:
            return pararealize(
                model, n, method=method, example_inputs=args, example_kwargs=kwargs, comm=comm
            )
        except CutError:
            if n <= WORLD.size:
                raise
            n -= 1


def check(sample: Sample, comm: Any) -> str:
    """What became of a network.

    Raises:
        AssertionError: a rank answers otherwise than the serial network.

    """
    model, rng = build(sample), sample.random("ranks")
    call = inputs(sample, model)
    try:
        first = answer(copy.deepcopy(model), model, call)
    except RuntimeError:  # two layers that write on what autograd needs
        return "no network"
    if not all(tensor.isfinite().all() for tensor in first.tensors.values()):
        return "no network"
    guess = rng.choice(GUESSES)
    method = Parareal(coarse="fine", correction="difference", guess=guess)
    n = rng.randint(WORLD.size, max(6, WORLD.size))
    try:
        net = compiled(model, n, method, call, comm)
    except PararealizeError as error:
        return f"refused, {summary(error)}"
    serial = copy.deepcopy(model)
    torch.manual_seed(1)
    perturb(serial)
    net.load_state_dict(serial.state_dict())
    differences: list[Exception] = []  # raised at the end: the others go on meanwhile
    for seed in range(3):
        if seed == 2:
            for module in (net, serial):
                change_attributes(module)
        try:
            found = stepped(net, call, seed)
        except (StaleError, PeerError, RankError) as error:
            # A changed attribute is part of the program, or numbers are NumPy's or Python's.
            return f"compiled, n = {net.plan.n}, then refused, {type(error).__name__}"
        wanted = stepped(serial, call, seed)
        try:
            own = Answer(wanted.structure, {name: wanted.tensors[name] for name in found.tensors})
            assert_same(found, own, ROUNDING, f"{sample}, n = {net.plan.n}")
        except (AssertionError, KeyError) as error:
            differences.append(error)
    for error in differences:
        raise error
    return f"compiled, n = {net.plan.n}"


def run(sample: Sample, comm: Any) -> list[str]:
    """What became of a network, by rank; failures too."""
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        found = check(sample, comm)
    except Exception as error:
        found = f"failed, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    faulthandler.cancel_dump_traceback_later()
    return WORLD.allgather(found)


def random_networks(comm: Any, _folder: str) -> None:
    """As many random networks as the suite has time for."""
    outcomes = [run(Sample(seed, 3 + seed % 6, SOUND), comm) for seed in range(COUNT)]
    assert not [row for row in outcomes if any(text.startswith("failed") for text in row)], outcomes
    assert any(row[0].startswith("compiled") for row in outcomes)


CHECKS = (random_networks,)


def main() -> int:
    """Check so many networks over the engines named; 1 where one of them fails."""
    parser = argparse.ArgumentParser(description="Random networks on ranks.")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--features", type=features_of, default=SOUND)
    parser.add_argument("--engines", default="mpi,gloo")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds = Counter[str]()
    for engine in options.engines.split(","):
        comm = WORLD if engine == "mpi" else _group()
        for seed in range(options.seed, options.seed + options.count):
            row = run(Sample(seed, 3 + seed % 8, options.features), comm)
            bad = [text for text in row if text.startswith("failed")]
            kinds[f"{engine}: {'failed' if bad else row[0]}"] += 1
            if bad and WORLD.rank == 0:
                print(f"{engine}, seed {seed}: {bad[0]}", flush=True)
    if WORLD.rank == 0:
        for name, count in sorted(kinds.items()):
            print(f"{count:6}  {name}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return int(any("failed" in name for name in kinds))


def _group() -> Any:
    """The process group of all ranks."""
    dist = torch.distributed
    place = WORLD.bcast(tempfile.mkdtemp() if WORLD.rank == 0 else None)
    store = dist.FileStore(f"{place}/store", WORLD.size)
    dist.init_process_group("gloo", store=store, rank=WORLD.rank, world_size=WORLD.size)
    return dist.group.WORLD


if __name__ == "__main__":
    raise SystemExit(main())
