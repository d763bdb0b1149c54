"""What is checked before a run touches anything: the module's methods, the loaders, and combinations."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from leyden.data.combined import CombinedLoader
from leyden.data.loading import DataSource, refuse_if_not_iterable
from leyden.mixins.hooks import DataHooks
from leyden.module import LightningModule
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.overriding import is_overridden
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.states import TrainerFn
from leyden.utilities.warnings import PossibleUserWarning

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

TRAINING = ("batch", "batch_idx")
EVALUATION = (*TRAINING, "dataloader_idx")


def find_module(model: Any, fn: TrainerFn) -> LightningModule:
    """The module of a run, or a sentence why there is none."""
    if model is None:
        raise TypeError(f"Trainer.{fn}() was called without a model, and no run has brought one before; pass model=.")
    inner = getattr(model, "_orig_mod", model)  # torch.compile wraps the module
    if not isinstance(inner, LightningModule):
        raise TypeError(f"Trainer.{fn}() needs a LightningModule, and was given a {type(model).__qualname__}.")
    if not hasattr(inner, "_trainer"):
        raise MisconfigurationException(
            f"{type(inner).__name__}.__init__ does not call super().__init__(); call it first."
        )
    return inner


def verify_run(trainer: Trainer, fn: TrainerFn, loaders: dict[str, Any]) -> None:
    """Refuse what can't run, and note where each stage's loaders come from."""
    if fn == TrainerFn.FITTING:
        return _verify_fit(trainer, loaders)
    model, loop = trainer.lightning_module, trainer.passes[fn]
    step, prefix = f"{loop.name}_step", loop.stage.dataloader_prefix
    if fn == TrainerFn.PREDICTING:
        _require_prediction(model)
    else:
        _require(model, step, fn)
    _require_arguments(model, step, EVALUATION)
    loop.source = _require_source(trainer, prefix, loaders[prefix], fn)


def _verify_fit(trainer: Trainer, loaders: dict[str, Any]) -> None:
    model, loop, fn = trainer.lightning_module, trainer.fit_loop, TrainerFn.FITTING
    _require(model, "training_step", fn)
    _require(model, "configure_optimizers", fn)
    _require_arguments(model, "training_step", TRAINING)
    loop.restart()
    loop.source = _require_source(trainer, "train", loaders["train"], fn)
    loop.validation.source = _source(trainer, "val", loaders["val"])
    steps = is_overridden("validation_step", model, LightningModule)
    if steps and loop.validation.source is None:
        rank_zero_warn("There is a validation_step and no val_dataloader: nothing is validated.", PossibleUserWarning)
    if not steps and loop.validation.source is not None:
        rank_zero_warn("There is a val_dataloader and no validation_step: nothing is validated.")
    if trainer.enable_validation:
        _require_arguments(model, "validation_step", EVALUATION)
    if not model.automatic_optimization:
        _verify_manual(trainer)


def _verify_manual(trainer: Trainer) -> None:
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


def _source(trainer: Trainer, prefix: str, given: Any) -> DataSource | None:
    hook = f"{prefix}_dataloader"
    if given is not None:
        source = DataSource(None, hook, given)
        for loader in CombinedLoader(given).flattened:
            refuse_if_not_iterable(loader, source)
        return source
    for owner in (trainer.datamodule, trainer.lightning_module):
        if owner is not None and is_overridden(hook, owner, DataHooks):
            return DataSource(owner, hook)
    return None


def _require_source(trainer: Trainer, prefix: str, given: Any, fn: TrainerFn) -> DataSource:
    source = _source(trainer, prefix, given)
    if source is None:
        who = type(trainer.datamodule or trainer.lightning_module).__name__
        raise MisconfigurationException(
            f"Trainer.{fn} needs a {prefix}_dataloader: pass one, or define {prefix}_dataloader in {who}."
        )
    return source
