"""The plugin of leyden-lightning: provides Lightning's module paths, writes its checkpoint keys and reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_lightning import layout

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


@hookimpl
def leyden_components() -> Iterable[Component]:
    """Provide the function that finds modules by Lightning's paths."""
    yield Component("module_paths", "lightning", "leyden_lightning.paths:find")


@hookimpl(tryfirst=True)
def on_save_checkpoint(trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add Lightning's keys; ``tryfirst``, so that other plugins see the checkpoint as in Lightning."""
    validated = trainer.fit_loop.validation.current_batch
    checkpoint[layout.VERSION_KEY] = layout.VERSION
    checkpoint["loops"] = layout.loops(trainer.progress, pl_module.automatic_optimization, validated)


@hookimpl
def leyden_read_progress(trainer: Trainer, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the progress of the fit that wrote a checkpoint of Lightning; None for other checkpoints."""
    if layout.VERSION_KEY not in checkpoint:
        return None
    return layout.progress(checkpoint, trainer.accumulate_grad_batches)
