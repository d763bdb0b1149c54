"""The failure of a rank: what the other ranks are told, and what each process prints when it ends because of it."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch.distributed as dist

_CONNECTION = ("connection", "peer", "gloo", "nccl", "socket", "broken pipe", "store", "timed out", "watchdog")
ALL = -1  # stands for a rank where a failure is that of all


@dataclass(frozen=True)
class Failure:
    """The first failure of a run.

    Args:
        rank: The rank that failed, or :data:`ALL`.
        text: The traceback, or a sentence where there is none.
        summary: The last line of the traceback, or the same sentence.
    """

    rank: int
    text: str
    summary: str

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """The failure of a rank that raised ``error``."""
        if isinstance(error, KeyboardInterrupt):
            return cls.without_traceback(rank, f"Rank {rank} was interrupted from the keyboard.")
        return cls(rank, "".join(traceback.format_exception(error)).rstrip(), summary_of(error))

    @classmethod
    def without_traceback(cls, rank: int, sentence: str) -> Failure:
        """A failure that is known by a sentence only."""
        return cls(rank, sentence, sentence)

    def to_json(self) -> str:
        """As text, for the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Failure:
        """From what :meth:`to_json` returned."""
        return cls(**json.loads(text))

    def as_error(self, here: int) -> PeerFailedError:
        """The error with which rank ``here`` ends because of this failure."""
        who = "all" if self.rank == ALL else f"rank {self.rank}"
        error = PeerFailedError(f"{who.capitalize()} failed first:\n{self.text}" if self.rank != ALL else self.text)
        error.rank = self.rank
        if here != 0:  # rank 0 prints the whole failure, and so does the rank that failed
            error.brief = f"Rank {here} ends, as {who} failed: {self.summary}"
        return error


class PeerFailedError(RuntimeError):
    """Another rank failed first; the message holds its traceback.

    Attributes:
        rank: The rank that failed.
        brief: What the process prints instead of the traceback if this error ends it; None prints the traceback.
    """

    rank: int = -1
    brief: str | None = None


def summary_of(error: BaseException) -> str:
    """An error's type and message, in one line or more."""
    return "".join(traceback.format_exception_only(type(error), error)).rstrip()


def is_of_connection(error: BaseException) -> bool:
    """Whether an error may come from a broken connection to another rank."""
    if isinstance(error, dist.DistError):
        return True
    words = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(word in words for word in _CONNECTION)


def print_briefly() -> None:
    """Make the interpreter print ``brief`` instead of the traceback if an error that has it ends the program."""
    usual = sys.excepthook
    if getattr(usual, "prints_briefly", False):
        return

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        brief = getattr(error, "brief", None)
        if brief is None:
            usual(kind, error, trace)
        elif brief:
            print(brief, file=sys.stderr, flush=True)

    hook: Any = show
    hook.prints_briefly = True
    sys.excepthook = hook
