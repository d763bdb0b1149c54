"""The failure of a rank: what the others are told of it, and what each process prints when it ends with it."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch.distributed as dist

_CONNECTION = ("connection", "peer", "gloo", "nccl", "socket", "broken pipe", "store", "timed out", "watchdog")
ALL = -1  # in place of a rank, where none is more to blame than another


@dataclass(frozen=True)
class Failure:
    """What ended a run first.

    Args:
        rank: The rank that failed, or :data:`ALL`.
        text: Its traceback, or a sentence about it.
        summary: The traceback's last line, or the same sentence.
    """

    rank: int
    text: str
    summary: str

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """The failure of a rank that raised ``error``."""
        if isinstance(error, KeyboardInterrupt):
            return cls.told(rank, f"Rank {rank} was interrupted from the keyboard.")
        return cls(rank, "".join(traceback.format_exception(error)).rstrip(), summary_of(error))

    @classmethod
    def told(cls, rank: int, sentence: str) -> Failure:
        """A failure of which there is no traceback."""
        return cls(rank, sentence, sentence)

    def to_json(self) -> str:
        """As text, for the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Failure:
        """From what :meth:`to_json` returned."""
        return cls(**json.loads(text))

    def as_error(self, here: int) -> PeerFailedError:
        """The error with which rank ``here`` ends because of it."""
        who = "all" if self.rank == ALL else f"rank {self.rank}"
        error = PeerFailedError(f"{who.capitalize()} failed first:\n{self.text}" if self.rank != ALL else self.text)
        error.rank = self.rank
        if here != 0:  # rank 0 speaks for all, and the rank that failed for itself
            error.brief = f"Rank {here} ends, as {who} failed: {self.summary}"
        return error


class PeerFailedError(RuntimeError):
    """Another rank failed first; the message holds its traceback.

    Attributes:
        rank: The rank that failed.
        brief: What the process prints in place of a traceback if it ends with this error; None prints it in full.
    """

    rank: int = -1
    brief: str | None = None


def summary_of(error: BaseException) -> str:
    """An error's type and message, in one line or more."""
    return "".join(traceback.format_exception_only(type(error), error)).rstrip()


def is_of_connection(error: BaseException) -> bool:
    """Whether an error may be the consequence of another rank's end."""
    if isinstance(error, dist.DistError):
        return True
    words = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(word in words for word in _CONNECTION)


def print_briefly_what_others_tell() -> None:
    """Have the interpreter print one line, or nothing, for an error with ``brief`` that ends the program."""
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
