"""Demonstrated: what the demo's trained network takes on two ranks, and converted, by commands.

The demo runs what a user would type, and says it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pararealize.cli.digits import Digits
from pararealize.cli.launch import launch
from pararealize.cli.terminal import Printer
from pararealize.compiler import pararealize
from pararealize.cost.measure import medians
from pararealize.errors import PararealizeError, SlowerThanSerialWarning
from pararealize.explain.calibrated import choice
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.models import odenet
from pararealize.runtime.capture.capture import capture_step
from pararealize.runtime.capture.device import Device

#: Ranks on which the demo measures: the cores of a small machine.
RANKS = 2
#: Images of the training step that is timed: small batches are what parallel depth is for.
BATCH = 4
#: Share of the converted network's answers that have to be the serial network's.
AGREEMENT = 0.98
#: Layers of the chain that is captured where there is a GPU, and slices that run at once.
DEEP, SLICES = 512, 16
#: The network as a file, for the commands.
SOURCE = """from pararealize.models import resnet


def net():
    return resnet({}, channels=1, width={})
"""


@dataclass(frozen=True)
class Trained:
    """The trained serial network, of a ``shape`` of depth and width, and where its files go."""

    model: nn.Module
    digits: Digits
    out: Path
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The network as commands name it; the file is written."""
        file = self.out / "network.py"
        file.write_text(SOURCE.format(*self.shape), encoding="utf-8")
        return f"{file}:net"


def time_training(trained: Trained, say: Printer) -> list[Path]:
    """Time a training step on ranks beside serial and other ways."""
    side = trained.digits.train_images.shape[-1]
    batch = ("--batch", str(BATCH), "--shape", f"1,{side},{side}", "--rounds", "3")
    command = ("bench", trained.name, *batch, "--ranks", str(RANKS))
    _run(f"2. Measured here: a training step on {RANKS} ranks, beside serial", command, say)
    return [trained.out / "network.py"]


def convert_trained(trained: Trained, minutes: float, say: Printer) -> list[Path]:
    """Convert the trained network, and check on ranks how it answers, and how fast."""
    images, folder = trained.digits.test_images, trained.out / "converted"
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=3)
    model = trained.model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is measured below
        net = pararealize(model, RANKS, method=method, example_inputs=(images[:BATCH],))
    net.calibrate(
        trained.digits.train_images,
        progress=say.progress,
        agreement=AGREEMENT,
        minutes=minutes,
        best=True,
    )
    net.save(folder)
    np.save(trained.out / "test.npy", images.numpy())
    assert net.plan.calibration is not None
    say(f"3. Converted: the trained serial network, {choice(net.plan.calibration)}")
    command = ("check", str(folder), "--model", trained.name, "--data", f"{trained.out}/test.npy")
    options = ("--agreement", str(AGREEMENT), "--ranks", str(RANKS))
    _run(f"Measured here: one call on {RANKS} ranks, on digits never seen", command + options, say)
    return [folder, trained.out / "test.npy"]


def time_captured(say: Printer, device: Device | None = None) -> None:
    """Where there is a GPU, time a step of a deep chain as a CUDA graph: MGRIT beside serial.

    One graph has no Python between its kernels, so that layers which do not fill the device run
    side by side. Another ``device`` stands for the GPU.
    """
    if device is None and not torch.cuda.is_available():
        return
    home = "cuda" if device is None else "cpu"
    torch.manual_seed(0)
    model = odenet(DEEP, width=16, in_features=16).to(home)
    x = torch.randn(200, 16, device=home)
    method = MGRIT(coarsening=DEEP // SLICES, coarse="rediscretized", batched="always")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is measured
        net = pararealize(model, SLICES, method=method, example_inputs=(x,))
    steps = [capture_step(each, torch.Tensor.mean, [x], device=device) for each in (model, net)]
    serial, ours = medians(*map(_launch(x), steps), runs=20)
    say(
        f"4. Measured here, on {torch.cuda.get_device_name() if device is None else home}: a "
        f"training step of a chain of {DEEP} layers as a CUDA graph, serial {serial * 1e3:.2f} ms, "
        f"layer-parallel by MGRIT {ours * 1e3:.2f} ms, {serial / ours:.2f}×."
    )


def _launch(x: torch.Tensor) -> Callable[[Callable[..., torch.Tensor]], Callable[[], object]]:
    """What makes of a captured step one call of it, until its loss is there."""
    return lambda step: lambda: step(x).item()


def _run(what: str, command: Sequence[str], say: Printer) -> None:
    """Run a command on ranks, which prints for itself, or say why it cannot run."""
    say(f"{what}:\n  pararealize {' '.join(command)}")
    try:
        launch(command, RANKS)
    except PararealizeError as error:
        say(f"Not measured: {error}")
