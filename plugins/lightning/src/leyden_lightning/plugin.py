"""What leyden-lightning brings to Leyden: Lightning's module paths, checkpoints for it, and the reading of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_lightning import layout

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


@hookimpl
def leyden_components() -> Iterable[Component]:
    """The modules that stand elsewhere in Leyden."""
    yield Component("module_paths", "lightning", "leyden_lightning.paths:find")


@hookimpl(tryfirst=True)
def on_save_checkpoint(trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add what Lightning looks for; before others see the checkpoint, as it is in Lightning."""
    validated = trainer.fit_loop.validation.current_batch
    checkpoint[layout.VERSION_KEY] = layout.VERSION
    checkpoint["loops"] = layout.loops(trainer.progress, pl_module.automatic_optimization, validated)


@hookimpl
def leyden_read_progress(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far the fit had come whose checkpoint Lightning wrote."""
    return layout.progress(checkpoint) if layout.VERSION_KEY in checkpoint else None
