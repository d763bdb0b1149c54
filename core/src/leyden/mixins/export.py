"""``to_onnx`` and ``to_torchscript``: export a module, for use without Leyden, by installed exporters."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from leyden.plugin_system.discovery import discover


class ModuleExport:
    """Gives a LightningModule ``to_onnx`` and ``to_torchscript``, which call the exporters "onnx" and "torchscript".

    Both export ``forward`` in evaluation mode and then restore every submodule's own mode. An example input is one
    tensor, a tuple of arguments, or a dict of keyword arguments; it passes through the batch transfer hooks.
    PyTorch's warnings are not hidden, for example that TorchScript is deprecated.
    """

    # TorchScript reads every property of a module; while its exporter sets this, `trainer` returns None if missing.
    _is_scripting: ClassVar[bool] = False

    def to_onnx(self, file_path: str | os.PathLike[str] | None = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export the module as ONNX, by ``torch.onnx.export``.

        Args:
            file_path: The file to write; None writes nothing.
            input_sample: An example input; ``example_input_array`` by default.
            kwargs: Arguments of ``torch.onnx.export``, such as ``dynamic_shapes`` for batches of any size.

        Returns:
            The ``ONNXProgram``; None from PyTorch's older exporter.

        Raises:
            MisconfigurationException: There is no example input.
            ModuleNotFoundError: A package that PyTorch needs for the export is not installed.
            UnknownComponentError: The exporter is not installed.
        """
        export = discover().component("exporter", "onnx").load()
        return export(self, file_path, input_sample, **kwargs)

    def to_torchscript(
        self,
        file_path: str | os.PathLike[str] | None = None,
        method: str | None = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Export the module as TorchScript.

        Args:
            file_path: The file to write, a path or a URL; None writes nothing.
            method: "script" compiles ``forward``, "trace" records the operations that it does for an example input.
            example_inputs: The example input for "trace"; ``example_input_array`` by default.
            kwargs: Arguments of ``torch.jit.script`` or ``torch.jit.trace``.

        Returns:
            The ``torch.jit.ScriptModule``, in evaluation mode.

        Raises:
            MisconfigurationException: ``method`` has another value, or there is no example input to trace.
            UnknownComponentError: The exporter is not installed.
        """
        export = discover().component("exporter", "torchscript").load()
        return export(self, file_path, method, example_inputs, **kwargs)
