"""``save_hyperparameters``: keep the arguments with which a module or data module was made."""

from __future__ import annotations

import copy
import inspect
from argparse import Namespace
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from leyden.utilities.objects import AttributeDict


class HyperparametersMixin:
    """Gives a class ``save_hyperparameters``, ``hparams`` and ``hparams_initial``.

    Attributes:
        CHECKPOINT_HYPER_PARAMS_KEY: Where checkpoints hold the hyperparameters.
        CHECKPOINT_HYPER_PARAMS_NAME: Where they hold the name of the argument that all of them came in.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    _log_hyperparams = False
    _hparams_name = "kwargs"

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: str | Iterable[str] | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep the arguments of ``__init__`` as ``self.hparams`` and in checkpoints; call it in ``__init__``.

        Args:
            args: Nothing, for all arguments; names of arguments; or one object (mapping, Namespace, dataclass)
                that holds the hyperparameters.
            ignore: Names to leave out.
            frame: The frame of the ``__init__``; the caller's by default.
            logger: Whether the Trainer's loggers record them at the start of a run.
        """
        if frame is None:
            current = inspect.currentframe()
            assert current is not None
            assert current.f_back is not None
            frame = current.f_back
        self._log_hyperparams = logger
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        arguments = {k: v for k, v in _init_arguments(self, frame).items() if k not in ignored}
        chosen: Any = arguments
        self._hparams_name = "kwargs"
        if args and all(isinstance(arg, str) for arg in args):
            chosen = {name: arguments[name] for name in args if name in arguments}
        elif args:
            chosen = args[0]
            self._hparams_name = next((k for k, v in arguments.items() if v is chosen), "kwargs")
        self._set_hparams(_as_mapping(chosen, ignored))
        self._hparams_initial = _copy(self._hparams)

    def _set_hparams(self, values: Mapping[str, Any]) -> None:
        """Add to what is kept already, as a base class's ``__init__`` may have kept some."""
        self._hparams = AttributeDict({**getattr(self, "_hparams", {}), **values})

    @property
    def hparams(self) -> AttributeDict:
        """The hyperparameters, by attribute or by key; changes are saved with the next checkpoint."""
        if not hasattr(self, "_hparams"):
            self._hparams = AttributeDict()
        return self._hparams

    @property
    def hparams_initial(self) -> AttributeDict:
        """The hyperparameters as they were when they were saved."""
        return _copy(self._hparams_initial) if hasattr(self, "_hparams_initial") else AttributeDict()


def _as_mapping(value: Any, ignored: set[str]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs: Mapping[str, Any] = value
    elif isinstance(value, Namespace) or hasattr(value, "__dict__"):
        pairs = vars(value)
    else:
        raise ValueError(
            f"save_hyperparameters got {value!r}; give names of arguments, or one mapping, Namespace or dataclass."
        )
    return {k: v for k, v in pairs.items() if k not in ignored}


def _copy(values: AttributeDict) -> AttributeDict:
    """A deep copy; what can't be copied is shared."""
    copied = AttributeDict()
    for key, value in values.items():
        try:
            copied[key] = copy.deepcopy(value)
        except Exception:  # whatever a user's __deepcopy__ or an open handle raises
            copied[key] = value
    return copied


def _init_arguments(instance: Any, frame: FrameType | None) -> dict[str, Any]:
    """The arguments of every ``__init__`` of ``instance`` on the stack; those of the most derived class win."""
    collected: dict[str, Any] = {}
    while frame is not None:
        if frame.f_code.co_name == "__init__" and any(
            frame.f_locals.get(n) is instance for n in frame.f_code.co_varnames[:1]
        ):
            collected.update(_frame_arguments(frame))
        elif collected:
            break
        frame = frame.f_back
    return collected


def _frame_arguments(frame: FrameType) -> dict[str, Any]:
    info = inspect.getargvalues(frame)
    arguments = {name: info.locals[name] for name in info.args[1:] if name in info.locals}
    if info.keywords:
        arguments.update(info.locals.get(info.keywords, {}))
    return arguments


def takes(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that the constructor of ``cls`` takes."""
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(values)
    return {name: value for name, value in values.items() if name in parameters}
