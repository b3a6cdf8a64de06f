"""Loading: the network that a folder holds, compiled again as it was and filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pararealize.compiler import compile_as
from pararealize.cost.inputs import bind
from pararealize.decide.request import Request
from pararealize.emit.adoption import is_added
from pararealize.errors import CoarseError, CutError, ShapeError
from pararealize.ir.methods import MGRIT
from pararealize.ir.options import CoarseFactory
from pararealize.ir.saved_factory import with_factory
from pararealize.network import ParallelNetwork
from pararealize.recompiling import as_found
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import together
from pararealize.runtime.monitoring.progress import Progress, progress_of
from pararealize.storage.read import Saved, foreign, match, read
from pararealize.tracing.copying import at_rest, collection_paused
from pararealize.tracing.module import check_module
from pararealize.tracing.wrappers import unwrapped


def load(
    path: str | Path,
    model: nn.Module,
    n: int | None = None,
    *,
    coarse: CoarseFactory | None = None,
    example_inputs: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    comm: Any = None,
    verify: bool = True,
    progress: bool | Progress = False,
) -> ParallelNetwork:
    """The network that :meth:`ParallelNetwork.save` wrote, on a model built like the saved one.

    Args:
        path: the folder.
        model: the architecture; its weights are not used, and it is not changed.
        n: another number of subnetworks than was saved: the model's own weights are read, the
            coarse and guess networks are new.
        coarse: the user's coarse function, where the network was compiled with one.
        example_inputs: as for :func:`pararealize`; by default the shapes it was compiled for.
        example_kwargs: likewise.
        comm: as for :func:`pararealize`; the ranks need not be as many as those that saved.
        verify: as for :func:`pararealize`.
        progress: whether lines of text say how far it is, or a :class:`Progress` that does.

    Raises:
        StorageError: no saved network, a damaged or foreign one, or another model's.

    >>> import tempfile, torch
    >>> from pararealize import load, pararealize
    >>> model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    >>> net = pararealize(model, n=2, example_inputs=(torch.zeros(1, 4),))
    >>> folder = tempfile.mkdtemp()
    >>> net.save(folder)
    >>> load(folder, model).plan.n
    2

    """
    transport = None if comm is None else connect(comm)
    agree(transport, f"loads {path}")
    told = progress_of(progress, first=transport is None or transport.rank == 0)
    with collection_paused(), together(transport):
        saved = read(path)
        model = unwrapped(model)
        check_module(model)
        plan, same = saved.plan, n is None or n == saved.plan.n
        method = with_factory(plan.method, coarse)
        plan = replace(plan, method=method)
        with _foreign(saved):
            given = bind(model, example_inputs, example_kwargs) or bind(model, (), plan.specs)
    cuts = plan.cuts if same else None
    with told, at_rest(model), together(transport), _foreign(saved):
        tracing = as_found(plan.tracing, model)
        request = Request(n or plan.n, method, given, plan.machine, cuts, progress=told)
        request = replace(request, verify=verify, tracing=tracing)
        network = compile_as(model, request, transport, plan if same else None)
        with told.task("filling it with the weights"):
            _fill(network, saved, whole=same)
        fitted = same and plan.fitted  # earlier versions did not save the weights
        if isinstance(method, MGRIT) and method.coarse == "fitted" and not fitted:
            network.recoarsen()  # what it was compiled with were the weights of ``model``
    return network


def _fill(network: ParallelNetwork, saved: Saved, *, whole: bool) -> None:
    """Load what was saved; coarse and guess networks stay as they are unless it is ``whole``."""
    if not whole:
        saved = replace(saved, weights={k: v for k, v in saved.weights.items() if not is_added(k)})
    own = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    wanted = {k: v for k, v in own.items() if whole or not is_added(k)}
    match(saved, [name for name in network.names if whole or not is_added(name)], wanted)
    state = network.state_dict()  # with the versions of its modules, which decide how they load
    state.update({name: saved.weights[name] for name in wanted})
    network.load_state_dict(state)


@contextmanager
def _foreign(saved: Saved) -> Iterator[None]:
    """A model that cannot be cut as the saved one was is another model."""
    try:
        yield
    except (CutError, ShapeError, CoarseError) as error:
        raise foreign(saved, str(error)) from error
