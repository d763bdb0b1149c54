"""Leyden's own exceptions."""


class MisconfigurationException(ValueError, TypeError, RuntimeError):
    """Raised if the user's code can't work; the message says why, and what to write instead.

    It derives from three standard errors, so a script that catches the error that Lightning raises for a mistake
    also catches this one.
    """


class UnknownComponentError(MisconfigurationException, ImportError):
    """No installed plugin brings a component of that kind and name."""


class CheckpointCorruptedError(RuntimeError):
    """Raised if a checkpoint exists but is damaged: parts are missing or some bytes have changed."""


class SIGTERMException(SystemExit):
    """Raised after the process was asked to end, at the end of a step, so that the run can be saved.

    The exit code is that of a process ended by SIGTERM, so the sender of the signal sees that it worked.
    """

    def __init__(self, code: int = 143) -> None:
        super().__init__(code)
