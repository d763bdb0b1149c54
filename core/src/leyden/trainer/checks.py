"""What is checked before a run, and touches nothing: the call, the module's methods, the loaders, the checkpoint."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leyden.data.combined import CombinedLoader
from leyden.data.loading import DataSource, refuse_if_not_iterable
from leyden.datamodule import LightningDataModule
from leyden.mixins.hooks import DataHooks
from leyden.module import LightningModule
from leyden.plugin_system.manager import published_by
from leyden.utilities import MisconfigurationException, rank_zero_warn
from leyden.utilities.objects import is_overridden
from leyden.utilities.states import RunningStage, TrainerFn
from leyden.utilities.storage import is_remote, local_path
from leyden.utilities.warnings import PossibleUserWarning

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

OFFERED = ("batch", "batch_idx", "dataloader_idx")  # to a step; the last not to the training step


def check_call(
    trainer: Trainer, fn: TrainerFn, model: Any, loaders: dict[str, Any], datamodule: Any, ckpt_path: Any
) -> tuple[LightningModule, LightningDataModule | None, dict[str, DataSource | None], str | None, bool]:
    """What the run needs that the user asks for, or an error that leaves everything as it was.

    Args:
        trainer: Whose run.
        fn: What the user called.
        model: The model; None for that of the last run.
        loaders: The loaders that were passed, by the prefix of their hooks; the first may be a data module.
        datamodule: The data module that was passed.
        ckpt_path: The checkpoint that was passed.

    Returns:
        Module, data module, where the loaders come from by the prefix of their hooks, the checkpoint's path, and
        whether it was found by another name.

    Raises:
        MisconfigurationException: It can't run; the sentence says why. Other errors for a wrong model, loader or path.
    """
    if trainer.is_running:
        raise MisconfigurationException(
            f"Trainer.{fn}() was called within Trainer.{trainer.state.fn}(); call it later."
        )
    module = _find_module(model if model is not None else trainer.model, fn)
    loaders, datamodule = _find_data(loaders, datamodule)
    sources = _Call(trainer, fn, module, datamodule, loaders).check()
    as_it_is = ckpt_path is None and model is not None and fn is not TrainerFn.FITTING
    path = None if as_it_is else _find_checkpoint(trainer, fn, ckpt_path)
    return module, datamodule, sources, path, str(path) != str(ckpt_path)


def _find_module(model: Any, fn: TrainerFn) -> LightningModule:
    """The module of a run, or a sentence why there is none."""
    if model is None:
        raise TypeError(f"Trainer.{fn}() was called without a model, and no run has brought one before; pass model=.")
    inner = getattr(model, "_orig_mod", model)  # torch.compile wraps the module
    if not isinstance(inner, LightningModule):
        raise TypeError(f"Trainer.{fn}() needs a LightningModule, and was given a {type(model).__qualname__}.")
    if "_runner" not in vars(inner):
        raise MisconfigurationException(f"{type(inner).__name__}.__init__ must call super().__init__() first.")
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
    manager = trainer.plugin_manager
    found: str | None = manager.hook.leyden_find_checkpoint(trainer=trainer, ckpt_path=name, fn=fn.value)
    if found is not None or name is None:
        return found or None
    if not is_remote(name) and not local_path(name).exists():
        known = published_by("checkpoint", name)[0]
        advice = f" A plugin knows this name: {manager.advice(name, 'checkpoint')}." if known else ""
        raise FileNotFoundError(f"There is no checkpoint at ckpt_path={name!r}.{advice}")
    return name


@dataclass(frozen=True)
class _Call:
    """One call of ``fit``, ``validate``, ``test`` or ``predict``: what the module and its loaders must have for it."""

    trainer: Trainer
    fn: TrainerFn
    module: LightningModule
    datamodule: LightningDataModule | None
    loaders: dict[str, Any]

    def check(self) -> dict[str, DataSource | None]:
        """Refuse what can't run; returns where the loaders come from, by the prefix of their hooks."""
        if self.fn is TrainerFn.FITTING:
            return self._check_fit()
        prefix = RunningStage(self.fn).dataloader_prefix
        step = f"{'validation' if prefix == 'val' else prefix}_step"
        self._require(step, *(["forward"] if step == "predict_step" else []))
        self._require_arguments(step, OFFERED)
        return {prefix: self._source(prefix)}

    def _check_fit(self) -> dict[str, DataSource | None]:
        self._require("training_step")
        self._require("configure_optimizers")
        self._require_arguments("training_step", OFFERED[:2])
        train, val = self._source("train"), self._source("val", needed=False)
        steps = is_overridden("validation_step", self.module, LightningModule)
        if steps and val is None:
            rank_zero_warn(
                "There is a validation_step and no val_dataloader: nothing is validated.", PossibleUserWarning
            )
        if not steps and val is not None:
            rank_zero_warn("There is a val_dataloader and no validation_step: nothing is validated.")
        if steps and val is not None and self.trainer.limit_val_batches > 0:
            self._require_arguments("validation_step", OFFERED)
        if not self.module.automatic_optimization:
            self._refuse_in_manual("gradient_clip_val", (None, 0), "call self.clip_gradients before optimizer.step()")
            self._refuse_in_manual("accumulate_grad_batches", (1,), "step the optimizer when you want to")
        return {"train": train, "val": val}

    def _refuse_in_manual(self, name: str, off: tuple[Any, ...], instead: str) -> None:
        if (value := getattr(self.trainer, name)) not in off:
            raise MisconfigurationException(f"{name}={value} has no meaning in manual optimisation; {instead}.")

    def _require(self, method: str, *others: str) -> None:
        """Refuse a module that has neither the method nor one of the others, by which the method works."""
        names = (method, *others)
        own = any(is_overridden(name, self.module, LightningModule) for name in names)
        if not own or not callable(getattr(self.module, method)):
            missing = f"{type(self.module).__name__} has no {' and no '.join(names)}"
            raise MisconfigurationException(f"{missing}; define one for Trainer.{self.fn}.")

    def _require_arguments(self, name: str, offered: tuple[str, ...]) -> None:
        """Refuse a step that can't be called with the offered arguments, nor with the first ones of them."""
        step, signature = f"{type(self.module).__name__}.{name}", inspect.signature(getattr(self.module, name))
        if "dataloader_iter" in signature.parameters:
            raise MisconfigurationException(
                f"{step} takes dataloader_iter, but the loops draw the batches, so that a run can be resumed exactly; "
                "take batch, and let the loader read ahead."
            )
        for count in range(len(offered), 0, -1):
            with suppress(TypeError):
                signature.bind(*offered[:count])
                return
        raise MisconfigurationException(
            f"{step}{signature} can't be called: it is given {', '.join(offered)}, or fewer; take these, and give "
            "others a default."
        )

    def _source(self, prefix: str, needed: bool = True) -> DataSource | None:
        """Where the loaders come from: what was passed, else the data module, else the module."""
        hook, given = f"{prefix}_dataloader", self.loaders[prefix]
        if given is not None:
            source = DataSource(None, hook, given)
            for loader in CombinedLoader(given).flattened:
                refuse_if_not_iterable(loader, source)
            return source
        for owner in (self.datamodule, self.module):
            if owner is not None and is_overridden(hook, owner, DataHooks):
                return DataSource(owner, hook)
        if needed:
            who = type(self.datamodule or self.module).__name__
            raise MisconfigurationException(f"Trainer.{self.fn} needs a {hook}: pass one, or define {hook} in {who}.")
        return None
