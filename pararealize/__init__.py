"""Turn the depth of a PyTorch network into parallelism: ``pararealize(model, n=6)``.

>>> import torch
>>> from pararealize import Parareal, pararealize
>>> from pararealize.models import resnet
>>> x = torch.randn(2, 3, 16, 16)
>>> exact = Parareal(coarse="fine", correction="difference", iterations=1)
>>> model = resnet(20, width=4).eval()
>>> net = pararealize(model, n=3, method=exact, example_inputs=(x,))
>>> net.plan.n
3
>>> torch.allclose(net(x), model(x), atol=1e-5)
True

"""

from pararealize.compiler import pararealize
from pararealize.errors import (
    AgreementWarning,
    CaptureWarning,
    CertificateWarning,
    DivergenceWarning,
    PararealizeError,
    RecompiledWarning,
    SlowerThanSerialWarning,
    StaleOptimizerWarning,
    UnheardHookWarning,
    WaitingWarning,
)
from pararealize.ir.calibration import Calibration, Fitting
from pararealize.ir.machines import one_gpu
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.plan import Machine, Plan
from pararealize.ir.schedule import Schedule
from pararealize.loading import load
from pararealize.network import ParallelNetwork
from pararealize.runtime.capture.capture import capture, capture_step
from pararealize.runtime.capture.rehearsal import Rehearsal
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.monitoring.progress import Progress
from pararealize.runtime.monitoring.report import Report

#: Of this package; pyproject.toml reads it here.
__version__ = "0.1.0"

__all__ = [
    "MGRIT",
    "AgreementWarning",
    "Calibration",
    "CaptureWarning",
    "CertificateWarning",
    "DivergenceWarning",
    "Fitting",
    "Machine",
    "ParallelNetwork",
    "Parareal",
    "PararealizeError",
    "Plan",
    "Progress",
    "RecompiledWarning",
    "Rehearsal",
    "Report",
    "Schedule",
    "SlowerThanSerialWarning",
    "StaleOptimizerWarning",
    "UnheardHookWarning",
    "WaitingWarning",
    "__version__",
    "capture",
    "capture_step",
    "connect",
    "load",
    "one_gpu",
    "pararealize",
]
