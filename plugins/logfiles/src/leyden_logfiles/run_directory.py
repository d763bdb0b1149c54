"""Loggers whose files lie in ``save_dir/name/version_N``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from leyden.loggers import Logger
from leyden.utilities.storage import entries


class RunDirectoryLogger(Logger):
    """The part of a logger with files that says where they are. Nothing is created before something is written.

    Args:
        save_dir: Directory of all experiments; ``~`` and environment variables in it are replaced.
        name: The experiment, a directory in ``save_dir``; None or "" for none of its own.
        version: The run, a directory in that of the experiment: an int n stands for ``version_n``, a string
            for itself. By default the number after the highest one that is there at the first question for it.
        prefix: Put before the names of all metrics, with a hyphen.
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
        """The experiment's name; "" where it has none."""
        return self._name

    @property
    def version(self) -> int | str:
        """The run's version: as given, or the first number that is free."""
        if self._version is None:
            self._version = next_version(self.root_dir)
        return self._version

    def take_version(self, version: int | str | None) -> None:
        """Write where another process of the run writes."""
        self._version = version

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
    """The number after the highest N of the directories ``version_N`` in ``root_dir``; 0 where there are none."""
    numbers = [
        int(match[1]) for name in entries(root_dir, "directory") if (match := re.fullmatch(r"version_(\d+)", name))
    ]
    return max(numbers, default=-1) + 1
