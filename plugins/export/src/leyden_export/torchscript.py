"""The exporter ``torchscript``: exports a module as TorchScript."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from leyden import LightningModule
from leyden.utilities import MisconfigurationException
from leyden.utilities.storage import file_system, is_remote
from leyden_export.preparing import evaluating, example_call, transferred


def to_torchscript(
    module: LightningModule,
    file_path: str | os.PathLike[str] | None = None,
    method: str | None = "script",
    example_inputs: Any = None,
    **kwargs: Any,
) -> Any:
    """Export ``module`` as TorchScript, as :meth:`leyden.LightningModule.to_torchscript` does, with its arguments."""
    if method not in ("script", "trace"):
        raise MisconfigurationException(f"to_torchscript(method={method!r}) is not known; write 'script' or 'trace'.")
    if method == "trace":
        if kwargs.get("check_inputs") is not None:
            kwargs["check_inputs"] = transferred(module, kwargs["check_inputs"])
        args, keywords = example_call(module, "to_torchscript(method='trace')", "example_inputs", example_inputs)
    with evaluating(module), _scripting():
        if method == "script":
            script = torch.jit.script(module, **kwargs)
        else:
            example: dict[str, Any] = {"example_kwarg_inputs": keywords} if keywords else {"example_inputs": args}
            script = torch.jit.trace(module, **example, **kwargs)
    if file_path is not None and is_remote(file_path):
        filesystem, name = file_system(str(file_path))
        with filesystem.open(name, "wb") as file:
            torch.jit.save(script, file)
    elif file_path is not None:
        torch.jit.save(script, file_path)
    return script


@contextmanager
def _scripting() -> Generator[None, None, None]:
    """Let ``module.trainer`` return None in the block instead of raising, since TorchScript reads every property."""
    declared: Any = vars(LightningModule)["trainer"]
    LightningModule.trainer = declared.getter(_trainer_if_any)  # type: ignore[method-assign]
    try:
        yield
    finally:
        LightningModule.trainer = declared  # type: ignore[method-assign]


def _trainer_if_any(module: LightningModule) -> Any:
    return module._runner.trainer if module._runner is not None else None
