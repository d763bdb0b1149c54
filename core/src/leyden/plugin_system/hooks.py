"""Every hook of a run: its name, its arguments, when it is called, how often, and what is made of the answers.

Three groups, each a class below: *registration* (what a plugin brings), *observation* (what happens
in a run; the hooks that Lightning users know), *behaviour* (how one thing is done; the first answer
wins). The signatures are the specification: an implementation takes any subset of the arguments.
How often a hook runs, how one logs in it and what is made of the answers is in the table ``FACTS``; a hook that is not
there runs once, one can't log in it, and its answers are not used.

An installed plugin implements a hook with a function marked by :data:`hookimpl`; a callback, the
``LightningModule``, the ``LightningDataModule`` and the strategy implement it by a method of the same
name. Callbacks inherit the observations, and override those that they need. The module, the data module
and the strategy are not given ``trainer`` and ``pl_module``.

The specifications have a version, ``HOOKS_VERSION``, which a plugin may ask for:
``dependencies = ["leyden-core[hooks-1]>=0.1"]``. It goes up when a plugin that keeps to the specifications might no
longer work: a hook goes or gets another name, loses an argument, is called at another moment, or takes another answer.
A new hook or argument leaves it as it is. What is going to go is marked for one minor version of the core before, with
pluggy's own words, and whoever implements it is warned:
``@hookspec(warn_on_impl=DeprecationWarning("on_pretrain_routine_start goes; implement on_train_start"))``, or
``warn_on_impl_args={"pl_module": DeprecationWarning("...")}`` for an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from leyden.interfaces.component import Component
    from leyden.module import LightningModule as Module
    from leyden.trainer import Trainer

PROJECT = "leyden"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
HOOKS_VERSION = 1  # see the module's docstring


class Frequency(Enum):
    """How often a hook runs; the value says it in words."""

    ONCE = "once"
    EACH_EPOCH = "every epoch"
    EACH_BATCH = "every batch"


class Answers(Enum):
    """What is made of the answers of all who implement a hook; the value says it in words.

    Nobody is asked after the first. Of a registration hook without a rule, its caller has all the answers.
    """

    UNUSED = ""
    FIRST = "The first answer that is not None is taken."
    SKIP = "The answer -1 of anyone is taken."


class LogRule(NamedTuple):
    """What ``self.log`` may do in a hook or step, and does where it is not told.

    Attributes:
        step_allowed: Whether ``on_step`` has a meaning, as the hook runs in every step.
        on_step: The default of ``on_step``.
        on_epoch: The default of ``on_epoch``.
    """

    step_allowed: bool
    on_step: bool
    on_epoch: bool


@dataclass(frozen=True)
class Hook:
    """What is known of a hook beside its arguments.

    Args:
        frequency: How often it runs.
        logging: How one may log in it; None where one may not.
        answers: What is made of the answers.
    """

    frequency: Frequency = Frequency.ONCE
    logging: LogRule | None = None
    answers: Answers = Answers.UNUSED


EACH_EPOCH, EACH_BATCH = Frequency.EACH_EPOCH, Frequency.EACH_BATCH
LOGS_STEPS = LogRule(step_allowed=True, on_step=True, on_epoch=False)
LOGS_EPOCH = LogRule(step_allowed=False, on_step=False, on_epoch=True)
LOGS_EVALUATION = LogRule(step_allowed=True, on_step=False, on_epoch=True)
# What is known of hooks, by patterns of their names; no name fits two of them.
FACTS = {
    "leyden_(default_logger|default_strategy|(find|describe)_checkpoint|read_progress)": Hook(answers=Answers.FIRST),
    "leyden_(show_results|prepare_loader|iteration)": Hook(answers=Answers.FIRST),
    "leyden_optimize_batch": Hook(EACH_BATCH, answers=Answers.FIRST),
    "leyden_wrap_batches": Hook(EACH_EPOCH, answers=Answers.FIRST),
    "on_(train|test)_start": Hook(logging=LOGS_EPOCH),
    "on_(train|validation|test)_epoch_(start|end)|on_validation_start": Hook(EACH_EPOCH, LOGS_EPOCH),
    "on_predict_epoch_(start|end)|on_validation_end|on_save_checkpoint|leyden_(rank_state|seal)": Hook(EACH_EPOCH),
    "on_train_batch_start": Hook(EACH_BATCH, LOGS_STEPS, Answers.SKIP),
    "on_train_batch_end|on_before_(zero_grad|backward|optimizer_step)|on_after_backward": Hook(EACH_BATCH, LOGS_STEPS),
    "on_(validation|test)_batch_(start|end)": Hook(EACH_BATCH, LOGS_EVALUATION),
    "on_predict_batch_(start|end)": Hook(EACH_BATCH),
}


# mypy: disable-error-code="empty-body"


class Registration:
    """What a plugin brings. Called outside of the training loop, but to save; the latest registered plugin first."""

    def leyden_components(self) -> Iterable[Component]:
        """Yield the named parts that this plugin brings; called once, when plugins are discovered."""

    def leyden_configure(self, trainer: Trainer) -> None:
        """A Trainer has been built and its arguments are resolved; raise to refuse a combination."""

    def leyden_default_callbacks(self, trainer: Trainer) -> Iterable[Any]:
        """Return callbacks to add to a Trainer; ask ``trainer.wants(role)`` before adding a role's default."""

    def leyden_default_logger(self, trainer: Trainer) -> Any:
        """Return the logger of a Trainer made with ``logger=True`` or without ``logger``."""

    def leyden_default_strategy(self, trainer: Trainer, num_processes: int) -> Any:
        """Return the strategy (instance or name) for ``strategy="auto"`` and more than one process."""

    def leyden_find_checkpoint(self, trainer: Trainer, ckpt_path: str | None, fn: str) -> str | None:
        """Return the path of what a ``ckpt_path`` such as "best" names, "" for the weights as they are, or None.

        ``fn`` is what the user called: "fit", "validate", "test" or "predict". The run has not begun, and may still be
        refused. ``ckpt_path`` is None where none was given, in a fit or in another run without a model.
        """

    def leyden_describe_checkpoint(self, path: str) -> str | None:
        """Return what kind of checkpoint the local directory ``path`` is and what reads it, or None for one not known.

        It completes the sentence "'run.ckpt' is a directory: …" where a file is needed. A checkpoint callback removes
        a directory that another process wrote only where a plugin knows it.
        """

    def leyden_go_on(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
        """A fit goes on from a checkpoint that was found by a name such as "last", and so in the run that wrote it.

        All processes have met and read it, and nothing is restored from it yet; loggers have not agreed on their
        versions. A fit that is given the path of a checkpoint starts a run of its own.
        """

    def leyden_read_progress(self, trainer: Trainer, checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return how far the fit had come that wrote a checkpoint of another framework, or None for one not known.

        A fit is to go on from it. What is returned has attributes of ``trainer.progress`` and their values; what it
        lacks is as at the start of a fit.
        """

    def leyden_show_results(self, trainer: Trainer, stage: str, results: Sequence[Mapping[str, float]]) -> Any:
        """Show the results of a ``validate`` or ``test``, which are by dataloader, and return True; only on rank 0."""

    def leyden_prepare_loader(self, owner: Any, loader: Any, training: bool) -> Any:
        """Return the loader that a run reads; asked for each loader before its first batch.

        The core returns ``loader``, which has this process's part of the data. A plugin that puts another one in its
        place is a wrapper, so that several can: ``loader = yield``, then ``return`` another, made of this one.
        ``owner`` is the Trainer or the Fabric that runs; ``training`` says whether the loader is trained on, which a
        Fabric takes for granted.
        """

    def leyden_iteration(self) -> type[Any] | None:
        """Return the class of iterations over loaders, a subclass of ``leyden.plugins.Iteration``, or None.

        It says how a run that is resumed goes on in the middle of an epoch.
        """

    def leyden_rank_state(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """Return what an exact resume needs of this process, as plain data under the plugin's name, or None.

        It is called in every process when a checkpoint is made from which training can be resumed. What is in the
        ``state_dict`` of the module, a callback or an optimizer need not be in it.
        """

    def leyden_restore_rank_state(self, trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
        """Take back what ``leyden_rank_state`` returned; the module is on its device and has its optimizers.

        ``states`` has the mappings of the processes that saved, by rank, those of all plugins in one. They are not as
        many as ``trainer.world_size`` where a run goes on with another number of processes, which is not exact.
        """

    def leyden_seal(self, owner: Any, checkpoint: Mapping[str, Any], plain: dict[str, Any], dropped: list[str]) -> None:
        """Keep in ``plain``, the plain data of a checkpoint, what its values were; called before it is written.

        ``dropped`` has the paths of entries that are no plain data and are not in ``plain``; what is kept otherwise is
        taken off this list, and of the rest the user is warned. ``owner`` is the Trainer or the Fabric that saves. What
        is kept is put back in a wrapper of ``on_load_checkpoint``.
        """


class Observation:
    """What happens in a run, in the order of a fit.

    Nothing that an implementation answers is used, except the -1 of ``on_train_batch_start``.
    """

    def setup(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """A run begins; ``stage`` is "fit", "validate", "test" or "predict". The model is still where it was built."""

    def on_fit_start(self, trainer: Trainer, pl_module: Module) -> None:
        """The model is on its device and has its optimizers; before the sanity check."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: Module) -> None:
        """A few validation batches are about to be tried before training."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Module) -> None:
        """The sanity check is over; its metrics are forgotten."""

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Training is about to begin, after the sanity check."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """A training epoch begins."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, batch: Any, batch_idx: int) -> int | None:
        """A batch, already on the device, is about to be trained on. Return -1 to skip the rest of the epoch."""

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, trainer: Trainer, pl_module: Module, loss: Tensor) -> None:
        """Before ``loss.backward()``; ``loss`` is divided by the number of batches of its step already."""

    def on_after_backward(self, trainer: Trainer, pl_module: Module) -> None:
        """Gradients exist; under mixed precision they are still scaled."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:
        """Gradients are unscaled and not yet clipped; the optimizer is about to step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch has been trained on; ``outputs`` is ``{"loss": …}`` and what the step's dict held, detached."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """A training epoch ends. Implementations that read epoch metrics mark themselves ``trylast``."""

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Training is over."""

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Validation begins; the model is in evaluation mode."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the validation loaders begins."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Module, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch, already on the device, is about to be evaluated."""

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch has been evaluated; ``outputs`` is what ``validation_step`` returned."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the validation loaders is over; the last place to log from."""

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Validation is over and ``trainer.callback_metrics`` holds its results."""

    def on_test_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Testing begins; the model is in evaluation mode."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the test loaders begins."""

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: Module, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch, already on the device, is about to be evaluated."""

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch has been evaluated; ``outputs`` is what ``test_step`` returned."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the test loaders is over; the last place to log from."""

    def on_test_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Testing is over and ``trainer.callback_metrics`` holds its results."""

    def on_predict_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Prediction begins; the model is in evaluation mode."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the prediction loaders begins."""

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: Module, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch, already on the device, is about to be predicted."""

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch has been predicted; ``outputs`` is what ``predict_step`` returned."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """The pass over the prediction loaders is over."""

    def on_predict_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Prediction is over."""

    def on_fit_end(self, trainer: Trainer, pl_module: Module) -> None:
        """A fit is over; the last hook of a fit before ``teardown``."""

    def on_asked_to_end(self, trainer: Trainer, pl_module: Module, reason: str) -> None:
        """A fit ends at a step boundary, as something set ``trainer.asked_to_end``; save what is needed.

        All processes are at the same boundary, and ``reason`` is what one of them was given. ``on_exception`` follows,
        with the ``SIGTERMException`` that ends the fit.
        """

    def teardown(self, trainer: Trainer, pl_module: Module, stage: str) -> None:
        """A run is over and went well; after an error there is ``on_exception``."""

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """A run is ending because of ``exception`` (Ctrl-C included), which is raised again afterwards."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is complete and about to be written; add to it or change it in place.

        For one of weights alone, which has no "optimizer_states", only plugins and the module are called.
        """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read and nothing is restored from it yet; change it in place."""


class Behaviour:
    """How one thing is done. The first answer that is not None wins."""

    def leyden_optimize_batch(self, trainer: Trainer, pl_module: Module, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Train on one batch that is already on the device and return the outputs (``{}`` for a skipped batch).

        The core's implementation is ``trylast``; a plugin that returns a dict replaces it, one that
        returns None leaves the batch to it. An implementation counts its optimizer steps in
        ``trainer.progress.optimizer_steps``, and sets ``trainer.progress.stepped`` to False after a batch without one.
        """

    def leyden_wrap_batches(self, trainer: Trainer, pl_module: Module, batches: Iterable[Any]) -> Iterable[Any]:
        """Return an iterable of the same items in the place of an epoch's training batches, or None.

        Asked at the start of each training epoch. An item has the batch first; the rest is Leyden's own.
        """


GROUPS = (Registration, Observation, Behaviour)
REGISTRATION, OBSERVATION, BEHAVIOUR = ([name for name in vars(group) if not name.startswith("_")] for group in GROUPS)
RUN_HOOKS = (*OBSERVATION, *BEHAVIOUR)  # those that the participants of a run implement, too
ALL = (*REGISTRATION, *RUN_HOOKS)
RUN_ARGUMENTS = ("trainer", "pl_module")  # those that are the same in every call of a run
# The methods of a module or data module through which a batch goes to the device, in their order.
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def _declared(name: str) -> Any:
    """The function with which a hook is declared."""
    return next(vars(group)[name] for group in GROUPS if name in vars(group))


@cache
def facts(name: str) -> Hook:
    """What is known of a hook beside its arguments."""
    return next((known for pattern, known in FACTS.items() if re.fullmatch(pattern, name)), Hook())


# How one may log in the module's own methods, which nobody else implements, and in the hooks.
LOG_RULES: dict[str, LogRule] = {
    **dict.fromkeys(("training_step", "optimizer_step", "optimizer_zero_grad", "backward"), LOGS_STEPS),
    **dict.fromkeys(("lr_scheduler_step", "configure_gradient_clipping", *TRANSFER_HOOKS), LOGS_STEPS),
    **dict.fromkeys(("validation_step", "test_step"), LOGS_EVALUATION),
    **{name: rule for name in OBSERVATION if (rule := facts(name).logging) is not None},
}


def specification(name: str) -> Any:
    """A hook as pluggy takes it: marked, and without the defaults, which are for those who call a callback's method."""
    declared = _declared(name)
    function = FunctionType(declared.__code__, {}, name)
    marks = {**declared.__dict__.get(f"{PROJECT}_spec", {}), "firstresult": facts(name).answers is Answers.FIRST}
    return hookspec(function, **marks)


def arguments(name: str) -> tuple[str, ...]:
    """The arguments that a hook offers, in order."""
    code = _declared(name).__code__
    return code.co_varnames[1 : code.co_argcount]  # type: ignore[no-any-return]
