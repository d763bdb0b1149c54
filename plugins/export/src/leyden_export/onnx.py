"""The exporter ``onnx``: exports a module as ONNX."""

from __future__ import annotations

import os
from typing import Any

import torch

from leyden import LightningModule
from leyden_export.preparing import evaluating, example_call


def to_onnx(
    module: LightningModule, file_path: str | os.PathLike[str] | None = None, input_sample: Any = None, **kwargs: Any
) -> Any:
    """Export ``module`` as ONNX; arguments, result and errors are those of :meth:`leyden.LightningModule.to_onnx`."""
    args, keywords = example_call(module, "to_onnx", "input_sample", input_sample)
    if keywords:
        kwargs = {"kwargs": keywords, **kwargs}
    try:
        with evaluating(module):
            return torch.onnx.export(module, args, file_path, **kwargs)
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxscript"):
            raise
        raise ModuleNotFoundError(
            f"to_onnx needs the package {error.name}: pip install onnx onnxscript.", name=error.name
        ) from error
