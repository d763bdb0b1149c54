"""What ``self.log`` keeps, reduces and hands to loggers, progress bars and callbacks.

A :class:`Record` is one logged name; :class:`Results` holds the records of one loop; :class:`Logging`
belongs to the Trainer, knows which hook runs, and moves values on at the end of a step or an epoch.
Nothing here reads a tensor's value (and so waits for the device) before a logger or a progress bar shows it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from leyden.utilities.batch import extract_batch_size
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class LogOptions(NamedTuple):
    """The arguments of one ``self.log`` call that must stay the same for a name in a hook."""

    prog_bar: bool = False
    logger: bool | None = None
    on_step: bool | None = None
    on_epoch: bool | None = None
    reduce_fx: str | Callable[..., Any] = "mean"
    enable_graph: bool = False
    sync_dist: bool = False
    sync_dist_group: Any = None
    add_dataloader_idx: bool = True
    metric_attribute: str | None = None
    rank_zero_only: bool = False


class HookRule(NamedTuple):
    """Which of on_step and on_epoch a hook allows, and its defaults."""

    step_allowed: bool
    epoch_allowed: bool
    on_step: bool
    on_epoch: bool


_STEP = HookRule(True, True, True, False)
_EPOCH = HookRule(False, True, False, True)
_EVALUATION_STEP = HookRule(True, True, False, True)
HOOK_RULES: dict[str, HookRule] = {
    **dict.fromkeys(
        (
            "training_step", "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward",
            "on_after_backward", "on_before_optimizer_step", "optimizer_step", "optimizer_zero_grad", "backward",
            "lr_scheduler_step", "configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device",
            "on_after_batch_transfer",
        ),
        _STEP,
    ),
    **dict.fromkeys(
        (
            "validation_step", "on_validation_batch_start", "on_validation_batch_end",
            "test_step", "on_test_batch_start", "on_test_batch_end",
        ),
        _EVALUATION_STEP,
    ),
    **dict.fromkeys(
        (
            "on_train_start", "on_train_epoch_start", "on_train_epoch_end",
            "on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end",
            "on_test_start", "on_test_epoch_start", "on_test_epoch_end",
        ),
        _EPOCH,
    ),
}  # fmt: skip
_REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "min": "min", "max": "max", "sum": "sum",
    torch.mean: "mean", torch.min: "min", torch.max: "max", torch.sum: "sum", min: "min", max: "max", sum: "sum",
}  # fmt: skip


_EXACT = (torch.float32, torch.float64)


def _dtype() -> torch.dtype:
    """PyTorch's default, but no less than float32: the sum of an epoch overflows float16."""
    dtype = torch.get_default_dtype()
    return dtype if dtype in _EXACT else torch.float32


class Record:
    """One logged name in one hook of one dataloader: its last value and what its epoch has come to.

    Args:
        name: The name as logged.
        asked: The arguments as the user gave them.
        options: The same with the hook's defaults filled in.
        dataloader_idx: Set where there are several evaluation loaders.
        strategy: Reduces over processes where ``sync_dist`` asks for it.
    """

    def __init__(
        self, name: str, asked: LogOptions, options: LogOptions, dataloader_idx: int | None, strategy: Any
    ) -> None:
        self.asked, self.options = asked, options
        self.restored = False  # from a checkpoint: it takes over the arguments of the next call
        self.dataloader_idx = dataloader_idx
        suffix = "" if dataloader_idx is None or not options.add_dataloader_idx else f"/dataloader_idx_{dataloader_idx}"
        forked = bool(options.on_step and options.on_epoch)
        self.name = name + suffix
        self.step_name = (f"{name}_step" if forked else name) + suffix
        self.epoch_name = (f"{name}_epoch" if forked else name) + suffix
        self.strategy = strategy
        self.reduces_at_once = False  # in a hook of all processes, after which any one of them may ask
        self.holders: int | None = None  # processes that have values of their own, where not all do
        self.reset()

    def reset(self) -> None:
        """Forget the epoch."""
        self.last: Tensor | None = None
        self.final: Any = None  # of the epoch: reduced over processes once, however often it is asked for

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value; ``batch_size`` is called only where a weighted mean needs it.

        Args:
            value: The value.
            batch_size: Its weight in a mean.
            counts: Whether it is a part of the epoch's value too.
        """
        raise NotImplementedError

    def step_value(self) -> Any:
        """What this name is at this step, or None."""
        return self.last if self.options.on_step else None

    def epoch_value(self) -> Any:
        """What this name is over the epoch, or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume in the middle of an epoch needs."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        raise NotImplementedError

    def _synchronise(self, value: Tensor, reduction: str) -> Tensor:
        options = self.options
        if not options.sync_dist or options.rank_zero_only or self.strategy.world_size == 1:
            return value
        reduced: Tensor = self.strategy.reduce(value.clone(), reduction, options.sync_dist_group)
        return reduced


