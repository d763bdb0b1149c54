"""``to_onnx`` and ``to_torchscript``: what a module computes, for use without Leyden, by installed exporters."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from leyden.plugin_system.discovery import discover


class ModuleExport:
    """Gives a LightningModule ``to_onnx`` and ``to_torchscript``, which call the exporters of those names.

    Both export ``forward`` in evaluation mode and leave every submodule in the mode that it was in. An example is
    one tensor, a tuple of arguments, or a dict of keywords, and goes through the hooks that transfer a batch.
    PyTorch's warnings reach the user, that TorchScript is deprecated among them: the way out of it is theirs to take.
    """

    # TorchScript reads every property of a module: while its exporter sets this, `trainer` may be missing.
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
            file_path: Where to write it, a path or a URL; None writes nothing.
            method: "script" compiles ``forward``, "trace" records what it does with an example.
            example_inputs: The example for "trace"; ``example_input_array`` by default.
            kwargs: For ``torch.jit.script`` or ``torch.jit.trace``.

        Returns:
            The ``torch.jit.ScriptModule``, in evaluation mode.

        Raises:
            MisconfigurationException: The method is another one, or there is no example to trace.
            UnknownComponentError: The exporter is not installed.
        """
        export = discover().component("exporter", "torchscript").load()
        return export(self, file_path, method, example_inputs, **kwargs)
