"""What ``configure_optimizers`` may return, turned into optimizers and scheduler configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.module import LightningModule


@dataclass
class LRSchedulerConfig:
    """A scheduler and when it steps.

    Attributes:
        scheduler: The scheduler.
        name: Its name for LearningRateMonitor.
        interval: "epoch" or "step".
        frequency: Every how many epochs or steps.
        reduce_on_plateau: Whether it takes the value of ``monitor``.
        monitor: The metric that it takes.
        strict: Whether a missing metric is an error (or only a warning).
    """

    scheduler: Any
    name: str | None = None
    interval: str = "epoch"
    frequency: int = 1
    reduce_on_plateau: bool = False
    monitor: str | None = None
    strict: bool = True


def read_optimizers(module: LightningModule) -> tuple[list[Any], list[LRSchedulerConfig]]:
    """Call ``configure_optimizers`` and read what it returns.

    Raises:
        MisconfigurationException: It is none of the documented forms, or asks for what can't work.
    """
    returned = module.configure_optimizers()
    if returned is None:
        rank_zero_warn("configure_optimizers returned None: the fit runs without an optimizer.")
        return [], []
    optimizers, schedulers = _split(returned)
    if wrong := [part for part in optimizers if not _is_optimizer(part)]:
        raise MisconfigurationException(f"configure_optimizers returned {wrong[0]!r} in an optimizer's place.")
    if module.automatic_optimization and len(optimizers) > 1:
        raise MisconfigurationException(
            f"configure_optimizers returned {len(optimizers)} optimizers; with several, set "
            "self.automatic_optimization = False and step them in training_step."
        )
    configs = [_configure(scheduler, module.automatic_optimization) for scheduler in schedulers]
    for config in configs:
        _check(config, optimizers, module)
    return optimizers, configs


def _split(returned: Any) -> tuple[list[Any], list[Any]]:
    """Optimizers and schedulers (each a scheduler or its dict) of the documented forms."""
    if _is_optimizer(returned):
        return [returned], []
    if isinstance(returned, Mapping):
        return _split_dict(returned)
    if isinstance(returned, (list, tuple)) and returned:
        if len(returned) == 2 and all(isinstance(part, (list, tuple)) for part in returned):
            return list(returned[0]), list(returned[1])
        if all(isinstance(part, Mapping) for part in returned):
            parts = [_split_dict(part) for part in returned]
            return [o for part in parts for o in part[0]], [s for part in parts for s in part[1]]
        if len(returned) == 2 and isinstance(returned[0], (list, tuple)):  # ([optimizers], scheduler)
            return list(returned[0]), [returned[1]]
        if all(_is_optimizer(part) for part in returned):
            return list(returned), []
    raise MisconfigurationException(
        f"configure_optimizers returned {returned!r}; return an optimizer, a list of them, a dict with 'optimizer' "
        "(and 'lr_scheduler'), a tuple of such dicts, two lists (optimizers, schedulers), or None."
    )


def _split_dict(returned: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    if unknown := set(returned) - {"optimizer", "lr_scheduler", "monitor"}:
        rank_zero_warn(f"configure_optimizers returned a dict with unknown keys: {', '.join(sorted(unknown))}.")
    if "optimizer" not in returned:
        raise MisconfigurationException(
            f"configure_optimizers returned a dict without 'optimizer': {dict(returned)!r}."
        )
    scheduler = returned.get("lr_scheduler")
    if scheduler is None:
        return [returned["optimizer"]], []
    if returned.get("monitor") is not None:
        described = dict(scheduler) if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
        scheduler = {"monitor": returned["monitor"], **described}
    return [returned["optimizer"]], [scheduler]


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or (hasattr(value, "param_groups") and callable(getattr(value, "step", None)))


def _configure(scheduler: Any, automatic: bool) -> LRSchedulerConfig:
    if not isinstance(scheduler, Mapping):
        return LRSchedulerConfig(scheduler, reduce_on_plateau=isinstance(scheduler, ReduceLROnPlateau))
    known = {field.name for field in fields(LRSchedulerConfig)}
    if unknown := set(scheduler) - known:
        rank_zero_warn(
            f"The lr_scheduler dict has unknown keys: {', '.join(sorted(map(str, unknown)))}; "
            f"known: {', '.join(sorted(known))}."
        )
    if scheduler.get("scheduler") is None:
        raise MisconfigurationException(f"The lr_scheduler dict {dict(scheduler)!r} has no 'scheduler'.")
    config = LRSchedulerConfig(**{k: v for k, v in scheduler.items() if k in known})
    config.reduce_on_plateau = scheduler.get("reduce_on_plateau", isinstance(config.scheduler, ReduceLROnPlateau))
    if not automatic and config.interval != "epoch":
        rank_zero_warn("Manual optimisation steps schedulers itself: interval and frequency are not used.")
    return config


def _check(config: LRSchedulerConfig, optimizers: Sequence[Any], module: LightningModule) -> None:
    if config.interval not in ("epoch", "step"):
        raise MisconfigurationException(f"The lr_scheduler's interval is {config.interval!r}; write 'epoch' or 'step'.")
    if not isinstance(config.frequency, int) or config.frequency < 1:
        raise MisconfigurationException(
            f"The lr_scheduler's frequency is {config.frequency!r}; write an integer from 1."
        )
    if isinstance(config.scheduler, ReduceLROnPlateau) and config.monitor is None and module.automatic_optimization:
        raise MisconfigurationException(
            "ReduceLROnPlateau needs a metric: return "
            '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}.'
        )
    if not callable(getattr(config.scheduler, "step", None)) or not callable(
        getattr(config.scheduler, "state_dict", None)
    ):
        raise MisconfigurationException(f"{config.scheduler!r} is no scheduler: it has no step and state_dict methods.")
    owner = getattr(config.scheduler, "optimizer", None)
    if owner is not None and not any(owner is optimizer for optimizer in optimizers):
        raise MisconfigurationException(
            "An lr_scheduler belongs to an optimizer that configure_optimizers did not return; return both."
        )
