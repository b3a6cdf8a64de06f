"""Loading: the network that a folder holds, compiled again as it was and filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pararealize.compiler import at_rest, compile_as
from pararealize.cost.inputs import bind
from pararealize.decide.request import Request
from pararealize.emit.adoption import is_added
from pararealize.errors import CoarseError, CutError, ShapeError
from pararealize.ir.methods import MGRIT
from pararealize.ir.options import CoarseFactory
from pararealize.ir.serialise import with_factory
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import together
from pararealize.storage import Saved, foreign, match, read
from pararealize.tracing.copying import collection_paused
from pararealize.tracing.trace import check_module


def load(
    path: str | Path,
    model: nn.Module,
    n: int | None = None,
    *,
    coarse: CoarseFactory | None = None,
    example_inputs: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    comm: Any = None,
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

    Raises:
        StorageError: no saved network, a damaged or foreign one, or another model's.

    """
    transport = None if comm is None else connect(comm)
    agree(transport, f"loads {path}")
    with collection_paused(), together(transport):
        saved = read(Path(path))
        check_module(model)
        plan, same = saved.plan, n is None or n == saved.plan.n
        method = with_factory(plan.method, coarse)
        plan = replace(plan, method=method)
        with _foreign(saved):
            given = bind(model, example_inputs, example_kwargs) or bind(model, (), plan.specs)
    cuts = plan.cuts if same else None
    with at_rest(), together(transport), _foreign(saved):
        request = Request(n or plan.n, method, given, plan.machine, cuts, tracing=plan.tracing)
        network = compile_as(model, request, transport, plan if same else None)
        _fill(network, saved, whole=same)
        if isinstance(method, MGRIT) and method.coarse == "fitted":
            network.recoarsen()  # what it was compiled with were the weights of ``model``
    return network


def _fill(network: ParallelNetwork, saved: Saved, *, whole: bool) -> None:
    """Load what was saved; coarse and guess networks stay as they are unless it is ``whole``."""
    if not whole:
        saved = replace(saved, weights={k: v for k, v in saved.weights.items() if not is_added(k)})
    own = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    wanted = {k: v for k, v in own.items() if whole or not is_added(k)}
    match(saved, [name for name in network.names if whole or not is_added(name)], wanted)
    network.load_state_dict({**own, **{name: saved.weights[name] for name in wanted}})


@contextmanager
def _foreign(saved: Saved) -> Iterator[None]:
    """A model that cannot be cut as the saved one was is another model."""
    try:
        yield
    except (CutError, ShapeError, CoarseError) as error:
        raise foreign(saved, str(error)) from error
