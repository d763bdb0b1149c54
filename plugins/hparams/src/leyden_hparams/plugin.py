"""The plugin's hooks: what a checkpoint keeps beside plain data, names of weights, a hint, and the loader."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

# The modules of this package are imported when they are needed, not when the plugin is found.


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide what ``save_hyperparameters``, ``load_from_checkpoint`` and the ``load`` of a Fabric call."""
    yield Component("hyperparameters", "save", "leyden_hparams.saving:save")
    yield Component("checkpoint_loader", "hyperparameters", "leyden_hparams.loading:load")
    yield Component("checkpoint_loader", "state", "leyden_hparams.loading:prepare")


@hookimpl
def leyden_seal(owner: Any, checkpoint: Mapping[str, Any], plain: dict[str, Any], dropped: list[str]) -> None:
    """Keep what plain data can't say: the types that the code knows, and the rest sealed."""
    if owner.is_global_zero:  # the only process that writes what is no tensor
        from leyden_hparams.sealing import seal

        seal(owner, checkpoint, plain, dropped)


@hookimpl(wrapper=True)
def on_load_checkpoint(
    trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
) -> Generator[None, None, None]:
    """Put back what was kept before the others see the checkpoint, and rename weights after them."""
    from leyden_hparams.loading import prepare

    prepare(checkpoint, trainer.run.weights_only, {})
    yield
    prepare(checkpoint, trainer.run.weights_only, {"state_dict": pl_module})


@hookimpl
def on_train_start(trainer: Trainer, pl_module: LightningModule) -> None:
    """Warn of hyperparameters with which ``load_from_checkpoint`` will need help."""
    if not trainer.barebones:
        from leyden_hparams.hints import warn_of_hyperparameters

        warn_of_hyperparameters(trainer)
