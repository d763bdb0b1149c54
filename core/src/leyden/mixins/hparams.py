"""Hyperparameters of modules and data modules; a plugin keeps them, and makes an object again from a checkpoint."""

import copy
import os
import sys
from collections.abc import Iterable
from functools import partial
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from typing_extensions import Self

from leyden.plugin_system.discovery import discover
from leyden.utilities import AttributeDict

if TYPE_CHECKING:
    _class_only = classmethod
else:

    class _class_only(classmethod):
        """A class method that can't be called on an instance, since callers would expect it to change the instance."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return super().__get__(instance, owner)
            return partial(_refuse, type(instance).__name__)


def _refuse(name: str, *args: Any, **kwargs: Any) -> None:
    raise TypeError(f"load_from_checkpoint makes a new {name}; use {name}.load_from_checkpoint(path).")


class HyperparametersMixin:
    """Gives a class ``save_hyperparameters``, ``hparams`` and ``hparams_initial``.

    Attributes:
        CHECKPOINT_HYPER_PARAMS_KEY: The key of the hyperparameters in a checkpoint.
        CHECKPOINT_HYPER_PARAMS_NAME: The key of the name of the ``__init__`` argument that held all hyperparameters.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    _log_hyperparams = False
    _hparams_name = "kwargs"

    def save_hyperparameters(
        self, *args: Any, ignore: str | Iterable[str] | None = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """Keep the arguments of ``__init__`` in ``self.hparams`` and in checkpoints; call it in ``__init__``.

        Args:
            args: Names of the arguments to keep, or one object (mapping, Namespace, dataclass) that holds the
                hyperparameters. Without ``args`` all arguments are kept.
            ignore: Names of arguments to leave out.
            frame: The frame of the ``__init__``; the caller's by default.
            logger: Whether the Trainer's loggers log the hyperparameters at the start of a run.

        Raises:
            ValueError: The one object is neither a mapping nor has attributes.
            UnknownComponentError: leyden-hparams, which keeps them, is not installed.
        """
        self._log_hyperparams = logger
        save = discover().component("hyperparameters", "save").load()
        save(self, args, ignore, frame or sys._getframe(1))

    @property
    def hparams(self) -> AttributeDict:
        """The hyperparameters, by attribute or by key; changes are saved with the next checkpoint."""
        hparams: AttributeDict = vars(self).setdefault("_hparams", AttributeDict())
        return hparams

    @property
    def hparams_initial(self) -> AttributeDict:
        """The hyperparameters as they were at the last ``save_hyperparameters``."""
        initial: AttributeDict = vars(self).get("_hparams_initial", AttributeDict())
        return copy.deepcopy(initial)


class CheckpointLoading(HyperparametersMixin):
    """Gives a LightningModule and a LightningDataModule ``load_from_checkpoint``."""

    @_class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str] | IO[bytes],
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a module, or a data module, with the hyperparameters from a checkpoint, and load its state.

        A hyperparameter of another type than plain data has comes back by what the code says of the parameter: the
        annotation or the default of ``__init__`` names an Enum, a dataclass or a named tuple.

        Args:
            checkpoint_path: A path, a URL, or an open file.
            map_location: The device for tensors, as in ``torch.load``; the CPU by default.
            hparams_file: A ``.yaml`` or ``.csv`` file of hyperparameters, a path or a URL, to use instead of those in
                the checkpoint.
            strict: Whether the checkpoint must have exactly the module's keys; by default the module's
                ``strict_loading``.
            weights_only: False also opens what is sealed or pickled, which runs code from the file.
            kwargs: Arguments for ``__init__`` that replace saved hyperparameters or add to them.

        Raises:
            MisconfigurationException: ``__init__`` needs an argument that the checkpoint does not have, or has only
                sealed.
            UnknownComponentError: The plugin that loads, or that reads ``hparams_file``, is not installed.
        """
        load = discover().component("checkpoint_loader", "hyperparameters").load()
        made: Self = load(cls, checkpoint_path, map_location, hparams_file, strict, weights_only, kwargs)
        return made
