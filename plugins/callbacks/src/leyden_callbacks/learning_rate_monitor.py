"""LearningRateMonitor: logs the learning rate of every optimizer and parameter group while training."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.optim import Optimizer

from leyden.callbacks import Callback
from leyden.utilities import MisconfigurationException, rank_zero_warn

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


class LearningRateMonitor(Callback):
    """Logs learning rates, and on request momenta and weight decays, to all loggers.

    The names are ``lr-SGD`` after the optimizer's class, ``lr-SGD-1`` for a second optimizer of that class, and
    ``lr-SGD/pg1``, ``lr-SGD/pg2`` if there are several parameter groups. A ``name`` in the scheduler's dict
    replaces ``lr-SGD``; a ``name`` in a parameter group replaces ``pg1``. The values are also in
    ``trainer.callback_metrics``.

    Args:
        logging_interval: "step" logs every ``log_every_n_steps`` steps, "epoch" logs once in each epoch. None logs
            each scheduler at its own ``interval``, and optimizers without a scheduler at both.
        log_momentum: Whether to log ``<name>-momentum`` too: ``momentum``, or the first of ``betas``, or 0.
        log_weight_decay: Whether to log ``<name>-weight_decay`` too.

    Attributes:
        lrs: For each name, the learning rates logged in this fit.
        last_momentum_values: For each name, the momentum logged last.
        last_weight_decay_values: For each name, the weight decay logged last.

    Raises:
        MisconfigurationException: ``logging_interval`` has another value; or, when training starts, the Trainer has
            no logger, or two parameter groups of an optimizer have the same name.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise MisconfigurationException(
                f'LearningRateMonitor(logging_interval={logging_interval!r}) must be "step", "epoch" or None.'
            )
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.last_momentum_values: dict[str, float | None] = {}
        self.last_weight_decay_values: dict[str, float | None] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the names now, so that two parameter groups with the same name are refused before training."""
        if trainer.is_global_zero and not trainer.loggers and not trainer.fast_dev_run:  # rank 0 alone may have loggers
            raise MisconfigurationException(
                "LearningRateMonitor has no logger to log to; give the Trainer one or leave the callback out."
            )
        sources = _sources(trainer)
        names = [name for source in sources for name in source.names]
        self.lrs = {name: [] for name in names}
        self.last_momentum_values = {f"{name}-momentum": None for name in names}
        self.last_weight_decay_values = {f"{name}-weight_decay": None for name in names}
        if self.log_momentum and any({"momentum", "betas"}.isdisjoint(s.optimizer.defaults) for s in sources):
            rank_zero_warn(
                "LearningRateMonitor(log_momentum=True) logs 0 for the optimizers that have no momentum.",
                RuntimeWarning,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the values that are logged by step, if loggers get this step (``log_every_n_steps``)."""
        every = trainer.log_every_n_steps
        if self.logging_interval == "epoch" or not every:
            return
        if (trainer.progress.batches_that_stepped + 1) % every == 0 or trainer.should_stop:
            self._log(trainer, "step")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the values that are logged by epoch."""
        if self.logging_interval != "step":
            self._log(trainer, "epoch")

    def _log(self, trainer: Trainer, interval: str) -> None:
        values: dict[str, float] = {}
        for source in _sources(trainer):
            if self.logging_interval is None and source.interval not in (None, interval):
                continue
            for name, group in zip(source.names, source.optimizer.param_groups, strict=True):
                values.update(self._read(name, group))
        if not values:
            return
        device = trainer.strategy.root_device
        trainer.callback_metrics.update({name: torch.tensor(value, device=device) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=trainer.progress.batches_that_stepped)

    def _read(self, name: str, group: dict[str, Any]) -> dict[str, float]:
        values = {name: float(group["lr"])}
        self._history(name).append(values[name])
        if self.log_momentum:
            key = f"{name}-momentum"
            values[key] = group["betas"][0] if "betas" in group else group.get("momentum", 0)
            self.last_momentum_values[key] = values[key]
        if self.log_weight_decay:
            key = f"{name}-weight_decay"
            values[key] = group.get("weight_decay", 0)
            self.last_weight_decay_values[key] = values[key]
        return values

    def _history(self, name: str) -> list[float]:
        """Return the list of a name's learning rates.

        A second parameter group renames the first one, from ``lr-SGD`` to ``lr-SGD/pg1``; its list moves with it.
        """
        alone = name.removesuffix("/pg1")
        if alone != name and alone in self.lrs:
            self.lrs[name] = self.lrs.pop(alone)
        return self.lrs.setdefault(name, [])


class _Source(NamedTuple):
    """An optimizer, the names of its parameter groups, and the interval of its scheduler if it has one."""

    optimizer: Optimizer
    names: list[str]
    interval: str | None


def _sources(trainer: Trainer) -> list[_Source]:
    """Return every scheduler's optimizer, then the optimizers without a scheduler."""
    seen: Counter[type] = Counter()
    found: list[_Source] = []

    def add(optimizer: Optimizer, given: str | None, interval: str | None) -> None:
        name = given or f"lr-{type(optimizer).__name__}"
        if not given:
            seen[type(optimizer)] += 1
            if (count := seen[type(optimizer)]) > 1:
                name += f"-{count - 1}"
        found.append(_Source(optimizer, _group_names(name, optimizer.param_groups), interval))

    for config in trainer.lr_scheduler_configs:
        add(config.scheduler.optimizer, config.name, config.interval)
    scheduled = {id(source.optimizer) for source in found}
    for wrapper in trainer.optimizers:
        optimizer = getattr(wrapper, "optimizer", wrapper)  # some strategies wrap the user's optimizer
        if id(optimizer) not in scheduled:
            add(optimizer, None, None)
    return found


def _group_names(name: str, groups: list[dict[str, Any]]) -> list[str]:
    if len(groups) == 1:
        own = groups[0].get("name")
        return [f"{name}/{own}" if own else name]
    names = [str(group.get("name", f"pg{i}")) for i, group in enumerate(groups, 1)]
    if twice := [group for group, count in Counter(names).items() if count > 1]:
        raise MisconfigurationException(
            f"{name} has several parameter groups named {twice[0]!r}; give each group of an optimizer its own name."
        )
    return [f"{name}/{group}" for group in names]
