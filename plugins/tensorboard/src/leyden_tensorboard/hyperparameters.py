"""Converts hyperparameters for TensorBoard's HPARAMS tab, to a flat mapping of booleans, numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from leyden_logfiles.hparams import flatten_params, multiplies


def as_plain_scalars(params: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Flatten nested mappings, Namespaces and dataclasses to ``outer/inner``; values other than scalars become text."""
    small = {name: "(too many values)" if multiplies(value) else value for name, value in params.items()}
    return {name: _scalar(value) for name, value in flatten_params(_open(small)).items()}


def _open(value: Any) -> Any:
    """Turn dataclasses, Namespaces and lists of mappings within ``value`` into mappings, which can be flattened."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif type(value).__name__ == "Namespace":
        value = vars(value)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    return {key: _open(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _scalar(value: Any) -> bool | int | float | str:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a scalar of NumPy or PyTorch
        value = value.item()
    return value if type(value) in (bool, int, float, str) else str(value)
