"""What can go wrong, said once: what was expected, what was found, what to write instead."""


class PararealizeError(Exception):
    """A problem the user can mend; its text is one readable paragraph."""


class NotAModuleError(PararealizeError, TypeError):
    """The object to compile is not a ``torch.nn.Module``."""


class TraceError(PararealizeError):
    """The network cannot be written as one graph, or not copied."""


class VerificationError(TraceError):
    """What was traced of a network does not compute what the network does."""


class StaleError(PararealizeError, RuntimeError):
    """An attribute that a network was compiled with has changed since."""


class ShapeError(PararealizeError, ValueError):
    """Shapes are unknown, or do not fit the network."""


class CutError(PararealizeError, ValueError):
    """The network cannot be cut as asked."""


class MethodError(PararealizeError, ValueError):
    """An option has a value it cannot take."""


class CoarseError(PararealizeError, ValueError):
    """A coarse or guess network cannot be built, or does not fit its interface."""


class RefinementError(PararealizeError, ValueError):
    """A shallow network does not fit a deeper one it should start, or depths do not increase."""


class CalibrationError(PararealizeError, ValueError):
    """A trained network cannot be calibrated with this data, or not as closely as asked."""


class ScheduleError(PararealizeError, ValueError):
    """A schedule breaks one of the rules that make it safe to run."""


class StorageError(PararealizeError, OSError):
    """A saved network cannot be written or read back."""


class ModelSpecError(PararealizeError, ValueError):
    """A model's name on the command line leads to no module."""


class DataError(PararealizeError, ValueError):
    """Data or weights named on the command line cannot be read, or do not fit the model."""


class RankError(PararealizeError, RuntimeError):
    """Ranks were asked for what they cannot do, or do not agree about it."""


class DisagreementError(ShapeError, RankError):
    """Ranks were called with different inputs or in different modes; all of them raise it."""


class PeerError(PararealizeError, RuntimeError):
    """Another rank failed, left, or did not answer; its own message tells why."""


class NonFiniteError(PararealizeError, ArithmeticError):
    """A network made a NaN or an infinity while anomaly detection was on."""


class MissingPackageError(PararealizeError, ImportError):
    """An optional package is not installed."""


class WaitingWarning(UserWarning):
    """A rank has waited for another one for long: who, for whom, and for what."""


class SlowerThanSerialWarning(UserWarning):
    """The parallel network is predicted to be slower than the serial one."""


class RecompiledWarning(UserWarning):
    """A network was compiled again, as an attribute that it was compiled with has changed."""


class UnheardHookWarning(UserWarning):
    """A hook was put on a module that the network has been compiled through, and does not run."""


class StaleOptimizerWarning(UserWarning):
    """An optimizer was made before the network was compiled, and trains nothing of it."""


class DivergenceWarning(UserWarning):
    """Multigrid cycles did not converge, and a step was run serially instead."""


class InaccurateWarning(UserWarning):
    """The network was compiled, and is measured to be further off the serial one than wanted."""


class AgreementWarning(UserWarning):
    """A network was calibrated without saying how closely it has to agree with the serial one."""


class CertificateWarning(UserWarning):
    """An answer may differ from the serial network's by more than its certificate allows."""


class CaptureWarning(UserWarning):
    """A call or a step cannot be captured in a graph, and runs without one."""
