"""The plugin's hooks: exporters, which ``LightningModule`` calls and users find in ``leyden.exporters``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the exporters: functions that take a module, the file to write and arguments of the format."""
    yield Component("exporter", "onnx", "leyden_export.onnx:to_onnx")
    yield Component("exporter", "torchscript", "leyden_export.torchscript:to_torchscript")
