"""Machines: devices and links by name, for predictions about what is not here.

Rates are those of data sheets times what kernels of networks reach of them: half of the floating-
point operations, four fifths of the memory's bandwidth. Links are one direction of one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pararealize.errors import MethodError
from pararealize.ir.plan import Machine
from pararealize.ir.sharing import Sharing

#: Shares of a data sheet's figures that networks' kernels reach.
COMPUTED, MOVED = 0.5, 0.8
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device: operations and bytes a second, seconds of a launch, bytes of memory."""

    flops_per_second: float
    bytes_per_second: float
    launch_seconds: float
    memory: float
    source: str


@dataclass(frozen=True)
class Link:
    """A link between two devices: seconds before the first byte, bytes a second."""

    latency: float
    bandwidth: float
    source: str


_CORE = Machine()
_EAGER = "launches of PyTorch in eager mode"
_H100 = "NVIDIA H100 SXM data sheet: TF32 495 TFLOPS dense, 3.35 TB/s"

#: Devices by name; matrices in TF32 on GPUs.
DEVICES: Mapping[str, Device] = {
    "core": Device(
        *(_CORE.flops_per_second, _CORE.bytes_per_second, _CORE.launch_seconds, 4 * GIB),
        "one core of a server, float32: the default of Machine()",
    ),
    "a100": Device(
        *(156e12 * COMPUTED, 2.0e12 * MOVED, 5e-6, 80e9),
        f"NVIDIA A100 80GB SXM data sheet: TF32 156 TFLOPS, 2.0 TB/s; {_EAGER}",
    ),
    "h100": Device(
        *(495e12 * COMPUTED, 3.35e12 * MOVED, 5e-6, 80e9),
        f"{_H100}; {_EAGER}",
    ),
    "h100-graph": Device(
        *(495e12 * COMPUTED, 3.35e12 * MOVED, 1.7e-6, 80e9),
        f"{_H100}; kernels launched from a CUDA graph",
    ),
}

#: Links by name.
LINKS: Mapping[str, Link] = {
    "memory": Link(_CORE.link_latency, _CORE.link_bandwidth, "processes of one machine"),
    "nvlink": Link(5e-6, 450e9 * MOVED, "NVLink 4, 900 GB/s both ways"),
    "pcie": Link(1e-5, 32e9 * MOVED, "PCIe 4.0 x16"),
    "infiniband": Link(5e-6, 50e9 * MOVED, "InfiniBand NDR, 400 Gb/s a port"),
    "ethernet": Link(3e-5, 12.5e9 * MOVED, "Ethernet, 100 Gb/s"),
}


#: One device that all subnetworks share, captured in a graph, by name: rates that were fitted to
#: graphs of networks in float32 without TF32, which small batches and kernels reach.
SHARED: Mapping[str, Machine] = {
    "h200": Machine(16e12, 3e12, 3e-6, 0.0, 3e12, Sharing()),
}


def one_gpu(name: str = "h200", **numbers: float) -> Machine:
    """One GPU on which all subnetworks run side by side, captured in a graph.

    With it predictions, balanced cuts and ``n="auto"`` are for :meth:`ParallelNetwork.capture` on
    that device: ``pararealize(model, machine=one_gpu())``. It is what a network that lies on a CUDA
    device is compiled for, where no machine, devices or ranks are given.

    Args:
        name: of the device; one of those in :data:`SHARED`.
        **numbers: single rates, as those of :class:`Machine`.

    Raises:
        MethodError: the name is unknown, or a number is no rate.

    """
    known: Machine = _named(SHARED, name, "device")
    rates: dict[str, Any] = numbers
    return replace(known, **rates)


def machine_of(device: str, link: str, **numbers: float) -> Machine:
    """The machine of a device and a link by name, with single rates given as ``numbers``.

    Raises:
        MethodError: a name is unknown, or a number is no rate.

    """
    found, way = _named(DEVICES, device, "device"), _named(LINKS, link, "link")
    rates: dict[str, Any] = {
        "flops_per_second": found.flops_per_second,
        "bytes_per_second": found.bytes_per_second,
        "launch_seconds": found.launch_seconds,
        "link_latency": way.latency,
        "link_bandwidth": way.bandwidth,
    }
    return Machine(**{**rates, **numbers})


def _named(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise MethodError(f"{what} {name!r:.40}: expected one of {', '.join(known)}.")
    return known[name]
