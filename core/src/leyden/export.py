"""``to_onnx`` and ``to_torchscript``: what a module computes, for use without Leyden."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from leyden.hooktable import is_overridden
from leyden.module_hooks import DataHooks
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.storage import file_system, is_remote


class ModuleExport:
    """Gives a LightningModule ``to_onnx`` and ``to_torchscript``.

    Both export ``forward`` in evaluation mode and leave every submodule in the mode that it was in. An example is
    one tensor, a tuple of arguments, or a dict of keywords, and goes through the hooks that transfer a batch.
    PyTorch's warnings reach the user, that TorchScript is deprecated among them: the way out of it is theirs to take.
    """

    _is_scripting: ClassVar[bool] = False

    def to_onnx(self, file_path: str | os.PathLike[str] | None = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export the module as ONNX, by ``torch.onnx.export``.

        Args:
            file_path: Where to write it; None writes nothing.
            input_sample: An example of the inputs; ``example_input_array`` by default.
            kwargs: For ``torch.onnx.export``, such as ``dynamic_shapes`` for a batch of any size.

        Returns:
            The ``ONNXProgram``, or None from PyTorch's older exporter.

        Raises:
            MisconfigurationException: There is no example.
            ModuleNotFoundError: A package that PyTorch exports with is not installed.
        """
        args, keywords = _example(self, "to_onnx", "input_sample", input_sample)
        if keywords:
            kwargs = {"kwargs": keywords, **kwargs}
        try:
            with _evaluating(self):
                return torch.onnx.export(self, args, file_path, **kwargs)  # type: ignore[arg-type]
        except ModuleNotFoundError as error:
            if error.name not in ("onnx", "onnxscript"):
                raise
            raise ModuleNotFoundError(
                f"to_onnx needs the package {error.name}: pip install onnx onnxscript.", name=error.name
            ) from error

    def to_torchscript(
        self,
        file_path: str | os.PathLike[str] | None = None,
        method: str | None = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Export the module as TorchScript.

        Args:
            file_path: Where to write it, a path or a URL; None writes nothing.
            method: "script" compiles ``forward``, "trace" records what it does with an example.
            example_inputs: The example for "trace"; ``example_input_array`` by default.
            kwargs: For ``torch.jit.script`` or ``torch.jit.trace``.

        Returns:
            The ``torch.jit.ScriptModule``, in evaluation mode.

        Raises:
            MisconfigurationException: The method is another one, or there is no example to trace.
        """
        if method not in ("script", "trace"):
            raise MisconfigurationException(
                f"to_torchscript(method={method!r}) is not known; write 'script' or 'trace'."
            )
        if method == "trace":
            if kwargs.get("check_inputs") is not None:
                kwargs["check_inputs"] = _transferred(self, kwargs["check_inputs"])
            args, keywords = _example(self, "to_torchscript(method='trace')", "example_inputs", example_inputs)
        with _evaluating(self), _scripting():
            if method == "script":
                script = torch.jit.script(self, **kwargs)
            else:
                example: dict[str, Any] = {"example_kwarg_inputs": keywords} if keywords else {"example_inputs": args}
                script = torch.jit.trace(self, **example, **kwargs)
        if file_path is not None and is_remote(file_path):
            filesystem, name = file_system(str(file_path))
            with filesystem.open(name, "wb") as file:
                torch.jit.save(script, file)
        elif file_path is not None:
            torch.jit.save(script, file_path)
        return script


def _example(module: Any, method: str, argument: str, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments and keywords of an example call of ``forward``, where the module is."""
    sample = module.example_input_array if given is None else given
    if sample is None:
        raise MisconfigurationException(
            f"{method} needs an example of the inputs: give {argument}=..., or set self.example_input_array."
        )
    sample = _transferred(module, sample)
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)), {}


def _transferred(module: Any, batch: Any) -> Any:
    """The batch after the hooks of the data module, or of the module, that bring one to the device."""
    datamodule = module._trainer.datamodule if module._trainer is not None else None

    def hook(name: str) -> Any:
        theirs = datamodule is not None and is_overridden(name, datamodule, DataHooks)
        return getattr(datamodule if theirs else module, name)

    batch = hook("on_before_batch_transfer")(batch, 0)
    batch = hook("transfer_batch_to_device")(batch, module.device, 0)
    return hook("on_after_batch_transfer")(batch, 0)


@contextmanager
def _evaluating(module: Any) -> Generator[None, None, None]:
    """Without gradients and in evaluation mode, and each submodule back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def _scripting() -> Generator[None, None, None]:
    """TorchScript reads every property of a module: ``trainer`` must not raise where there is none."""
    ModuleExport._is_scripting = True
    try:
        yield
    finally:
        ModuleExport._is_scripting = False
