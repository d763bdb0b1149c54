"""What leyden-export brings to Leyden: exporters, which ``LightningModule`` calls and ``leyden.exporters`` shows."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Functions of a module, the file to write, and what the format needs."""
    yield Component("exporter", "onnx", "leyden_export.onnx:to_onnx")
    yield Component("exporter", "torchscript", "leyden_export.torchscript:to_torchscript")
