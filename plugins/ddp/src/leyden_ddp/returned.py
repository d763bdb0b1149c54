"""The state that a run in other processes brings back to the process that started it, as if it had run there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.interfaces.logger import Logger
from leyden.utilities.overriding import is_overridden

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def state_of(trainer: Trainer) -> dict[str, Any]:
    """The state of a run that is over: weights, counters, metrics, callbacks, data module; all tensors on the host."""
    module, datamodule, logging = trainer.lightning_module, trainer.datamodule, trainer.logging
    state = {
        "weights": module.state_dict(),
        "progress": trainer.progress,
        "state": trainer.state,
        "flags": {name: getattr(trainer, name) for name in ("should_stop", "received_sigterm", "max_epochs")},
        "metrics": (logging.callback_metrics, logging.logged_metrics, logging.progress_bar_metrics),
        "callbacks": {c.state_key: c.state_dict() for c in trainer.callbacks if c.state_dict()},
        "datamodule": datamodule.state_dict() if datamodule is not None else {},
        "versions": [logger.version for logger in trainer.loggers if is_overridden("take_version", logger, Logger)],
    }
    moved: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), state)
    return moved


def take_over(trainer: Trainer, state: dict[str, Any]) -> None:
    """Load the state that :func:`state_of` returned in another process into the objects of this one."""
    module = trainer.lightning_module
    with trainer.strategy.module_init_context(empty_init=True):
        module.configure_model()
    trainer.precision_plugin.convert_module(module)
    module.load_state_dict(state["weights"])
    vars(trainer).update(state["flags"])
    trainer.ran_elsewhere = True
    trainer.compile_hooks(trainer.plugin_manager)
    trainer.progress.__dict__.update(vars(state["progress"]))
    trainer.state.__dict__.update(vars(state["state"]))
    trainer.logging.take_over(*state["metrics"])
    for callback in trainer.callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    if trainer.datamodule is not None and state["datamodule"]:
        trainer.datamodule.load_state_dict(state["datamodule"])
    files = [logger for logger in trainer.loggers if is_overridden("take_version", logger, Logger)]
    for logger, version in zip(files, state["versions"], strict=True):
        logger.take_version(version)
