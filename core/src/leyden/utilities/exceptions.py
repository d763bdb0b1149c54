"""The exceptions that Leyden raises of its own."""


class MisconfigurationException(ValueError, TypeError, RuntimeError):
    """Something that the user wrote can't work; the message says what, and what to write instead.

    It is each of the three standard errors, so that a script which catches the one that Lightning raises for a
    mistake catches it here too.
    """


class UnknownComponentError(MisconfigurationException, ImportError):
    """No installed plugin brings a component of that kind and name."""


class CheckpointCorruptedError(RuntimeError):
    """A checkpoint is there but damaged: torn, or with a byte that is not the one that was written."""


class SIGTERMException(SystemExit):
    """The process was asked to end; raised at a step boundary, so that the run can be saved.

    Its exit code is the one of a process that SIGTERM has ended, so that whoever sent it sees that it did.
    """

    def __init__(self, code: int = 143) -> None:
        super().__init__(code)