class TensorRecord(Record):
    """A record of numbers, reduced by "mean", "min", "max", "sum" or the user's own function."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reduction = _REDUCTIONS.get(self.options.reduce_fx, "custom")
        self.accumulates = bool(self.options.on_epoch)

    def reset(self) -> None:
        """Forget the epoch."""
        super().reset()
        self.total: Tensor | None = None
        self.weight = 0
        self.values: list[Tensor] = []
        self.reduced: Tensor | None = None

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value."""
        value = self._as_tensor(value)
        if self.options.on_step:
            self.last = self._synchronise(value, self.reduction)
        if self.accumulates and counts:
            self._accumulate(value, batch_size)
        if self.reduces_at_once:
            self.epoch_value()

    def _accumulate(self, value: Tensor, batch_size: Callable[[], int] | int) -> None:
        self.final = None
        if self.reduction == "mean":
            weight = batch_size if isinstance(batch_size, int) else batch_size()
            value = value * weight
            self.weight += weight
        elif self.reduction == "custom":
            self.values.append(value)
            return
        self.total = value if self.total is None else self._combine(self.total, value)

    def _combine(self, total: Tensor, value: Tensor) -> Tensor:
        if self.reduction == "min":
            return torch.minimum(total, value)
        return torch.maximum(total, value) if self.reduction == "max" else total + value

    def _as_tensor(self, value: Tensor | float) -> Tensor:
        """A detached scalar that no later in-place operation of the user can change."""
        if not isinstance(value, Tensor):
            if not isinstance(value, Number):
                raise ValueError(
                    f"self.log({self.name!r}, …) got {value!r} of type {type(value).__name__}; log a number, a tensor "
                    "of one element or a torchmetrics object."
                )
            return torch.tensor(value, dtype=_dtype())
        if value.numel() != 1:
            raise ValueError(
                f"self.log({self.name!r}, …) got a tensor of {value.numel()} elements; log a single number, "
                "its mean say."
            )
        if value.dim():
            value = value.squeeze()
        if value.dtype not in _EXACT:
            value = value.to(_dtype())
        if self.options.enable_graph:
            return value
        return value.detach().clone()

    def epoch_value(self) -> Tensor | None:
        """The reduced value of the epoch, or None."""
        if self.final is None:
            self.final = self._reduce_epoch()
        final: Tensor | None = self.final
        return final

    def _reduce_epoch(self) -> Tensor | None:
        if self.values:
            result = self.own_value()
            if result is None or self.holders is None:
                return None if result is None else self._synchronise(result, "mean")
            return self._synchronise(result, "sum") / self.holders
        if self.total is None:
            return None
        total = self._synchronise(self.total, "sum" if self.reduction == "mean" else self.reduction)
        if self.reduction != "mean":
            return total
        weight = self._synchronise(torch.tensor(self.weight), "sum") if self.options.sync_dist else self.weight
        return total / weight

    def own_value(self) -> Any:
        """What the values of this process come to; a sum where they are averaged. None if there are none."""
        function: Any = self.options.reduce_fx
        if not self.values:
            return self.total
        return function(torch.stack(self.values)) if callable(function) else self.reduced

    def take_part(self, nothing: Tensor) -> None:
        """Have no values of its own, but ``nothing``, which changes nothing in the reduction over processes."""
        if self.reduction == "custom":
            self.values, self.reduced = [nothing], nothing
        else:
            self.total = nothing

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume in the middle of an epoch needs.

        A function of the user's is not kept, but what it makes of the values so far is: it is what the epoch comes
        to if the name is not logged again, and if it is, the call brings the function.
        """
        state = {"last": self.last, "total": self.total, "weight": self.weight, "values": self.values}
        function = self.options.reduce_fx
        if self.values and callable(function):
            with suppress(Exception):  # it may not be meant for half an epoch
                self.reduced = function(torch.stack(self.values))
        return {**state, "reduced": self.reduced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.last, self.total, self.weight = state["last"], state["total"], state["weight"]
        self.values, self.reduced, self.final = state["values"], state["reduced"], None


class MetricRecord(Record):
    """A torchmetrics object logged as such: computed at the end of the epoch and reset after it."""

    def reset(self) -> None:
        """Forget the epoch."""
        super().reset()
        if (metric := getattr(self, "metric", None)) is not None:
            metric.reset()
        self.metric: Any = getattr(self, "metric", None)
        self.computed: Tensor | None = None

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value."""
        self.metric, self.computed = value, None

    def step_value(self) -> Any:
        """The metric of this batch, or None."""
        return self.metric._forward_cache if self.options.on_step and self.metric is not None else None

    def epoch_value(self) -> Any:
        """The computed metric, or None."""
        if not self.options.on_epoch or self.metric is None:
            return None
        if self.computed is None:
            if not self.metric.update_called:
                raise MisconfigurationException(
                    f"The metric logged as {self.name!r} was never updated; call it, or its update(), before it is "
                    "computed."
                )
            self.computed = self.metric.compute()
        return self.computed

    def state_dict(self) -> dict[str, Any]:
        """This batch's metric; what it has accumulated is kept with the module."""
        return {"forward": self.metric._forward_cache}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        if self.metric is not None:
            self.metric._forward_cache = state["forward"]


