"""The state that a run in other processes brings back to the process that started it, as if it had run there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.loggers import Logger
from leyden.plugins import by_state_key
from leyden.utilities.objects import is_overridden

if TYPE_CHECKING:
    from leyden.plugins import Run


def state_of(run: Run) -> dict[str, Any]:
    """The state of a run that is over, on the host: weights, counters, metrics, callbacks, data module."""
    trainer, metrics = run.trainer, run.metrics
    state = {
        "weights": run.module.state_dict(),
        "progress": run.progress.state_dict(),
        "state": run.state,
        "flags": {name: getattr(run, name) for name in ("should_stop", "received_sigterm")},
        "max_epochs": trainer.max_epochs,
        "metrics": (metrics.callback_metrics, metrics.logged_metrics, metrics.progress_bar_metrics),
        "callbacks": {key: state for key, c in by_state_key(trainer.callbacks).items() if (state := c.state_dict())},
        "datamodule": run.datamodule.state_dict() if run.datamodule is not None else {},
        "versions": [logger.version for logger in trainer.loggers if is_overridden("take_version", logger, Logger)],
    }
    moved: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), state)
    return moved


def take_over(run: Run, state: dict[str, Any]) -> None:
    """Load the state that :func:`state_of` returned in another process into the objects of this one."""
    trainer, module = run.trainer, run.module
    with run.strategy.module_init_context(empty_init=True):
        module.configure_model()
    run.strategy.precision.convert_module(module)
    module.load_state_dict(state["weights"])
    vars(run).update(state["flags"], ran_elsewhere=True)
    trainer.max_epochs = state["max_epochs"]
    run.compile_hooks(trainer.plugin_manager)
    run.progress.load_state_dict(state["progress"])
    vars(run.state).update(vars(state["state"]))
    run.metrics.take_over(*state["metrics"])
    for key, callback in by_state_key(trainer.callbacks).items():
        if key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][key])
    if run.datamodule is not None and state["datamodule"]:
        run.datamodule.load_state_dict(state["datamodule"])
    files = [logger for logger in trainer.loggers if is_overridden("take_version", logger, Logger)]
    for logger, version in zip(files, state["versions"], strict=True):
        logger.take_version(version)
