"""Turn the depth of a PyTorch network into parallelism: ``pararealize(model, n=6)``."""

from pararealize.compiler import pararealize
from pararealize.errors import (
    AgreementWarning,
    CertificateWarning,
    DivergenceWarning,
    PararealizeError,
    SlowerThanSerialWarning,
    StaleOptimizerWarning,
    WaitingWarning,
)
from pararealize.ir.calibration import Calibration, Fitting
from pararealize.ir.methods import MGRIT, Parareal
from pararealize.ir.plan import Machine, Plan
from pararealize.ir.schedule import Schedule
from pararealize.loading import load
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.monitoring.progress import Progress
from pararealize.runtime.monitoring.report import Report

__all__ = [
    "MGRIT",
    "AgreementWarning",
    "Calibration",
    "CertificateWarning",
    "DivergenceWarning",
    "Fitting",
    "Machine",
    "ParallelNetwork",
    "Parareal",
    "PararealizeError",
    "Plan",
    "Progress",
    "Report",
    "Schedule",
    "SlowerThanSerialWarning",
    "StaleOptimizerWarning",
    "WaitingWarning",
    "connect",
    "load",
    "pararealize",
]
