"""The TensorBoard logger, through PyTorch's own SummaryWriter."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.loggers import as_mapping, rank_zero_experiment
from leyden.utilities.rank_zero import rank_zero_only, rank_zero_warn
from leyden_logfiles.hparams import save_hparams
from leyden_logfiles.run_directory import RunDirectoryLogger
from leyden_logfiles.storage import is_file
from leyden_tensorboard.hyperparameters import as_plain_scalars
from leyden_tensorboard.scalars import ScalarQueue

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MAX_QUEUE = 200
MAX_SECONDS = 5.0


class TensorBoardLogger(RunDirectoryLogger):
    """Writes TensorBoard event files to ``save_dir/name/version`` and hyperparameters to ``hparams.yaml`` there.

    The directory is made with the first thing that is logged. Scalars wait until there are ``max_queue`` rows
    (200 by default), or five seconds (fewer with a smaller ``flush_secs``) have passed when the next row comes, or
    a checkpoint is saved, :attr:`experiment` is asked for, or the run ends.

    Args:
        save_dir: Directory of all experiments, a path or a URL that TensorBoard can write to.
        name: The experiment, a directory in ``save_dir``; None or "" for none of its own.
        version: The run, a directory in that of the experiment: an int n stands for ``version_n``, a string
            for itself. By default the first free number.
        log_graph: Whether to record the model's graph; the model needs an ``example_input_array``.
        default_hp_metric: Whether hyperparameters that are logged without a metric get one named
            ``hp_metric``, of -1; without a metric TensorBoard does not show them.
        prefix: Put before the names of all metrics, with a hyphen.
        sub_dir: A directory in that of the run, for the files of this logger.
        kwargs: Arguments of ``torch.utils.tensorboard.SummaryWriter``.

    Example::

        trainer = Trainer(logger=TensorBoardLogger("logs", name="digits"))
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._sub_dir = None if sub_dir is None else os.path.expandvars(os.path.expanduser(os.fspath(sub_dir)))
        self._kwargs = {"max_queue": MAX_QUEUE, **kwargs}
        self._experiment: SummaryWriter | None = None
        self._scalars: ScalarQueue | None = None
        self.hparams: dict[str, Any] = {}
        self._hparams_saved = False

    @property
    def sub_dir(self) -> str | None:
        """The directory in that of the run for the files of this logger."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """The directory of this run's files."""
        return os.path.join(super().log_dir, self._sub_dir) if self._sub_dir else super().log_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The SummaryWriter: images, histograms, text and whatever else it can write.

        Example::

            self.logger.experiment.add_histogram("weights", self.layer.weight, self.global_step)
        """
        self._queue().hand_over()  # what the caller writes now comes after what has been logged
        assert self._experiment is not None
        return self._experiment

    def _queue(self) -> ScalarQueue:
        """The way of scalars into the event file, which is opened here."""
        if self._scalars is None:
            from torch.utils.tensorboard import SummaryWriter

            self._experiment = SummaryWriter(log_dir=self.log_dir, **self._kwargs)
            seconds = min(MAX_SECONDS, self._kwargs.get("flush_secs", MAX_SECONDS))
            self._scalars = ScalarQueue(self._experiment, self._kwargs["max_queue"], seconds)
            weakref.finalize(self, self._scalars.flush)  # at exit too, where nobody finalized the logger
        return self._scalars

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record scalars of one step, as one event.

        Args:
            metrics: Name to a number, a tensor with one element, or a dict of such, which is drawn as curves
                in one plot.
            step: The step; TensorBoard takes none for 0.

        Raises:
            ValueError: If a value is none of these.
        """
        scalars: dict[str, float] = {}
        for name, value in self._with_prefix(metrics).items():
            if isinstance(value, dict):
                self.experiment.add_scalars(name, value, step)
            else:
                scalars[name] = value if type(value) is float else _as_float(name, value)
        if scalars:
            self._queue().add(scalars, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Record hyperparameters in ``hparams.yaml`` and, with a metric, in TensorBoard's HPARAMS tab.

        TensorBoard reads them once in a run, so that metrics known only at the end are best logged then,
        with ``default_hp_metric=False``.

        Args:
            params: A mapping (possibly nested) or a Namespace.
            metrics: The results to compare runs by: name to number, or one number named ``hp_metric``.
            step: The step of these metrics.
        """
        params = as_mapping(params)
        self.hparams.update(params)
        self._hparams_saved = False
        if metrics is None:
            metrics = {"hp_metric": -1} if self._default_hp_metric else {}
        elif not isinstance(metrics, Mapping):
            metrics = {"hp_metric": metrics}
        if not metrics:
            return
        self.log_metrics(metrics, step)
        from torch.utils.tensorboard.summary import hparams

        writer: Any = self.experiment
        file_writer = writer._get_file_writer()  # writer.add_hparams would make a run of its own for them
        for summary in hparams(as_plain_scalars(params), dict(metrics)):
            file_writer.add_summary(summary, step)

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Record the model's graph, if the logger was made with ``log_graph=True``.

        Args:
            model: The module.
            input_array: The input to trace it with, a tensor or a tuple of positional arguments; by default
                ``model.example_input_array``.
        """
        if not self._log_graph:
            return
        inputs = getattr(model, "example_input_array", None) if input_array is None else input_array
        if not isinstance(inputs, (Tensor, tuple)):
            rank_zero_warn(
                f"The graph is not logged: it is traced with a tensor or a tuple of arguments, but example_input_array "
                f"is {'not set' if inputs is None else 'of type ' + type(inputs).__name__}."
            )
            return
        if hasattr(model, "transfer_batch_to_device"):
            inputs = model.on_before_batch_transfer(inputs, 0)
            inputs = model.transfer_batch_to_device(inputs, model.device, 0)
            inputs = model.on_after_batch_transfer(inputs, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about itself and about Python values in the model
            self.experiment.add_graph(model, inputs)

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending, and ``hparams.yaml`` where anything has been logged."""
        if self._scalars is not None:
            self._scalars.flush()
        self._save_hparams()

    def _save_hparams(self) -> None:
        if self._hparams_saved or (self._scalars is None and not self.hparams):
            return
        path = os.path.join(self.log_dir, self.NAME_HPARAMS_FILE)
        if self.hparams or not is_file(path):
            save_hparams(path, self.hparams)
        self._hparams_saved = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything and close the event file; the logger may be used again and then opens another."""
        self.save()
        if self._experiment is not None:
            self._experiment.close()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write what is pending, so that a run resumed from the checkpoint has all that came before it."""
        self.save()

    def __getstate__(self) -> dict[str, Any]:
        """The logger without its open file; a copy opens one of its own."""
        if self._scalars is not None:
            self._scalars.flush()
        return {**self.__dict__, "_experiment": None, "_scalars": None}


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"TensorBoard can't draw the metric {name!r}: {value!r} is a {type(value).__name__}; "
            "log a number, a tensor with one element, or a dict of these."
        ) from error
