"""The base class of loggers that write files to ``save_dir/name/version_N``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from leyden.loggers import Logger
from leyden.utilities.storage import entries


class RunDirectoryLogger(Logger):
    """Base class that gives a logger its directories. It creates no directory itself.

    Args:
        save_dir: The directory of all experiments; ``~`` and environment variables in it are expanded.
        name: The experiment's name, a directory in ``save_dir``; with None or "" the runs are in ``save_dir`` itself.
        version: The run's name, a directory in the experiment's: an int n means ``version_n``, a string is used
            unchanged. The default is the number after the highest existing one, chosen when it is first needed; a fit
            that goes on in an earlier run, as with ``ckpt_path="last"``, takes that of the earlier one.
        prefix: Text to put before the names of all metrics, followed by a hyphen.

    Attributes:
        goes_on: Whether the log goes on in the directory of an earlier run.
    """

    LOGGER_JOIN_CHAR: ClassVar[str] = "-"
    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None, version: int | str | None, prefix: str
    ) -> None:
        self._save_dir = os.path.expandvars(os.path.expanduser(os.fspath(save_dir)))
        self._name = name or ""
        self._version, self._may_choose = version, version is None
        self._prefix = prefix
        self.goes_on = False

    @property
    def name(self) -> str:
        """The experiment's name; "" if it has none."""
        return self._name

    @property
    def version(self) -> int | str:
        """The run's version: the given one, or the number after the highest existing one."""
        if self._version is None:
            self._version = next_version(self.root_dir)
        return self._version

    def take_version(self, version: int | str | None) -> None:
        """Use the version that rank 0 chose, so that all processes of a run share a directory."""
        self._version = version

    def earlier_versions(self) -> list[int]:
        """The numbers of the runs in which this one may go on, the highest first.

        There are none if the user has given a version, or once this run has a directory of its own.
        """
        numbers = version_numbers(self.root_dir)
        return [] if not self._may_choose or self.version in numbers else sorted(numbers, reverse=True)

    def go_on(self, version: int) -> None:
        """Go on in an earlier run, where that is one of :meth:`earlier_versions`."""
        if version in self.earlier_versions():
            self._version, self.goes_on = version, True

    def state_dict(self) -> dict[str, Any]:
        """How far the log has come, as plain data for a checkpoint; {} where nothing needs to be known of it.

        Called on rank 0 alone, as is :meth:`load_state_dict`.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the log had come to when :meth:`state_dict` was called.

        A run that was killed after its checkpoint has logged more than the resumed one will know of: what came after
        the checkpoint is logged again, so it is to be dropped. The log of this run's directory may be another one's,
        of which nothing is known.

        Args:
            state: What :meth:`state_dict` returned for the checkpoint; {} only where :attr:`goes_on` is true, and
                everything is logged again.
        """

    @property
    def save_dir(self) -> str:
        """The directory of all experiments."""
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The directory of all versions of this experiment."""
        return os.path.join(self._save_dir, self._name) if self._name else self._save_dir

    @property
    def log_dir(self) -> str:
        """The directory of this run."""
        version = self.version
        return os.path.join(self.root_dir, version if isinstance(version, str) else f"version_{version}")

    def _with_prefix(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._prefix:
            return metrics
        return {f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}": value for name, value in metrics.items()}


def next_version(root_dir: str) -> int:
    """Return the number after the highest of :func:`version_numbers`; 0 if there are none."""
    return max(version_numbers(root_dir), default=-1) + 1


def version_numbers(root_dir: str) -> list[int]:
    """Return the N of the directories ``version_N`` in ``root_dir``."""
    matches = (re.fullmatch(r"version_(\d+)", name) for name in entries(root_dir, "directory"))
    return [int(match[1]) for match in matches if match]
