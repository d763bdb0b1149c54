"""Flattens hyperparameters, and reads and writes their files: ``hparams.yaml``, and CSV tables of older Lightnings."""

from __future__ import annotations

import ast
import csv
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any

from leyden.loggers import as_mapping
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import replacing
from leyden_logfiles.storage import is_file, open_text


def save_hparams(path: str, hparams: Mapping[str, Any]) -> None:
    """Write hyperparameters as YAML that ``yaml.safe_load`` reads; an interrupted write leaves no partial file.

    Values that are not plain data are written as text, and one warning names them all.
    """
    import yaml

    as_text: list[str] = []
    text = yaml.safe_dump(_plain(hparams, "", as_text))
    with replacing(path, "w") as file:
        file.write(text)
    if as_text:
        rank_zero_warn(
            f"{path} has these hyperparameters as text, since they are not plain data: {', '.join(as_text)}. "
            "Leave them out with save_hyperparameters(ignore=[...])."
        )


def load_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the hyperparameters from a file; ``load_from_checkpoint(hparams_file=...)`` calls it.

    Args:
        path: A path or a URL that ends in ``.yaml``, ``.yml`` or ``.csv``. A CSV table has the columns ``key`` and
            ``value``; Python literals among the values are evaluated, other values stay text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file name ends otherwise.
    """
    name = os.fspath(path)
    if not is_file(name):
        raise FileNotFoundError(f"There is no hyperparameter file at {name!r}.")
    with open_text(name, "r") as file:
        if name.endswith((".yaml", ".yml")):
            import yaml

            loaded: dict[str, Any] = yaml.safe_load(file) or {}
            return loaded
        if name.endswith(".csv"):
            return {row["key"]: _literal(row["value"]) for row in csv.DictReader(file)}
    raise ValueError(f"hparams_file={name!r} must end in .yaml, .yml or .csv.")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _plain(value: Any, name: str, as_text: list[str]) -> Any:
    """Return ``value`` as plain data; add the names of values that became text to ``as_text``."""
    if value is None or type(value) in (bool, int, float, str, bytes, date, datetime):
        return value
    if isinstance(value, Enum):
        return value.name
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a scalar of NumPy or PyTorch
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


def flatten_params(params: Any, separator: str = "/") -> dict[str, Any]:
    """Make nested hyperparameters a flat mapping: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in as_mapping(params).items():
        if isinstance(value, Mapping) or type(value).__name__ == "Namespace":
            inner = flatten_params(value, separator)
            flat.update({f"{key}{separator}{name}": v for name, v in inner.items()} or {str(key): ""})
        else:
            flat[str(key)] = value
    return flat
