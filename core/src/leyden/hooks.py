"""Every hook of a run: its name, its arguments, and when it is called.

Three groups, each a class below: *registration* (what a plugin brings), *observation* (what happens
in a run; the hooks that Lightning users know), *behaviour* (how one thing is done; the first result
wins). The signatures are the specification: an implementation takes any subset of the arguments.

An installed plugin implements a hook with a function marked by :data:`hookimpl`; a callback, the
``LightningModule``, the ``LightningDataModule`` and the strategy implement it by a method of the same
name. The module, the data module and the strategy are not given ``trainer`` and ``pl_module``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    from leyden.interfaces.component import Component

PROJECT = "leyden"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
HOOKS_VERSION = 1
"""The version of these specifications, which a plugin may ask for: ``dependencies = ["leyden-core[hooks-1]>=0.1"]``.

It goes up when a plugin that keeps to the specifications might no longer work: a hook goes or gets another name, loses
an argument, is called at another moment, or takes another result. A new hook or argument leaves it as it is. What is
going to go is marked :func:`deprecated` for one minor version of the core before.
"""
DEPRECATED = "leyden_deprecated"
Specification = TypeVar("Specification", bound=Callable[..., Any])


def deprecated(instead: str, argument: str | None = None) -> Callable[[Specification], Specification]:
    """Mark a hook specification, or one of its arguments, as one that goes with the next :data:`HOOKS_VERSION`.

    The author of each plugin that uses it is warned once, with the plugin's name, distribution and version.

    Args:
        instead: What to do instead, as the end of a sentence: "implement 'on_train_start' instead".
        argument: The argument that goes; None for the whole hook.

    Example::

        @deprecated("implement 'on_train_start' instead")
        @hookspec
        def on_pretrain_routine_start(self, trainer: Any) -> None: ...
    """

    def mark(specification: Specification) -> Specification:
        specification.__dict__.setdefault(DEPRECATED, {})[argument] = instead
        return specification

    return mark


# mypy: disable-error-code="empty-body"


class Registration:
    """What a plugin brings. Called outside of the training loop, the latest registered plugin first."""

    @hookspec
    def leyden_components(self) -> Iterable[Component]:
        """Yield the named parts that this plugin brings; called once, when plugins are discovered."""

    @hookspec
    def leyden_configure(self, trainer: Any) -> None:
        """A Trainer has been built and its arguments are resolved; raise to refuse a combination."""

    @hookspec
    def leyden_default_callbacks(self, trainer: Any) -> Iterable[Any]:
        """Return callbacks to add to a Trainer; ask ``trainer.wants(role)`` before adding a role's default."""

    @hookspec(firstresult=True)
    def leyden_default_logger(self, trainer: Any) -> Any:
        """Return the logger of a Trainer made with ``logger=True`` or without ``logger``."""

    @hookspec(firstresult=True)
    def leyden_default_strategy(self, trainer: Any, num_processes: int) -> Any:
        """Return the strategy (instance or name) for ``strategy="auto"`` and more than one process."""

    @hookspec(firstresult=True)
    def leyden_show_results(self, trainer: Any, stage: str, results: Sequence[Mapping[str, float]]) -> Any:
        """Show the results of a ``validate`` or ``test``, which are by dataloader, and return True; only on rank 0."""


class Observation:
    """What happens in a run, in the order of a fit.

    Nothing that an implementation returns is used, except the -1 of ``on_train_batch_start``.
    """

    @hookspec
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A run begins; ``stage`` is "fit", "validate", "test" or "predict". The model is still where it was built."""

    @hookspec
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The model is on its device and has its optimizers; before the sanity check."""

    @hookspec
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """A few validation batches are about to be tried before training."""

    @hookspec
    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """The sanity check is over; its metrics are forgotten."""

    @hookspec
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Training is about to begin, after the sanity check."""

    @hookspec
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A training epoch begins."""

    @hookspec
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        """A batch, already on the device, is about to be trained on. Return -1 to skip the rest of the epoch."""

    @hookspec
    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are about to be cleared."""

    @hookspec
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Before ``loss.backward()``; ``loss`` is divided by ``accumulate_grad_batches`` already."""

    @hookspec
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Gradients exist; under mixed precision they are still scaled."""

    @hookspec
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are unscaled and not yet clipped; the optimizer is about to step."""

    @hookspec
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch has been trained on; ``outputs`` is ``{"loss": …}`` and what the step's dict held, detached."""

    @hookspec
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A training epoch ends. Implementations that read epoch metrics mark themselves ``trylast``."""

    @hookspec
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""

    @hookspec
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation begins; the model is in evaluation mode."""

    @hookspec
    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the validation loaders begins."""

    @hookspec
    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A validation batch, already on the device, is about to be evaluated."""

    @hookspec
    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A validation batch has been evaluated; ``outputs`` is what ``validation_step`` returned."""

    @hookspec
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the validation loaders is over; the last place to log from."""

    @hookspec
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation is over and ``trainer.callback_metrics`` holds its results."""

    @hookspec
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Testing begins; the model is in evaluation mode."""

    @hookspec
    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the test loaders begins."""

    @hookspec
    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A test batch, already on the device, is about to be evaluated."""

    @hookspec
    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A test batch has been evaluated; ``outputs`` is what ``test_step`` returned."""

    @hookspec
    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the test loaders is over; the last place to log from."""

    @hookspec
    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Testing is over and ``trainer.callback_metrics`` holds its results."""

    @hookspec
    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Prediction begins; the model is in evaluation mode."""

    @hookspec
    def on_predict_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the prediction loaders begins."""

    @hookspec
    def on_predict_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A batch, already on the device, is about to be predicted."""

    @hookspec
    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """A batch has been predicted; ``outputs`` is what ``predict_step`` returned."""

    @hookspec
    def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The pass over the prediction loaders is over."""

    @hookspec
    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Prediction is over."""

    @hookspec
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """A fit is over; the last hook of a fit before ``teardown``."""

    @hookspec
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A run is over and went well; after an error there is ``on_exception``."""

    @hookspec
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """A run is ending because of ``exception`` (Ctrl-C included), which is raised again afterwards."""

    @hookspec
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is complete and about to be written; add to it or change it in place."""

    @hookspec
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read and nothing is restored from it yet; change it in place."""


class Behaviour:
    """How one thing is done. The first result that is not None wins."""

    @hookspec(firstresult=True)
    def leyden_optimize_batch(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Train on one batch that is already on the device and return the outputs (``{}`` for a skipped batch).

        The core's implementation is ``trylast``; a plugin that returns a dict replaces it, one that
        returns None leaves the batch to it. An implementation counts its optimizer steps in
        ``trainer.progress.optimizer_steps``.
        """
