"""What the core brings, on the same path as every plugin: one device, 32 bits, files, a mute logger."""

from collections.abc import Iterable
from typing import Any

from leyden.interfaces.component import Component
from leyden.plugin_system.hooks import hookimpl


@hookimpl
def leyden_components() -> Iterable[Component]:
    """The parts without which there is no trainer."""
    yield Component(
        "strategy", "single_device", "leyden.interfaces.strategy:Strategy", {"aliases": ["SingleDeviceStrategy"]}
    )
    yield Component("precision", "32-true", "leyden.interfaces.precision:Precision", {"aliases": ["32"]})
    yield Component("logger", "dummy", "leyden.interfaces.logger:DummyLogger", {"aliases": ["DummyLogger"]})
    yield Component(
        "checkpoint_io", "torch", "leyden.checkpoint.file:TorchCheckpointIO", {"aliases": ["TorchCheckpointIO"]}
    )
    yield Component("utility", "CombinedLoader", "leyden.data.combined:CombinedLoader")


@hookimpl(trylast=True)
def leyden_prepare_loader(loader: Any) -> Any:
    """Take the loader as it is; plugins wrap this."""
    return loader
