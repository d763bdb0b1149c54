"""What the core brings, on the same path as every plugin: one device, 32 bits, files, a mute logger, seeded workers."""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from leyden.interfaces.component import Component
from leyden.plugin_system.hooks import hookimpl
from leyden.utilities.rng import worker_init_function


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
def leyden_prepare_loader(owner: Any, loader: Any) -> Any:
    """Seed the workers of a DataLoader, for ``seed_everything(workers=True)``, unless the user does it already."""
    if os.environ.get("PL_SEED_WORKERS") == "1" and isinstance(loader, DataLoader) and loader.worker_init_fn is None:
        loader.worker_init_fn = partial(worker_init_function, rank=owner.global_rank)
    return loader
