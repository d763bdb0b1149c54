"""Optimizers and schedulers: what ``configure_optimizers`` may return, how steps see it, and when schedulers step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden.module import LightningModule
from leyden.utilities import MisconfigurationException, missing_metric, rank_zero_warn

if TYPE_CHECKING:
    from leyden.loops.step import BatchStep
    from leyden.trainer.run import Run


class LightningOptimizer:
    """A user's optimizer as ``training_step`` and ``optimizer_step`` see it.

    It passes everything on to the optimizer; ``step`` calls the hooks, goes through the precision and is counted.
    ``isinstance(x, torch.optim.Adam)`` is true of a wrapped Adam. What replaces its ``step``, as PyTorch's schedulers
    do, is stepped from then on, by the loop too. Copied or pickled it is the optimizer.

    Args:
        optimizer: The optimizer.
        step: Steps it.

    Attributes:
        optimizer: The user's own object.
    """

    def __init__(self, optimizer: Any, step: BatchStep) -> None:
        self.__dict__.update(optimizer=optimizer, _step=step)

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Step the optimizer; a closure computes the loss and its gradients first."""
        return self._step.step_optimizer(self.optimizer, closure, **kwargs)

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Generator[None, None, None]:
        """A block in which only this optimizer's parameters require gradients.

        Args:
            sync_grad: Whether processes exchange gradients in the block; False while accumulating.
        """
        step = self._step
        with step.module.toggled_optimizer(self), nullcontext() if sync_grad else step.strategy.no_sync():
            yield

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step":  # it may call this one, which calls the optimizer's
            self.__dict__[name] = value
        else:
            setattr(self.optimizer, name, value)

    def __delattr__(self, name: str) -> None:
        if self.__dict__.pop(name, None) is None:
            delattr(self.optimizer, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.optimizer.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Lightning{self.optimizer!r}"


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
    return optimizers, [_configure(scheduler, optimizers, module.automatic_optimization) for scheduler in schedulers]


def _split(returned: Any) -> tuple[list[Any], list[Any]]:
    """Optimizers, and schedulers or their dicts, of the documented forms."""
    parts = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    if len(parts) == 2 and isinstance(parts[0], (list, tuple)):
        optimizers, schedulers = parts
        return list(optimizers), list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]
    if not parts or not all(isinstance(part, Mapping) or _is_optimizer(part) for part in parts):
        raise MisconfigurationException(
            f"configure_optimizers returned {returned!r}; return an optimizer, a list of them, a dict with 'optimizer' "
            "(and 'lr_scheduler'), a tuple of such dicts, two lists (optimizers, schedulers), or None."
        )
    pairs = [_read_dict(part) if isinstance(part, Mapping) else (part, None) for part in parts]
    return [optimizer for optimizer, _ in pairs], [scheduler for _, scheduler in pairs if scheduler is not None]


def _read_dict(returned: Mapping[str, Any]) -> tuple[Any, Any]:
    """The optimizer of a dict, and its scheduler or the scheduler's own dict; None where it has none."""
    if unknown := set(returned) - {"optimizer", "lr_scheduler", "monitor"}:
        rank_zero_warn(f"configure_optimizers returned a dict with unknown keys: {', '.join(sorted(unknown))}.")
    if "optimizer" not in returned:
        raise MisconfigurationException(f"configure_optimizers returned a dict without 'optimizer': {returned!r}.")
    scheduler, monitor = returned.get("lr_scheduler"), returned.get("monitor")
    if scheduler is not None and monitor is not None:
        scheduler = {"monitor": monitor, **(scheduler if isinstance(scheduler, Mapping) else {"scheduler": scheduler})}
    return returned["optimizer"], scheduler


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or (hasattr(value, "param_groups") and callable(getattr(value, "step", None)))


def _configure(scheduler: Any, optimizers: Iterable[Any], automatic: bool) -> LRSchedulerConfig:
    """The configuration of a scheduler, given as it is or in a dict."""
    options = scheduler if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
    known = {field.name for field in fields(LRSchedulerConfig)}
    if unknown := set(options) - known:
        names, of = (", ".join(sorted(map(str, keys))) for keys in (unknown, known))
        rank_zero_warn(f"The lr_scheduler dict has unknown keys: {names}; known: {of}.")
    if options.get("scheduler") is None:
        raise MisconfigurationException(f"The lr_scheduler dict {options!r} has no 'scheduler'.")
    takes_metric = isinstance(options["scheduler"], ReduceLROnPlateau)
    config = LRSchedulerConfig(**{"reduce_on_plateau": takes_metric, **{k: options[k] for k in known & set(options)}})
    if not automatic and config.interval != "epoch":
        rank_zero_warn("Manual optimisation steps schedulers itself: interval and frequency are not used.")
    _check(config, optimizers, automatic)
    return config


def _check(config: LRSchedulerConfig, optimizers: Iterable[Any], automatic: bool) -> None:
    """Refuse what can't work."""
    scheduler, wrong = config.scheduler, None
    if config.interval not in ("epoch", "step"):
        wrong = f"The lr_scheduler's interval is {config.interval!r}; write 'epoch' or 'step'."
    elif not isinstance(config.frequency, int) or config.frequency < 1:
        wrong = f"The lr_scheduler's frequency is {config.frequency!r}; write an integer from 1."
    elif isinstance(scheduler, ReduceLROnPlateau) and config.monitor is None and automatic:
        wrong = (
            "ReduceLROnPlateau needs a metric: return "
            '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}.'
        )
    elif not all(callable(getattr(scheduler, name, None)) for name in ("step", "state_dict")):
        wrong = f"{scheduler!r} is no scheduler: it has no step and state_dict methods."
    elif getattr(scheduler, "optimizer", None) not in (None, *optimizers):
        wrong = "An lr_scheduler belongs to an optimizer that configure_optimizers did not return; return both."
    if wrong is not None:
        raise MisconfigurationException(wrong)


def step_schedulers(run: Run, plateau: bool, epoch_is_over: bool = False) -> None:
    """Step the schedulers whose interval has come, in automatic optimisation; called after every batch.

    One that takes a metric of the validation waits until there is a value that it has not had.

    Args:
        run: Whose schedulers.
        plateau: Whether it is the turn of those that take a metric (after validation) or of the others (before).
        epoch_is_over: Whether it is called after the last batch once more, for metrics of the whole epoch.
    """
    progress, logged = run.progress, run.metrics.results
    if not run.module.automatic_optimization:
        return
    counts = {"step": progress.batch_idx} if progress.stepped and not epoch_is_over else {}
    if progress.is_last_batch and plateau == epoch_is_over:
        counts["epoch"] = progress.epoch + 1
    for number, config in enumerate(run.lr_scheduler_configs):
        interval = config.interval
        if config.reduce_on_plateau != plateau or interval not in counts or counts[interval] % config.frequency:
            continue
        metrics, monitor = run.metrics.callback_metrics if plateau else {}, str(config.monitor)
        waits = plateau and run.loop.schedule.enabled and not progress.plateaus.pop(number, False)
        if waits and not run.strategy.reduce_boolean_decision(logged.has(monitor), all=False):
            continue
        value = run.strategy.agree_on_value(monitor, metrics.get(monitor)) if plateau else None
        if plateau and value is None:
            message = missing_metric(type(config.scheduler).__name__, monitor, metrics)
            if config.strict:
                raise MisconfigurationException(message)
            rank_zero_warn(message, RuntimeWarning)
            continue
        with run.metrics.scope("lr_scheduler_step"):
            run.module.lr_scheduler_step(config.scheduler, value)
        progress.scheduler_steps += 1
