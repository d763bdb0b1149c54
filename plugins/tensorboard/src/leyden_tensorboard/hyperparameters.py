"""Hyperparameters as TensorBoard's HPARAMS tab takes them: a flat mapping to booleans, numbers and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from leyden.loggers import flatten_params


def as_plain_scalars(params: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Nested mappings, Namespaces and dataclasses as ``outer/inner``; all that is no scalar as its text."""
    return {name: _scalar(value) for name, value in flatten_params(_open(params)).items()}


def _open(value: Any) -> Any:
    """``value`` with the dataclasses and the lists of mappings in it turned into mappings, which can be flattened."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif type(value).__name__ == "Namespace":
        value = vars(value)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    return {key: _open(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _scalar(value: Any) -> bool | int | float | str:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of numpy's or PyTorch's
        value = value.item()
    return value if type(value) in (bool, int, float, str) else str(value)
