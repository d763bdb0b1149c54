"""``load_from_checkpoint``: a module or data module from a file, with the arguments it was made with."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

import torch
from typing_extensions import Self

from leyden.checkpoint.file import read_checkpoint
from leyden.mixins.hparams import HyperparametersMixin, takes
from leyden.plugin_system.discovery import discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import AttributeDict
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    _class_only = classmethod
else:

    class _class_only(classmethod):
        """A class method that refuses an instance, whose state the caller would believe to be loaded."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return super().__get__(instance, owner)
            name = type(instance).__name__

            def refuse(*args: Any, **kwargs: Any) -> None:
                raise TypeError(
                    f"load_from_checkpoint makes a new {name}: call {name}.load_from_checkpoint(path) and keep that."
                )

            return refuse


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
        """Make a module with the hyperparameters of a checkpoint and load its weights.

        Args:
            checkpoint_path: A path, a URL, or an open file.
            map_location: Where to load tensors, as in ``torch.load``; the host by default.
            hparams_file: A ``.yaml`` or ``.csv`` file of hyperparameters, a path or a URL, in place of those of the
                checkpoint.
            strict: Whether the keys must be exactly the module's; ``strict_loading`` of the module by default.
            weights_only: False unpickles objects too, and so runs code from the file.
            kwargs: Arguments for ``__init__`` that replace or add to the saved ones.

        Raises:
            MisconfigurationException: ``__init__`` needs an argument that the checkpoint does not hold.
            UnknownComponentError: No installed plugin reads an ``hparams_file``.
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
        """Make a data module with the hyperparameters of a checkpoint and give it its state.

        The arguments are those of :meth:`ModuleLoading.load_from_checkpoint`.
        """
        datamodule, checkpoint = _make(cls, checkpoint_path, map_location, hparams_file, weights_only, kwargs)
        if (state := checkpoint.get(cls.__qualname__)) is not None:
            datamodule.load_state_dict(state)
        return datamodule  # type: ignore[no-any-return]


def _make(
    cls: type[HyperparametersMixin], path: Any, map_location: Any, hparams_file: Any, weights_only: Any, overrides: Any
) -> tuple[Any, dict[str, Any]]:
    """An instance with the hyperparameters of a checkpoint, and the checkpoint."""
    checkpoint = read_checkpoint(path, "cpu" if map_location is None else map_location, weights_only)
    if hparams_file is not None:
        checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY] = (
            discover().component("logger_part", "load_hparams").load()(hparams_file)
        )
    saved = arguments = dict(checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}))
    name = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME, "kwargs")
    if name not in ("kwargs", "", None) and name not in saved:
        arguments = {name: AttributeDict({**saved, **overrides.pop(name, {})})}
    try:
        return cls(**takes(cls, {**arguments, **overrides})), checkpoint
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise MisconfigurationException(
            f"{cls.__name__} can't be made from the saved hyperparameters ({', '.join(saved) or 'none'}): {error}. "
            "Pass what is missing: load_from_checkpoint(path, name=value)."
        ) from error
