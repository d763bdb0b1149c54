"""Hyperparameters as ``hparams.yaml``."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any

from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import replacing


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
