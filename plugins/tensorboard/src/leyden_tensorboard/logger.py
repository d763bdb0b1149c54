"""The TensorBoard logger, which uses PyTorch's SummaryWriter."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.utilities.rank_zero import rank_zero_only, rank_zero_warn
from leyden_logfiles.experiment import rank_zero_experiment
from leyden_logfiles.hparams import as_mapping, save_hparams
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

    The directory is created when something is first logged. Scalars are queued; the queue is given to the writer when
    it has ``max_queue`` rows (200 by default), when a row comes five seconds after the last time (earlier with a
    smaller ``flush_secs``), when a checkpoint is saved, when :attr:`experiment` is used, and when the run ends.

    Args:
        save_dir: The directory of all experiments, a path or a URL that TensorBoard can write to.
        name: The experiment's name, a directory in ``save_dir``; with None or "" the runs are in ``save_dir`` itself.
        version: The run's name, a directory in the experiment's: an int n means ``version_n``, a string is used
            unchanged. The default is the first unused number.
        log_graph: Whether to log the model's graph; the model needs an ``example_input_array``.
        default_hp_metric: Whether hyperparameters that are logged without a metric get the metric ``hp_metric`` with
            the value -1; TensorBoard does not show hyperparameters without a metric.
        prefix: Text to put before the names of all metrics, followed by a hyphen.
        sub_dir: A directory within the run's directory, for the files of this logger.
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
        self._highest_step = -1
        self.hparams: dict[str, Any] = {}
        self._hparams_saved = False

    @property
    def sub_dir(self) -> str | None:
        """The directory within the run's directory for the files of this logger; None if there is none."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """The directory of this run's files."""
        return os.path.join(super().log_dir, self._sub_dir) if self._sub_dir else super().log_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The SummaryWriter, for images, histograms, text and everything else that it can write.

        Example::

            self.logger.experiment.add_histogram("weights", self.layer.weight, self.global_step)
        """
        self._queue().hand_over()  # so that the caller's events come after those logged before
        assert self._experiment is not None
        return self._experiment

    def _queue(self) -> ScalarQueue:
        """Return the queue of scalars; the first call makes it and opens the event file."""
        if self._scalars is None:
            from torch.utils.tensorboard import SummaryWriter

            self._experiment = SummaryWriter(log_dir=self.log_dir, **self._kwargs)
            seconds = min(MAX_SECONDS, self._kwargs.get("flush_secs", MAX_SECONDS))
            self._scalars = ScalarQueue(self._experiment, self._kwargs["max_queue"], seconds)
            weakref.finalize(self, self._scalars.flush)  # also at exit, if finalize() was not called
        return self._scalars

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the scalars of one step as one event.

        Args:
            metrics: The values by name: numbers, tensors with one element, or dicts of these, which TensorBoard
                draws as curves in one plot.
            step: The step; TensorBoard shows None as 0.

        Raises:
            ValueError: A value is none of these.
        """
        self._highest_step = max(self._highest_step, step or 0)
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
        """Log hyperparameters to ``hparams.yaml`` and, with a metric, to TensorBoard's HPARAMS tab.

        TensorBoard reads them only once in a run. If the metrics are known only at the end, set
        ``default_hp_metric=False`` and log hyperparameters and metrics then.

        Args:
            params: A mapping (possibly nested) or a Namespace.
            metrics: The results by which to compare runs: numbers by name, or one number, which is named ``hp_metric``.
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
        file_writer = writer._get_file_writer()  # writer.add_hparams would make a separate run for them
        for summary in hparams(as_plain_scalars(params), dict(metrics)):
            file_writer.add_summary(summary, step)

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Log the model's graph, if the logger was made with ``log_graph=True``.

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
                "The graph is not logged: example_input_array must be a tensor or a tuple of arguments, but it is "
                f"{'not set' if inputs is None else 'of type ' + type(inputs).__name__}."
            )
            return
        if hasattr(model, "transfer_batch_to_device"):
            inputs = model.on_before_batch_transfer(inputs, 0)
            inputs = model.transfer_batch_to_device(inputs, model.device, 0)
            inputs = model.on_after_batch_transfer(inputs, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns about itself and about Python values in the model
            self.experiment.add_graph(model, inputs)

    def state_dict(self) -> dict[str, Any]:
        """Return the highest step so far."""
        return {"step": self._highest_step} if self._highest_step >= 0 else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let TensorBoard hide what a run that was killed after the checkpoint has logged of later steps."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._highest_step = state.get("step", -1)
        restart = Event(session_log=SessionLog(status=SessionLog.START))
        writer: Any = self.experiment
        writer._get_file_writer().add_event(restart, self._highest_step + 1)

    @rank_zero_only
    def save(self) -> None:
        """Write the queued scalars and, if anything has been logged, ``hparams.yaml``."""
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
        """Write everything and close the event file; if the logger is used again, it opens another file."""
        self.save()
        if self._experiment is not None:
            self._experiment.close()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the queued scalars, so that none from before the checkpoint is missing when a run resumes from it."""
        self.save()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open file; a copy opens its own."""
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
