"""Hyperparameters: kept when a module or data module is made, and used again to make it from a checkpoint."""

import copy
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import torch
from typing_extensions import Self

from leyden.checkpoint.file import read_checkpoint, refuse_foreign
from leyden.plugin_system.discovery import discover
from leyden.utilities import AttributeDict, MisconfigurationException, rank_zero_warn

if TYPE_CHECKING:
    _class_only = classmethod
else:

    class _class_only(classmethod):
        """A class method that can't be called on an instance, since callers would expect it to change the instance."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return super().__get__(instance, owner)

            def refuse(*args: Any, **kwargs: Any) -> None:
                name = type(instance).__name__
                raise TypeError(f"load_from_checkpoint makes a new {name}; use {name}.load_from_checkpoint(path).")

            return refuse


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
        """
        self._log_hyperparams, self._hparams_name = logger, "kwargs"
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        given = _init_arguments(self, frame or sys._getframe(1))
        arguments = {name: value for name, value in given.items() if name not in ignored}
        chosen: Any = arguments
        if args and all(isinstance(arg, str) for arg in args):
            chosen = {name: arguments[name] for name in args if name in arguments}
        elif args:
            chosen = args[0]
            self._hparams_name = next((k for k, v in arguments.items() if v is chosen), "kwargs")
        # a base class's __init__ may have kept some already
        self.hparams.update((name, value) for name, value in _as_mapping(chosen).items() if name not in ignored)
        self._hparams_initial = _copy(self._hparams)

    @property
    def hparams(self) -> AttributeDict:
        """The hyperparameters, by attribute or by key; changes are saved with the next checkpoint."""
        if not hasattr(self, "_hparams"):
            self._hparams = AttributeDict()
        return self._hparams

    @property
    def hparams_initial(self) -> AttributeDict:
        """The hyperparameters as they were at the last ``save_hyperparameters``."""
        return _copy(self._hparams_initial) if hasattr(self, "_hparams_initial") else AttributeDict()


def _as_mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) and not hasattr(value, "__dict__"):
        raise ValueError(
            f"save_hyperparameters got {value!r}; give names of arguments, or one mapping, Namespace or dataclass."
        )
    return value if isinstance(value, Mapping) else vars(value)


def _copy(values: AttributeDict) -> AttributeDict:
    """Return a deep copy; values that can't be copied are shared."""
    copied = AttributeDict()
    for key, value in values.items():
        try:
            copied[key] = copy.deepcopy(value)
        except Exception:  # any error of a user's __deepcopy__ or of an open handle
            copied[key] = value
    return copied


def _init_arguments(instance: Any, frame: FrameType | None) -> dict[str, Any]:
    """Return the arguments of every ``__init__`` of ``instance`` on the stack; the most derived class has priority."""
    collected: dict[str, Any] = {}
    while frame is not None:
        names, _, keywords, values = inspect.getargvalues(frame)
        if frame.f_code.co_name == "__init__" and names and values.get(names[0]) is instance:
            collected.update((name, values[name]) for name in names[1:] if name in values)
            collected.update(values.get(keywords, {}) if keywords else {})
        elif collected:
            break
        frame = frame.f_back
    return collected


class ModuleLoading(HyperparametersMixin):
    """Gives a LightningModule ``load_from_checkpoint``."""

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
        """Make a module with the hyperparameters from a checkpoint, and load the checkpoint's weights.

        Args:
            checkpoint_path: A path, a URL, or an open file.
            map_location: The device for tensors, as in ``torch.load``; the CPU by default.
            hparams_file: A ``.yaml`` or ``.csv`` file of hyperparameters, a path or a URL, to use instead of those in
                the checkpoint.
            strict: Whether the checkpoint must have exactly the module's keys; by default the module's
                ``strict_loading``.
            weights_only: False also loads pickled objects, which runs code from the file.
            kwargs: Arguments for ``__init__`` that replace saved hyperparameters or add to them.

        Raises:
            MisconfigurationException: ``__init__`` needs an argument that the checkpoint does not have.
            UnknownComponentError: ``hparams_file`` is given but no installed plugin reads such files.
        """
        module, checkpoint = _make(cls, checkpoint_path, map_location, hparams_file, weights_only, kwargs)
        module.configure_model()
        module.on_load_checkpoint(checkpoint)
        strict = module.strict_loading if strict is None else strict
        missing, unexpected = module.load_state_dict(checkpoint["state_dict"], strict=strict)
        if missing or unexpected:
            rank_zero_warn(
                f"Loaded {cls.__name__} with strict=False: missing {list(missing)}, unexpected {list(unexpected)}."
            )
        if map_location is not None and not callable(map_location) and not isinstance(map_location, dict):
            module.to(torch.device(map_location))
        return module  # type: ignore[no-any-return]


class DataModuleLoading(HyperparametersMixin):
    """Gives a LightningDataModule ``load_from_checkpoint``."""

    @_class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str] | IO[bytes],
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a data module with the hyperparameters from a checkpoint, and load its state.

        The arguments are those of :meth:`ModuleLoading.load_from_checkpoint`.
        """
        datamodule, checkpoint = _make(cls, checkpoint_path, map_location, hparams_file, weights_only, kwargs)
        if (state := checkpoint.get(cls.__qualname__)) is not None:
            datamodule.load_state_dict(state)
        return datamodule  # type: ignore[no-any-return]


def _make(
    cls: type[HyperparametersMixin], path: Any, map_location: Any, hparams_file: Any, weights_only: Any, overrides: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a new instance with the hyperparameters from a checkpoint, and the checkpoint."""
    location = "cpu" if map_location is None else map_location
    checkpoint = refuse_foreign(read_checkpoint(path, location, weights_only), path)
    if hparams_file is not None:
        read = discover().component("logger_part", "load_hparams").load()
        checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY] = read(hparams_file)
    saved = arguments = dict(checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}))
    name = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME, "kwargs")
    if name not in ("kwargs", "", None) and name not in saved:
        arguments = {name: AttributeDict({**saved, **overrides.pop(name, {})})}
    arguments = {**arguments, **overrides}
    parameters = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    try:
        return cls(**arguments), checkpoint
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise MisconfigurationException(
            f"{cls.__name__} can't be made from the saved hyperparameters ({', '.join(saved) or 'none'}): {error}. "
            "Pass the missing arguments: load_from_checkpoint(path, name=value)."
        ) from error
