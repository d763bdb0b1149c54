"""ProgressBar: the base class of progress bars, which draws nothing itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leyden.callbacks import Callback
from leyden.utilities import rank_zero_warn

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


class ProgressBar(Callback):
    r"""Base class of progress bars: has totals, descriptions and metrics; a subclass draws them.

    A subclass implements :meth:`enable`, :meth:`disable` and the hooks that it draws in, and calls
    ``super().__init__()`` and ``super().setup(...)``. A Trainer that gets a bar has no default bar.

    Example::

        class Dots(ProgressBar):
            def __init__(self):
                super().__init__()
                self.enabled = True

            def enable(self):
                self.enabled = True

            def disable(self):
                self.enabled = False

            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                if self.enabled:
                    print(".", end="\n" if batch_idx + 1 == self.total_train_batches else "")

        Trainer(callbacks=[Dots()])
    """

    role: ClassVar[str | None] = "progress_bar"

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._current_eval_dataloader_idx: int | None = None

    @property
    def trainer(self) -> Trainer:
        """The Trainer of the run; raises TypeError before the first run."""
        if self._trainer is None:
            raise TypeError(f"{type(self).__name__}.trainer is not set before a run begins; use it in a hook.")
        return self._trainer

    @property
    def sanity_check_description(self) -> str:
        """The text before the bar of the sanity check."""
        return "Sanity Checking"

    @property
    def train_description(self) -> str:
        """The text before the training bar until the first epoch begins."""
        return "Training"

    @property
    def validation_description(self) -> str:
        """The text before the validation bar."""
        return "Validation"

    @property
    def test_description(self) -> str:
        """The text before the test bar."""
        return "Testing"

    @property
    def predict_description(self) -> str:
        """The text before the prediction bar."""
        return "Predicting"

    @property
    def total_train_batches(self) -> int | float:
        """Number of batches in this training epoch, less if ``max_steps`` ends it; inf if unknown."""
        trainer = self.trainer
        total = trainer.num_training_batches
        if trainer.max_steps is None or trainer.max_steps < 0:
            return total
        batches_left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        expected: int | float = min(total, trainer.progress.batch_idx + batches_left)
        return expected

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        """Number of batches in the current validation (or sanity check) loader; inf if unknown."""
        trainer = self.trainer
        return self._of_loader(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        """Number of batches in the current test loader; inf if unknown."""
        return self._of_loader(self.trainer.num_test_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Number of batches in the current prediction loader; inf if unknown."""
        return self._of_loader(self.trainer.num_predict_batches)

    @property
    def total_val_batches(self) -> int | float:
        """Number of batches in all validation loaders together; 0 in an epoch without validation."""
        every = self.trainer.check_val_every_n_epoch
        if every is not None and (self.trainer.current_epoch + 1) % every:
            return 0
        return sum(_as_list(self.trainer.num_val_batches))

    def _of_loader(self, batches: Sequence[int | float] | int | float) -> int | float:
        return _as_list(batches)[self._current_eval_dataloader_idx or 0]

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether ``dataloader_idx`` differs from that of the last call; remembers it for the next call."""
        changed = self._current_eval_dataloader_idx != dataloader_idx
        self._current_eval_dataloader_idx = dataloader_idx
        return changed

    def reset_dataloader_idx_tracker(self) -> None:
        """Forget the last loader, so that :meth:`has_dataloader_changed` returns True in the next call."""
        self._current_eval_dataloader_idx = None

    def disable(self) -> None:
        """Stop drawing. Called on every rank except 0, and by code that runs short fits of its own."""
        raise NotImplementedError(f"{type(self).__name__} does not implement disable(); write that method.")

    def enable(self) -> None:
        """Draw again after :meth:`disable`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement enable(); write that method.")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print like the builtin, without breaking the bar; ``trainer.print`` and ``self.print`` call it."""
        print(*args, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the Trainer, and disable the bar on every rank except 0."""
        self._trainer = trainer
        if not trainer.is_global_zero:
            self.disable()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the Trainer, which does not belong to a copy of the bar."""
        return {**super().__getstate__(), "_trainer": None}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics to show beside the bar, by name; override it to show others.

        It is called only when the bar is drawn, since reading a metric waits for the device.

        Returns:
            The loggers' version as ``v_num``, and the metrics logged with ``prog_bar=True``.
        """
        standard = get_standard_metrics(trainer)
        logged = trainer.progress_bar_metrics
        if twice := sorted(standard.keys() & logged.keys()):
            rank_zero_warn(
                f"self.log({twice[0]!r}, …, prog_bar=True) hides the bar's own {twice[0]!r}; "
                "log it under another name, or override get_metrics() of the progress bar."
            )
        return {**standard, **logged}


def get_standard_metrics(trainer: Trainer) -> dict[str, int | str]:
    """Return the metrics that every bar shows: ``v_num``, the loggers' version, if there is one."""
    versions = list(dict.fromkeys(logger.version for logger in trainer.loggers if logger.version not in (None, "")))
    if not versions:
        return {}
    if len(versions) == 1 and isinstance(versions[0], int):
        return {"v_num": versions[0]}
    return {"v_num": "_".join(map(str, versions))[-4:]}


def batches_text(done: int, total: int | float) -> str:
    """Return the number of done batches and the total: "3/10", or "3/--" if the total is unknown."""
    return f"{done}/{int(total) if math.isfinite(total) else '--'}"


def _as_list(batches: Sequence[int | float] | int | float) -> list[int | float]:
    return [batches] if isinstance(batches, (int, float)) else list(batches)