class Results:
    """The records of one loop, from the start of its epoch to the end."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str, int | None], Record] = {}
        self.epoch_ended = True
        self.step_kept = False  # the step's values are known; those that came after them are newer
        self.dataloader_idx: int | None = None
        self.batches: list[tuple[int | float, ...]] = []  # of each loader in each process, where they have told

    def reset(self) -> None:
        """Forget all values; torchmetrics objects are reset too."""
        for record in self.records.values():
            record.reset()
        self.records.clear()
        self.epoch_ended = True

    def state_dict(self, metric_names: Mapping[int, str]) -> list[dict[str, Any]]:
        """The open accumulations as plain data, for an exact resume in the middle of an epoch.

        Args:
            metric_names: The module's torchmetrics objects: ``id`` to name.
        """
        states = []
        for key, record in self.records.items():
            name = metric_names.get(id(record.metric)) if isinstance(record, MetricRecord) else None
            if isinstance(record, MetricRecord) and name is None:
                continue
            reduction = _REDUCTIONS.get(record.options.reduce_fx)
            options = record.options._replace(reduce_fx=reduction or "", sync_dist_group=None)
            states.append({"key": list(key), "options": options._asdict(), "metric": name, **record.state_dict()})
        return states

    def metrics(self, training: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What callbacks, loggers and progress bars are to see now."""
        to_callbacks: dict[str, Any] = {}
        to_loggers: dict[str, Any] = {}
        to_bars: dict[str, Any] = {}
        on_step = not self.epoch_ended
        for record in self.records.values():
            if record.dataloader_idx != self.dataloader_idx:
                continue
            value = record.step_value() if on_step else record.epoch_value()
            if not isinstance(value, Tensor):
                continue
            shown = record.step_name if on_step else record.epoch_name
            if record.options.logger:
                to_loggers[shown] = value
            if training or not on_step:
                to_callbacks[record.name] = value
                to_callbacks[shown] = value
            if record.options.prog_bar:
                to_bars[shown] = value
        return to_callbacks, to_loggers, to_bars


