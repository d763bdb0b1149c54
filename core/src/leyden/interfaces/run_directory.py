"""Loggers whose files lie in ``save_dir/name/version_N``: the directories, and ``hparams.yaml``.

A logger that keeps files derives from :class:`RunDirectoryLogger` and so shares its directory with the others.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any, ClassVar

from leyden.interfaces.logger import Logger, add_prefix
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import directories, replacing


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

    def take_version(self, version: int | str) -> None:
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
        return add_prefix(metrics, self._prefix, self.LOGGER_JOIN_CHAR) if self._prefix else metrics


def next_version(root_dir: str) -> int:
    """The number after the highest N of the directories ``version_N`` in ``root_dir``; 0 where there are none."""
    numbers = [int(match[1]) for name in directories(root_dir) if (match := re.fullmatch(r"version_(\d+)", name))]
    return max(numbers, default=-1) + 1


def as_mapping(params: Any) -> Mapping[str, Any]:
    """Hyperparameters as a mapping, from a mapping, a Namespace or None."""
    if params is None:
        return {}
    return params if isinstance(params, Mapping) else vars(params)


def save_hparams(path: str, hparams: Mapping[str, Any]) -> None:
    """Write hyperparameters as YAML that ``yaml.safe_load`` reads, whole or not at all.

    A value that YAML has no plain form for is kept as its text, and one warning names them all.
    """
    import yaml

    as_text: list[str] = []
    text = yaml.safe_dump(_plain(hparams, "", as_text))
    with replacing(path, "w") as file:
        file.write(text)
    if as_text:
        rank_zero_warn(
            f"{path} keeps these hyperparameters as text, since they are no plain data: {', '.join(as_text)}. "
            "Leave them out with save_hyperparameters(ignore=[...])."
        )


def _plain(value: Any, name: str, as_text: list[str]) -> Any:
    """``value`` in plain data; the names of what became text are added to ``as_text``."""
    if value is None or type(value) in (bool, int, float, str, bytes, date, datetime):
        return value
    if isinstance(value, Enum):
        return value.name
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of numpy's or PyTorch's
        return _plain(value.item(), name, as_text)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Namespace):
        value = vars(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        items = ((k if type(k) in (bool, int, float, str) else str(k), v) for k, v in value.items())
        return {key: _plain(v, f"{name}.{key}" if name else str(key), as_text) for key, v in items}
    if isinstance(value, Set):
        value = sorted(value, key=repr)
    if isinstance(value, Sequence):
        return [_plain(v, f"{name}[{i}]", as_text) for i, v in enumerate(value)]
    as_text.append(f"{name} ({type(value).__name__})")
    return str(value)
