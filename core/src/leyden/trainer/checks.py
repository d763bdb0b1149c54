"""What is checked before a run, and touches nothing: the call, the module's methods, the loaders, the checkpoint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from leyden.data.combined import CombinedLoader
from leyden.data.loading import DataSource, refuse_if_not_iterable
from leyden.datamodule import LightningDataModule
from leyden.mixins.hooks import DataHooks
from leyden.module import LightningModule
from leyden.plugin_system.manager import published_by
from leyden.trainer.run import Run
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.states import RunningStage, TrainerFn
from leyden.utilities.storage import is_remote, local_path
from leyden.utilities.warnings import PossibleUserWarning

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

TRAINING = ("batch", "batch_idx")
EVALUATION = (*TRAINING, "dataloader_idx")
STAGES = {
    TrainerFn.VALIDATING: RunningStage.VALIDATING,
    TrainerFn.TESTING: RunningStage.TESTING,
    TrainerFn.PREDICTING: RunningStage.PREDICTING,
}


def prepare(
    trainer: Trainer,
    fn: TrainerFn,
    model: Any,
    loaders: dict[str, Any],
    datamodule: Any,
    ckpt_path: Any,
    weights_only: bool | None,
    **options: Any,
) -> Run:
    """The run that the user asks for, or an error that leaves everything as it was.

    Args:
        trainer: Whose run.
        fn: What the user called.
        model: The model; None for that of the last run.
        loaders: The loaders that were passed, by the prefix of their hooks; the first may be a data module.
        datamodule: The data module that was passed.
        ckpt_path: The checkpoint that was passed.
        weights_only: False lets the checkpoint hold objects, and so run code.
        options: Further arguments of the loop.

    Raises:
        MisconfigurationException: It can't run; the sentence says why. Other errors for a wrong model, loader or path.
    """
    if trainer.is_running:
        raise MisconfigurationException(
            f"Trainer.{fn}() was called within Trainer.{trainer.state.fn}(); call it after that, or with a Trainer of "
            "its own."
        )
    module = _find_module(model if model is not None else trainer.model, fn)
    loaders, datamodule = _find_data(loaders, datamodule)
    if fn is TrainerFn.FITTING:
        sources = _check_fit(trainer, module, datamodule, loaders)
    else:
        sources = _check_evaluation(fn, module, datamodule, loaders)
    as_it_is = ckpt_path is None and model is not None and fn is not TrainerFn.FITTING
    path = None if as_it_is else _find_checkpoint(trainer, fn, ckpt_path)
    return Run(trainer, fn, module, datamodule, sources, path, weights_only, **options)


def _find_module(model: Any, fn: TrainerFn) -> LightningModule:
    """The module of a run, or a sentence why there is none."""
    if model is None:
        raise TypeError(f"Trainer.{fn}() was called without a model, and no run has brought one before; pass model=.")
    inner = getattr(model, "_orig_mod", model)  # torch.compile wraps the module
    if not isinstance(inner, LightningModule):
        raise TypeError(f"Trainer.{fn}() needs a LightningModule, and was given a {type(model).__qualname__}.")
    if "_runner" not in vars(inner):
        raise MisconfigurationException(
            f"{type(inner).__name__}.__init__ does not call super().__init__(); call it first."
        )
    return inner


def _find_data(loaders: dict[str, Any], datamodule: Any) -> tuple[dict[str, Any], LightningDataModule | None]:
    """The loaders and the data module, of which only one may be given."""
    first = next(iter(loaders))
    if isinstance(loaders[first], LightningDataModule):
        loaders, datamodule = {**loaders, first: None}, loaders[first]
    if datamodule is not None and any(loader is not None for loader in loaders.values()):
        raise MisconfigurationException("Both loaders and a datamodule were given; give one of the two.")
    if datamodule is not None and not isinstance(datamodule, LightningDataModule):
        raise MisconfigurationException(f"datamodule={datamodule!r} is no LightningDataModule.")
    return loaders, datamodule


def _find_checkpoint(trainer: Trainer, fn: TrainerFn, ckpt_path: Any) -> str | None:
    """The path of the checkpoint to load, or None for the weights as they are."""
    name = os.fspath(ckpt_path) if isinstance(ckpt_path, os.PathLike) else ckpt_path
    if name is not None and not isinstance(name, str):
        raise TypeError(f'ckpt_path={ckpt_path!r} is no path; write one, or "best", "last" or "hpc".')
    hook = trainer.plugin_manager.hook.leyden_find_checkpoint
    found: str | None = hook(trainer=trainer, ckpt_path=name, fn=fn.value)
    if found is not None or name is None:
        return found or None
    if not is_remote(name) and not local_path(name).exists():
        message = f"There is no checkpoint at ckpt_path={name!r}."
        if published_by("checkpoint", name)[0]:
            advice = trainer.plugin_manager.advice(name, "checkpoint")
            message += f" What this name stands for is a plugin's to know: {advice}."
        raise FileNotFoundError(message)
    return name


def _check_evaluation(
    fn: TrainerFn, module: LightningModule, datamodule: LightningDataModule | None, loaders: dict[str, Any]
) -> dict[str, DataSource | None]:
    prefix = STAGES[fn].dataloader_prefix
    step = "validation_step" if fn is TrainerFn.VALIDATING else f"{prefix}_step"
    if fn is TrainerFn.PREDICTING:
        _require_prediction(module)
    else:
        _require(module, step, fn)
    _require_arguments(module, step, EVALUATION)
    return {prefix: _require_source(datamodule, module, prefix, loaders[prefix], fn)}


def _check_fit(
    trainer: Trainer, module: LightningModule, datamodule: LightningDataModule | None, loaders: dict[str, Any]
) -> dict[str, DataSource | None]:
    fn = TrainerFn.FITTING
    _require(module, "training_step", fn)
    _require(module, "configure_optimizers", fn)
    _require_arguments(module, "training_step", TRAINING)
    train = _require_source(datamodule, module, "train", loaders["train"], fn)
    val = _source(datamodule, module, "val", loaders["val"])
    steps = is_overridden("validation_step", module, LightningModule)
    if steps and val is None:
        rank_zero_warn("There is a validation_step and no val_dataloader: nothing is validated.", PossibleUserWarning)
    if not steps and val is not None:
        rank_zero_warn("There is a val_dataloader and no validation_step: nothing is validated.")
    if steps and val is not None and trainer.limit_val_batches > 0:
        _require_arguments(module, "validation_step", EVALUATION)
    if not module.automatic_optimization:
        _check_manual(trainer)
    return {"train": train, "val": val}


def _check_manual(trainer: Trainer) -> None:
    if trainer.gradient_clip_val:
        raise MisconfigurationException(
            f"gradient_clip_val={trainer.gradient_clip_val} has no meaning in manual optimisation; call "
            "self.clip_gradients before optimizer.step()."
        )
    if trainer.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches} has no meaning in manual optimisation; step "
            "the optimizer when you want to."
        )


def _require_prediction(model: LightningModule) -> None:
    own = any(is_overridden(name, model, LightningModule) for name in ("predict_step", "forward"))
    if not own or not callable(model.predict_step):
        raise MisconfigurationException(
            f"{type(model).__name__} has no predict_step and no forward; define one for Trainer.predict to call."
        )


def _require(model: LightningModule, method: str, fn: TrainerFn) -> None:
    if not is_overridden(method, model, LightningModule):
        raise MisconfigurationException(f"{type(model).__name__} has no {method}, which Trainer.{fn} needs; define it.")


def _require_arguments(model: LightningModule, name: str, offered: Sequence[str]) -> None:
    """Refuse a step that can't be called with the offered arguments, nor with the first ones of them."""
    signature = inspect.signature(getattr(model, name))
    if "dataloader_iter" in signature.parameters:
        raise MisconfigurationException(
            f"{type(model).__name__}.{name} takes dataloader_iter, but the loops draw the batches, so that a run can "
            "be resumed exactly; take batch. What should be read ahead of it belongs into the loader."
        )
    for count in range(len(offered), 0, -1):
        with suppress(TypeError):
            signature.bind(*offered[:count])
            return
    raise MisconfigurationException(
        f"{type(model).__name__}.{name}{signature} can't be called: it is given {', '.join(offered)}, or fewer; take "
        "these, and give others a default."
    )


def _source(
    datamodule: LightningDataModule | None, module: LightningModule, prefix: str, given: Any
) -> DataSource | None:
    hook = f"{prefix}_dataloader"
    if given is not None:
        source = DataSource(None, hook, given)
        for loader in CombinedLoader(given).flattened:
            refuse_if_not_iterable(loader, source)
        return source
    for owner in (datamodule, module):
        if owner is not None and is_overridden(hook, owner, DataHooks):
            return DataSource(owner, hook)
    return None


def _require_source(
    datamodule: LightningDataModule | None, module: LightningModule, prefix: str, given: Any, fn: TrainerFn
) -> DataSource:
    source = _source(datamodule, module, prefix, given)
    if source is None:
        who = type(datamodule or module).__name__
        raise MisconfigurationException(
            f"Trainer.{fn} needs a {prefix}_dataloader: pass one, or define {prefix}_dataloader in {who}."
        )
    return source
