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
            unchanged. The default is the number after the highest existing one, chosen when it is first needed.
        prefix: Text to put before the names of all metrics, followed by a hyphen.
    """

    LOGGER_JOIN_CHAR: ClassVar[str] = "-"
    NAME_HPARAMS_FILE: ClassVar[str] = "hparams.yaml"

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None, version: int | str | None, prefix: str
    ) -> None:
        self._save_dir = os.path.expandvars(os.path.expanduser(os.fspath(save_dir)))
        self._name = name or ""
        self._version = version
        self._prefix = prefix

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
            state: What :meth:`state_dict` returned for the checkpoint; never {}.
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
    """Return the number after the highest N of the directories ``version_N`` in ``root_dir``; 0 if there are none."""
    numbers = [
        int(match[1]) for name in entries(root_dir, "directory") if (match := re.fullmatch(r"version_(\d+)", name))
    ]
    return max(numbers, default=-1) + 1
