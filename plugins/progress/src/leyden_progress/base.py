"""ProgressBar: what every progress bar knows of a run, and nothing of how to draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from leyden.callbacks import Callback
from leyden.utilities import rank_zero_warn

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


class ProgressBar(Callback):
    r"""Base class of progress bars: totals, descriptions and metrics; a subclass draws them.

    A subclass writes :meth:`enable`, :meth:`disable` and the hooks that it draws in, and calls
    ``super().__init__()`` and ``super().setup(...)``. A Trainer with a bar of one's own gets no other.

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
        """The Trainer of the run; raises TypeError before the first one."""
        if self._trainer is None:
            raise TypeError(f"{type(self).__name__}.trainer is known once a run has begun; this bar has seen none yet.")
        return self._trainer

    @property
    def sanity_check_description(self) -> str:
        """What stands before the bar of the sanity check."""
        return "Sanity Checking"

    @property
    def train_description(self) -> str:
        """What stands before the training bar until the first epoch begins."""
        return "Training"

    @property
    def validation_description(self) -> str:
        """What stands before the validation bar."""
        return "Validation"

    @property
    def test_description(self) -> str:
        """What stands before the test bar."""
        return "Testing"

    @property
    def predict_description(self) -> str:
        """What stands before the prediction bar."""
        return "Predicting"

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the current training epoch, fewer where ``max_steps`` ends it; inf where nobody knows."""
        trainer = self.trainer
        total = trainer.num_training_batches
        if trainer.max_steps is None or trainer.max_steps < 0:
            return total
        batches_left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        expected: int | float = min(total, trainer.progress.batch_idx + batches_left)
        return expected

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        """Batches of the validation (or sanity check) loader that runs now; inf where nobody knows."""
        trainer = self.trainer
        return self._of_loader(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        """Batches of the test loader that runs now; inf where nobody knows."""
        return self._of_loader(self.trainer.num_test_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Batches of the prediction loader that runs now; inf where nobody knows."""
        return self._of_loader(self.trainer.num_predict_batches)

    @property
    def total_val_batches(self) -> int | float:
        """Batches of all validation loaders together; 0 in an epoch without validation."""
        every = self.trainer.check_val_every_n_epoch
        if every is not None and (self.trainer.current_epoch + 1) % every:
            return 0
        return sum(_as_list(self.trainer.num_val_batches))

    def _of_loader(self, batches: Sequence[int | float] | int | float) -> int | float:
        return _as_list(batches)[self._current_eval_dataloader_idx or 0]

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether an evaluation has come to another loader since the last call; remembers this one."""
        changed = self._current_eval_dataloader_idx != dataloader_idx
        self._current_eval_dataloader_idx = dataloader_idx
        return changed

    def reset_dataloader_idx_tracker(self) -> None:
        """Make the next evaluation begin with a loader that :meth:`has_dataloader_changed` calls new."""
        self._current_eval_dataloader_idx = None

    def disable(self) -> None:
        """Draw nothing from now on; called on every rank but 0, and by what runs short fits of its own."""
        raise NotImplementedError(f"{type(self).__name__} must say how it is switched off: write disable().")

    def enable(self) -> None:
        """Draw again after :meth:`disable`."""
        raise NotImplementedError(f"{type(self).__name__} must say how it is switched on: write enable().")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print as the builtin does, without tearing the bar; ``trainer.print`` and ``self.print`` come here."""
        print(*args, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the Trainer, and be silent on every rank but 0."""
        self._trainer = trainer
        if not trainer.is_global_zero:
            self.disable()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the run, which a copy of the bar is not a part of."""
        return {**super().__getstate__(), "_trainer": None}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is shown beside the bar, by name; override it to show more, less or something else.

        Called only when the bar is drawn, since reading a metric waits for the device.

        Returns:
            The loggers' version as ``v_num``, and what was logged with ``prog_bar=True``.
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
    """What every bar shows without being asked: ``v_num``, the loggers' version, where there is one."""
    versions = list(dict.fromkeys(logger.version for logger in trainer.loggers if logger.version not in (None, "")))
    if not versions:
        return {}
    if len(versions) == 1 and isinstance(versions[0], int):
        return {"v_num": versions[0]}
    return {"v_num": "_".join(map(str, versions))[-4:]}


def batches_text(done: int, total: int | float) -> str:
    """Batches of how many: "3/10", or "3/--" where nobody knows."""
    return f"{done}/{int(total) if math.isfinite(total) else '--'}"


def _as_list(batches: Sequence[int | float] | int | float) -> list[int | float]:
    return [batches] if isinstance(batches, (int, float)) else list(batches)
