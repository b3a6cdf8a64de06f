"""Rates: what a device and the links between ranks reach here, as measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pararealize.cost.measure import low, turns
from pararealize.errors import MethodError
from pararealize.ir.machines import one_gpu
from pararealize.ir.plan import Machine
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.values.pytree import device_of

#: Rows of square matrices, and numbers of vectors: the caches hold neither.
ROWS, LONG = 512, 2**22
#: Calls of one run, and runs of which the fastest quarter counts.
CALLS, RUNS = 20, 9
#: Numbers of a long message, and the tag of all that are timed.
MESSAGE, TAG = 2**18, 7


def machine_for(model: nn.Module, machine: Machine | None, *, places: bool) -> Machine:
    """The machine that was asked for, or what a network lies on, if it is alone there.

    Args:
        model: the network; on a CUDA device it is compiled for streams of that one.
        machine: what was asked for.
        places: whether subnetworks have devices or ranks of their own.

    Raises:
        MethodError: a machine of one device, and several places.

    """
    if machine is None:
        return one_gpu() if device_of(model).type == "cuda" and not places else Machine()
    if machine.sharing is not None and places:
        raise MethodError(
            "machine=Machine(sharing=...) is one device that all subnetworks share, and with "
            "devices= or comm= they have several: leave sharing out, or those."
        )
    return machine


def measured_machine(transport: Transport | None = None) -> Machine:
    """The rates of this process's device, on as many threads as it computes with.

    With a ``transport`` rank 0 measures the device while others wait, then the link to rank 1; all
    ranks get the same. Links are those of ``Machine()`` where there is one rank.
    """
    rates: dict[str, Any] = _device() if transport is None or transport.rank == 0 else {}
    if transport is not None and transport.size > 1:
        rates |= _link(transport)
        rates = transport.exchange(rates)[0]
    return Machine(**rates)


def _device() -> dict[str, float]:
    a, long, short = torch.ones(ROWS, ROWS), torch.ones(LONG), torch.ones(1, 4, 2, 2)
    other, layer = torch.ones(LONG), nn.ReLU()

    def launched() -> None:
        for _ in range(CALLS):
            layer(short)

    with torch.no_grad():
        calls = (lambda: a @ a, lambda: torch.add(long, other), launched)
        dense, moved, small = (low(each) for each in turns(*calls, runs=RUNS))
    return {
        "flops_per_second": 2.0 * ROWS**3 / dense,
        "bytes_per_second": 3 * 4.0 * LONG / moved,
        "launch_seconds": small / CALLS,
    }


def _link(transport: Transport) -> dict[str, float]:
    """Of messages from rank 0 to rank 1 and back, half the time of the way there and back."""
    short, long = torch.zeros(1), torch.zeros(MESSAGE)

    def there_and_back(tensor: torch.Tensor) -> None:
        if transport.rank == 0:
            transport.send(tensor, 1, TAG)
            transport.receive(tensor.clone(), 1, TAG)()
        elif transport.rank == 1:
            transport.receive(tensor, 0, TAG)()
            transport.send(tensor, 0, TAG)

    times = turns(lambda: there_and_back(short), lambda: there_and_back(long), runs=RUNS)
    latency, whole = (low(each) / 2 for each in times)
    rest = max(whole - latency, 1e-9)
    return {"link_latency": latency, "link_bandwidth": 4.0 * MESSAGE / rest}