class Logging:
    """The Trainer's side of ``self.log``.

    Attributes:
        hook: The hook or step that runs now; it decides the defaults of ``self.log`` and whether it may be called.
        results: The records of the loop that runs now.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.hook: str | None = None
        self.results: Results | None = None
        self._batch: Any = None
        self._batch_size: int | None = None
        self._counts = True
        self.reset()

    def reset(self) -> None:
        """Forget every metric; a run begins."""
        self.hook = None
        self._callback_metrics: dict[str, Any] = {}
        self._logged_metrics: dict[str, Any] = {}
        self._progress_bar_metrics: dict[str, Any] = {}

    def start_batch(self, batch: Any, dataloader_idx: int | None = None, counts: bool = True) -> None:
        """A batch begins; its size is taken from it when it is first needed.

        Args:
            batch: The batch.
            dataloader_idx: Its loader, where there are several.
            counts: Whether what is logged in it is a part of the epoch.
        """
        self._batch, self._batch_size, self._counts = batch, None, counts
        results = self.results
        assert results is not None
        results.dataloader_idx = dataloader_idx
        results.epoch_ended = results.step_kept = False

    def batch_size(self) -> int:
        """The first dimension of the batch's tensors, found once per batch; 1 between batches."""
        if self._batch is None:
            return 1
        if self._batch_size is None:
            self._batch_size = extract_batch_size(self._batch)
        return self._batch_size

    def log(self, name: str, value: Any, asked: LogOptions, batch_size: int | None) -> None:
        """Take one ``self.log`` call."""
        if self._trainer.barebones:
            return self._warn_of_barebones(name)
        results = self.results
        if results is None or self.hook is None:
            raise MisconfigurationException(
                f"self.log({name!r}, …) was called outside of a loop; log from a step or hook."
            )
        record = results.records.get((self.hook, name, results.dataloader_idx))
        if record is None or record.restored or record.asked != asked:
            if isinstance(value, Mapping):
                for key, member in value.items():
                    self.log(f"{name}/{key}", member, asked, batch_size)
                return None
            record = self._declare(results, name, value, asked, record)
        record.update(value, self.batch_size if batch_size is None else batch_size, self._counts)

    def _warn_of_barebones(self, name: str) -> None:
        if not self._told_of_barebones:
            self._told_of_barebones = True
            rank_zero_warn(f"self.log({name!r}, …) does nothing under Trainer(barebones=True). (Said once.)")

    _told_of_barebones = False

    def _declare(self, results: Results, name: str, value: Any, asked: LogOptions, known: Record | None) -> Record:
        """The record of a name that is logged for the first time in this epoch."""
        if known is not None and not known.restored:
            if _identities(known.asked) == _identities(asked):
                known.options = known.options._replace(reduce_fx=asked.reduce_fx)
                return known
            raise MisconfigurationException(
                f"self.log({name!r}, …) was called twice in {self.hook} with different arguments; "
                f"before: {_changed(known.asked, asked)}, now: {_changed(asked, known.asked)}."
            )
        assert self.hook is not None
        self._refuse_name(name)
        metric = _is_metric(value)
        options = self._resolve(name, asked)
        self._refuse_uneven_steps(results, name, options)
        kind = MetricRecord if metric else TensorRecord
        record = kind(name, asked, options, results.dataloader_idx, self._trainer.strategy)
        rule = HOOK_RULES[self.hook]
        record.reduces_at_once = options.sync_dist and not rule.step_allowed and self._trainer.world_size > 1
        if metric:
            self._claim_metric(results, name, value, asked)
        if known is not None and type(known) is kind:
            record.load_state_dict(known.state_dict())
        results.records[self.hook, name, results.dataloader_idx] = record
        return record

    def _refuse_uneven_steps(self, results: Results, name: str, options: LogOptions) -> None:
        """Refuse a reduction in every batch where some processes have fewer batches; the others would wait."""
        if not (options.on_step and options.sync_dist and options.sync_dist_group is None and results.batches):
            return
        counts = results.batches[results.dataloader_idx or 0]
        if len(set(counts)) > 1 and inf not in counts and not options.rank_zero_only:
            raise MisconfigurationException(
                f"self.log({name!r}, on_step=True, sync_dist=True) needs all processes in every batch, but they have "
                f"{', '.join(map(str, counts))} batches of this loader; leave out on_step, or sync_dist."
            )

    def _refuse_name(self, name: str) -> None:
        if "/dataloader_idx_" in name:
            raise MisconfigurationException(
                f"self.log({name!r}, …): the part /dataloader_idx_ is added by the Trainer; leave it out."
            )

    def _resolve(self, name: str, asked: LogOptions) -> LogOptions:
        """Fill in the hook's defaults and refuse what it does not allow."""
        rule = HOOK_RULES.get(self.hook or "")
        if rule is None:
            raise MisconfigurationException(
                f"self.log({name!r}, …) can't be called in {self.hook}; it has a meaning in: {', '.join(HOOK_RULES)}."
            )
        on_step = rule.on_step if asked.on_step is None else asked.on_step
        on_epoch = rule.on_epoch if asked.on_epoch is None else asked.on_epoch
        if on_step and not rule.step_allowed:
            raise MisconfigurationException(
                f"self.log({name!r}, on_step=True) has no meaning in {self.hook}, which runs once per epoch."
            )
        if not on_step and not on_epoch:
            raise MisconfigurationException(f"self.log({name!r}, …) with neither on_step nor on_epoch would be lost.")
        if not callable(asked.reduce_fx) and asked.reduce_fx not in _REDUCTIONS:
            raise MisconfigurationException(
                f"self.log({name!r}, reduce_fx={asked.reduce_fx!r}): write mean, min, max, sum or a function."
            )
        logger = True if asked.logger is None else asked.logger
        return asked._replace(on_step=on_step, on_epoch=on_epoch, logger=logger)

    def _claim_metric(self, results: Results, name: str, metric: Any, asked: LogOptions) -> None:
        """A metric object has one record: logged under two names it would be computed and reset twice."""
        for (_, other, index), record in results.records.items():
            same = isinstance(record, MetricRecord) and record.metric is metric
            if same and (other, index) != (name, results.dataloader_idx):
                raise MisconfigurationException(
                    f"One metric object is logged as {other!r} and as {name!r}; make one object for each name."
                )
        if asked.metric_attribute is not None:
            return
        if not any(module is metric for module in self._trainer.lightning_module.modules()):
            raise MisconfigurationException(
                f"self.log({name!r}, …) got a {type(metric).__name__} that is no attribute of the LightningModule; "
                "assign it in __init__ (self.metric = …) so that it moves to the device and resets with the epoch."
            )

    def load_state_dict(self, results: Results, states: list[dict[str, Any]], metrics: Mapping[str, Any]) -> None:
        """Take back what :meth:`Results.state_dict` returned, into ``results``.

        Args:
            results: Where to.
            states: The saved records.
            metrics: The module's torchmetrics objects by name.
        """
        for state in states:
            hook, name, dataloader_idx = state["key"]
            options = LogOptions(**state["options"])
            kind = TensorRecord if state["metric"] is None else MetricRecord
            record = kind(name, options, options, dataloader_idx, self._trainer.strategy)
            record.restored = True
            if isinstance(record, MetricRecord):
                if state["metric"] not in metrics:
                    continue
                record.metric = metrics[state["metric"]]
            record.load_state_dict(state)
            results.records[hook, name, dataloader_idx] = record

    # -- from the loops -------------------------------------------------------------------------------

    def end_train_batch(self, accumulating: bool) -> None:
        """Send the step's metrics to the loggers, every ``log_every_n_steps`` optimizer steps."""
        trainer = self._trainer
        self._batch = None
        if accumulating or not trainer.loggers:
            return
        due = (
            (trainer.progress.batches_that_stepped + 1) % trainer.log_every_n_steps == 0
            if trainer.log_every_n_steps
            else False
        )
        if due or trainer.should_stop or trainer.fast_dev_run:
            self.send(self._metrics()[1])

    def end_epoch(self) -> None:
        """Epoch values are final: keep them, and the last step's, for whoever asks later."""
        results = self.results
        assert results is not None
        if not results.epoch_ended and not results.step_kept:
            self._keep(self._metrics())
        results.epoch_ended = True
        self._keep(self._metrics())

    def metrics_for_loggers(self) -> dict[str, Any]:
        """What loggers are to see now."""
        return self._metrics()[1]

    def end_train_epoch(self) -> None:
        """Send the epoch's metrics, under the number of the last step that was taken, and forget the epoch."""
        assert self.results is not None
        self.send(self._metrics()[1], offset=-1)
        self.results.reset()

    def end_dataloader(self) -> dict[str, Any]:
        """One evaluation loader is through; returns what was logged for it."""
        self.end_epoch()
        return {} if self._trainer.sanity_checking else self._metrics()[1]

    def send(self, metrics: Mapping[str, Any], step: int | None = None, offset: int = 0) -> None:
        """Hand metrics to every logger as numbers. A logged "step" takes the place of the step number."""
        loggers = self._trainer.loggers
        if not loggers or not metrics:
            return
        self._logged_metrics.update(metrics)
        numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        if step is None:
            own_step = numbers.pop("step", None)
            if own_step is None:
                numbers.setdefault("epoch", self._trainer.current_epoch)
                step = self._trainer.progress.batches_that_stepped + offset
            else:
                step = int(own_step)
        for logger in loggers:
            logger.log_metrics(metrics=dict(numbers), step=step)

    def enter(self, results: Results) -> Results | None:
        """Log into another loop's records from now on; returns the outer loop's, to be given to :meth:`leave`."""
        if self.results is not None:  # the stage is no longer training, but these are the training's values
            self._keep(self.results.metrics(training=True))
            self.results.step_kept = True
        outer, self.results = self.results, results
        results.epoch_ended = True
        return outer

    def leave(self, outer: Results | None) -> None:
        """Forget the inner loop's records and go back to the outer loop's."""
        assert self.results is not None
        self.results.reset()
        self.results = outer

    def end_evaluation_batch(self, step: int) -> None:
        """Send what an evaluation step logged with ``on_step=True``, under the batch's number."""
        self._batch = None
        if self._trainer.loggers and not self._trainer.sanity_checking:
            self.send(self._metrics()[1], step)

    # -- for whoever asks -----------------------------------------------------------------------------

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """Every metric under its plain and its suffixed name, as tensors."""
        self._keep(self._metrics())
        return self._callback_metrics

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """Metrics logged with ``logger=True``, as tensors."""
        self._keep(self._metrics())
        return self._logged_metrics

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """Metrics logged with ``prog_bar=True``, as numbers; reading it waits for the device."""
        self._keep(self._metrics())
        bars = self._progress_bar_metrics
        return {name: value.item() if isinstance(value, Tensor) else value for name, value in bars.items()}

    def restore_callback_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Take back the metrics of a checkpoint."""
        self._callback_metrics.update(metrics)

    def take_over(self, callback: dict[str, Any], logged: dict[str, Any], bars: dict[str, Any]) -> None:
        """Take the metrics of a run in another process."""
        self._callback_metrics, self._logged_metrics, self._progress_bar_metrics = callback, logged, bars

    def _metrics(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if self.results is None:
            return {}, {}, {}
        return self.results.metrics(training=bool(self._trainer.training))

    def _keep(self, metrics: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
        self._callback_metrics.update(metrics[0])
        self._logged_metrics.update(metrics[1])
        self._progress_bar_metrics.update(metrics[2])

    def to_host(self) -> None:
        """Bring what is kept to the host; the run is over, well or not, and its device may go."""
        if self.results is not None:
            self._keep(self.results.metrics(training=True))
            self.results = None
        for kept in (self._callback_metrics, self._logged_metrics, self._progress_bar_metrics):
            kept.update({name: v.cpu() if isinstance(v, Tensor) else v for name, v in kept.items()})


def monitored(metrics: Mapping[str, Any], name: str) -> Any:
    """The metric that something monitors; KeyError is a sentence that lists what was logged."""
    if name in metrics:
        return metrics[name]
    near = difflib.get_close_matches(name, metrics, n=1)
    raise KeyError(
        f"The monitored metric {name!r} was not logged; logged so far: {', '.join(sorted(metrics)) or 'nothing'}."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _is_metric(value: Any) -> bool:
    """Whether a value is a torchmetrics object, without importing torchmetrics for those who have none."""
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def _identities(options: LogOptions) -> LogOptions:
    """The options with what tells functions apart: one that is written in the call is a new object in every call."""
    function = options.reduce_fx
    if isinstance(function, partial):
        return options._replace(reduce_fx=(function.func, function.args, function.keywords))  # type: ignore[arg-type]
    return options._replace(reduce_fx=getattr(function, "__code__", function))


def _changed(options: LogOptions, other: LogOptions) -> str:
    pairs = zip(options._fields, options, other, strict=True)
    return ", ".join(f"{field}={value!r}" for field, value, theirs in pairs if value != theirs)
